"""Delivery to a mail server: encrypted beyond this host, unless it is said that it need not be."""

import ssl
import subprocess
from email.message import EmailMessage
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.grants.notices.channels import Mailbox, receiving_mail
from webapp.grants.notices import mail
from webapp.hardening.connections import PlaintextHosts, parse_hosts
from webapp.stack.servers import free_port

RECIPIENT = "somebody@example.org"
NO_HOSTS = PlaintextHosts()


def _authenticate(
    _: object, __: object, ___: object, ____: object, given: LoginPassword
) -> AuthResult:
    known = (given.login, given.password) == (b"us@er", b"pass/word")
    return AuthResult(success=known, handled=False, auth_data=given.login)


LOGIN: dict[str, Any] = {"authenticator": _authenticate}


def _message() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "sightline@example.org", RECIPIENT
    message.set_content("a notice")
    return message


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The TLS context of a server on this host, whose certificate clients trust."""
    key, crt = tmp_path / "key.pem", tmp_path / "crt.pem"
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(crt)]
    subprocess.run(["openssl", "req", *made, *names, *files], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(crt))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(crt, key)
    return context


def post(
    url: str, message: EmailMessage, recipient: str, plaintext: PlaintextHosts = NO_HOSTS
) -> None:
    mail.post(url, message, recipient, plaintext)


def _received(mailbox: Mailbox) -> bool:
    return mailbox.recipients == [RECIPIENT]


def test_mail_is_encrypted_when_the_server_offers_starttls(certificate: ssl.SSLContext) -> None:
    port = free_port()
    # The server takes no mail and no password in the clear.
    options: dict[str, Any] = {
        "tls_context": certificate,
        "require_starttls": True,
        "auth_required": True,
        **LOGIN,
    }
    with receiving_mail(port, **options) as mailbox:
        post(f"smtp://us%40er:pass%2Fword@127.0.0.1:{port}", _message(), RECIPIENT)
    assert _received(mailbox)
    assert mailbox.users == {b"us@er"}


def test_mail_over_smtps_is_encrypted_from_the_start(certificate: ssl.SSLContext) -> None:
    port = free_port()
    with receiving_mail(port, ssl_context=certificate) as mailbox:
        post(f"smtps://127.0.0.1:{port}", _message(), RECIPIENT)
    assert _received(mailbox)


def test_server_with_an_untrusted_certificate_gets_no_mail(
    certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    port = free_port()
    with receiving_mail(port, tls_context=certificate) as mailbox:
        with pytest.raises(ssl.SSLCertVerificationError):
            post(f"smtp://127.0.0.1:{port}", _message(), RECIPIENT)
        assert mailbox.mails == []


def test_wrong_password_raises_the_servers_refusal() -> None:
    port = free_port()
    with receiving_mail(port, auth_require_tls=False, **LOGIN) as mailbox:
        with pytest.raises(OSError, match="535"):
            post(f"smtp://us%40er:wrong@127.0.0.1:{port}", _message(), RECIPIENT)
        assert mailbox.mails == []


@pytest.mark.parametrize("login", ["", "us%40er:pass%2Fword@"])
def test_mail_is_never_sent_unencrypted_to_another_host(login: str) -> None:
    own = _own_address()
    port = free_port()
    with receiving_mail(port, "0.0.0.0", auth_require_tls=False, **LOGIN) as mailbox:  # noqa: S104 - the server needs an address other than loopback
        with pytest.raises(mail.InTheClear):
            post(f"smtp://{login}{own}:{port}", _message(), RECIPIENT)
        assert mailbox.mails == []
        post(f"smtp://{login}127.0.0.1:{port}", _message(), RECIPIENT)
    assert _received(mailbox)


def test_mail_is_sent_unencrypted_to_a_host_of_plaintext() -> None:
    own = _own_address()
    port = free_port()
    with receiving_mail(port, "0.0.0.0") as mailbox:  # noqa: S104 - the server needs an address other than loopback
        post(f"smtp://{own}:{port}", _message(), RECIPIENT, parse_hosts(own))
    assert _received(mailbox)


def _own_address() -> str:
    """An address of this host other than loopback."""
    with socket(AF_INET, SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this host has no other address")
        address: str = probe.getsockname()[0]
    return address
