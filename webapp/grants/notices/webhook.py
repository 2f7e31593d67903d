"""Notices posted to a webhook, signed by Standard Webhooks (https://www.standardwebhooks.com)."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterable
from uuid import UUID

import urllib3

from webapp.settings import WEBHOOK_SECRET_PREFIX

TIMEOUT = urllib3.Timeout(connect=5, read=10)


class Refused(Exception):
    """The receiver answered with a status other than success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")


def key_of(secret: str) -> bytes:
    """Decode the key of a secret: the base64 text after the prefix."""
    return b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX))


def sign(secrets: Iterable[str], notice_id: UUID, timestamp: int, body: bytes) -> str:
    """Return a signature for each secret: a receiver goes by the one that it knows."""
    signed = f"{notice_id}.{timestamp}.".encode() + body
    macs = (hmac.digest(key_of(secret), signed, "sha256") for secret in secrets)
    return " ".join(f"v1,{b64encode(mac).decode()}" for mac in macs)


def post(url: str, secrets: Iterable[str], notice_id: UUID, timestamp: int, body: bytes) -> None:
    """Post a notice. Raises `Refused` if the receiver refuses it, and urllib3's exceptions."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Sightline",
        "webhook-id": str(notice_id),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, notice_id, timestamp, body),
    }
    with urllib3.PoolManager(timeout=TIMEOUT) as http:
        # The body of the answer is not read: a receiver may send anything, at any length.
        response = http.request(
            "POST",
            url,
            body=body,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
        )
        response.close()
    if not 200 <= response.status < 300:
        raise Refused(response.status)
