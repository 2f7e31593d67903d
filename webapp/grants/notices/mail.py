"""A notice as a mail in plain text, and the way to any SMTP server."""

import smtplib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

TIMEOUT = 10.0
"""Seconds for each step of a conversation with the server."""

SUBMISSION, SUBMISSIONS = 587, 465


class InTheClear(Exception):
    """The server wants a password and offers no encryption to send it through."""


def compose(notice_id: UUID, sender: str, recipient: str, body: Mapping[str, Any]) -> EmailMessage:
    """The mail that says what a notice's body does; raises `ValueError` for what is no address.

    The same notice has the same id each time, by which a mailbox knows a repeated one.
    """
    grant, domain = body["data"], sender.rpartition("@")[2]
    headline, ask = _TEXTS[body["type"]]
    message = EmailMessage()
    message["From"] = Address("Sightline", addr_spec=sender)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = _filled(headline, grant)
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{notice_id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    lines = (f"{name:<9} {value}" for name, value in _facts(grant) if value)
    message.set_content(
        "\n".join((f"{_filled(headline, grant)}.", "", *lines, "", ask, _url(grant), ""))
    )
    return message


def post(url: str, message: EmailMessage, recipient: str) -> None:
    """Raises `OSError`, of which smtplib's exceptions are, and `InTheClear`."""
    server = urlsplit(url)
    host, context = server.hostname or "", ssl.create_default_context()
    encrypted = server.scheme == "smtps"
    connection = (
        smtplib.SMTP_SSL(host, server.port or SUBMISSIONS, timeout=TIMEOUT, context=context)
        if encrypted
        else smtplib.SMTP(host, server.port or SUBMISSION, timeout=TIMEOUT)
    )
    with connection:
        connection.ehlo()
        if not encrypted and connection.has_extn("starttls"):
            connection.starttls(context=context)
            encrypted = True
        if server.username:
            if not encrypted and not _is_this_host(connection):
                raise InTheClear
            connection.login(unquote(server.username), unquote(server.password or ""))
        connection.send_message(message, to_addrs=[recipient])


def _is_this_host(connection: smtplib.SMTP) -> bool:
    assert connection.sock is not None  # noqa: S101 - it has answered
    return ip_address(connection.sock.getpeername()[0]).is_loopback


_DECIDE = "To approve it or to deny it, POST to /approve or /deny below"
_END = "To end it, POST to /revoke below"
_READ = "It is to be found at"
_REVIEW = "Once it is over, somebody else than its holder must review it: POST to /review below"

_TEXTS = {
    "grant.asked": ("{holder} asks to access {where}", f"{_DECIDE}:"),
    "grant.approved": ("Your request to access {where} was approved", f"{_READ}:"),
    "grant.denied": ("Your request to access {where} was denied", f"{_READ}:"),
    "grant.revoked": ("Your leave to access {where} was revoked", f"{_READ}:"),
    "grant.expired": (
        "Your leave to access {where}, or your request for it, is over",
        f"{_READ}:",
    ),
    "grant.break_glass": ("{holder} has break-glass to access {where}", f"{_END}. {_REVIEW}:"),
    "grant.reviewed": (
        "The glass that {holder} broke to access {where} was reviewed",
        f"{_READ}:",
    ),
}
"""What a mail begins with, also as its subject, and what there is to do, by the body's type."""


def _filled(headline: str, grant: Mapping[str, Any]) -> str:
    return headline.format(holder=grant["holder"], where=grant["tenant"] or "all tenants")


def _facts(grant: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...]:
    minutes = grant["minutes"]
    return (
        ("What", ", ".join(grant["surfaces"])),
        ("Why", grant["reason"]),
        ("Ticket", _line(grant["ticket"])),
        ("Note", _line(grant["note"])),
        ("How long", f"{minutes} {'minute' if minutes == 1 else 'minutes'}"),
        ("Until", grant["ends_at"]),
        ("Ended by", grant["closed_by"]),
        ("Reviewed", grant["reviewed_by"]),
        ("Review", _line(grant["review"])),
    )


def _line(text: str | None) -> str | None:
    """What somebody wrote, on one line: it cannot pass for a line of ours."""
    return text and " ".join(text.split())


def _url(grant: Mapping[str, Any]) -> str:
    return f"  {grant['url']}"
