"""Notices as plain-text mails, sent through an SMTP server."""

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

from webapp.hardening.connections import PlaintextHosts
from webapp.text import escaped

TIMEOUT = 10.0
"""Seconds to wait for each answer of the server."""

SUBMISSION, SUBMISSIONS = 587, 465


class InTheClear(Exception):
    """The server is another host and offers no encryption, and nobody has said that it may."""


def compose(notice_id: UUID, sender: str, recipient: str, body: Mapping[str, Any]) -> EmailMessage:
    """Compose the mail for a notice. Raises `ValueError` for an invalid address.

    Every mail of one notice has the same Message-ID, so that a mailbox recognizes a repeated mail.
    """
    data, domain = body["data"], sender.rpartition("@")[2]
    headline, ask = _TEXTS[body["type"]]
    message = EmailMessage()
    message["From"] = Address("Sightline", addr_spec=sender)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = _filled(headline, data)
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{notice_id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    # What people wrote must not imitate a line of the mail.
    facts = _member_facts(data) if "member" in data else _facts(data)
    lines = (f"{name:<9} {escaped(value)}" for name, value in facts if value)
    message.set_content(
        "\n".join((f"{_filled(headline, data)}.", "", *lines, "", ask, _url(data), ""))
    )
    return message


def post(url: str, message: EmailMessage, recipient: str, plaintext: PlaintextHosts) -> None:
    """Send a mail, beyond this host by TLS, unless `plaintext` has the server's name.

    Raises `OSError`, the base class of smtplib's exceptions, and `InTheClear`.
    """
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
        if not encrypted and host not in plaintext and not _is_this_host(connection):
            raise InTheClear
        if server.username:
            connection.login(unquote(server.username), unquote(server.password or ""))
        connection.send_message(message, to_addrs=[recipient])


def _is_this_host(connection: smtplib.SMTP) -> bool:
    assert connection.sock is not None  # noqa: S101 - the server has answered
    return ip_address(connection.sock.getpeername()[0]).is_loopback


_DECIDE = "To approve or deny the request, POST to /approve or /deny below"
_END = "To end the access, POST to /revoke below"
_READ = "You find it at"
_REVIEW = "Once it is over, somebody other than its holder must review it: POST to /review below"

_TEXTS = {
    "grant.asked": ("{holder} asks to access {where}", f"{_DECIDE}:"),
    "grant.approved": ("Your request to access {where} was approved", f"{_READ}:"),
    "grant.denied": ("Your request to access {where} was denied", f"{_READ}:"),
    "grant.revoked": ("Your access to {where} was revoked", f"{_READ}:"),
    "grant.expired": ("Your access to {where}, or your request for it, has expired", f"{_READ}:"),
    "grant.break_glass": ("{holder} used break-glass to access {where}", f"{_END}. {_REVIEW}:"),
    "member.joined": ("{member} is now {role} of {where}", f"{_READ}:"),
    "member.changed": ("{member} is now {role} of {where}", f"{_READ}:"),
    "member.left": ("{member} is no longer in {where}", f"{_READ}:"),
    "grant.reviewed": ("The use of break-glass by {holder} at {where} was reviewed", f"{_READ}:"),
}
"""The subject of a mail, and what its reader can do, by the type of the notice."""


def _filled(headline: str, data: Mapping[str, Any]) -> str:
    names = {name: escaped(data.get(name) or "") for name in ("holder", "member", "role")}
    return headline.format(where=escaped(data["tenant"] or "all tenants"), **names)


def _member_facts(member: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...]:
    return ("Who", member["member"]), ("Role", member["role"]), ("Before", member["former_role"])


def _facts(grant: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...]:
    minutes = grant["minutes"]
    return (
        ("What", ", ".join(grant["surfaces"])),
        ("Why", grant["reason"]),
        ("Ticket", grant["ticket"]),
        ("Note", grant["note"]),
        ("How long", f"{minutes} {'minute' if minutes == 1 else 'minutes'}"),
        ("Until", grant["ends_at"]),
        ("Ended by", grant["closed_by"]),
        ("Reviewed", grant["reviewed_by"]),
        ("Review", grant["review"]),
    )


def _url(data: Mapping[str, Any]) -> str:
    return f"  {data['url']}"
