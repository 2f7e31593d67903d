"""A notice posted to a webhook, signed as Standard Webhooks has it (standardwebhooks.com)."""

import hmac
from base64 import b64decode, b64encode
from uuid import UUID

import urllib3

from webapp.settings import WEBHOOK_SECRET_PREFIX

TIMEOUT = urllib3.Timeout(connect=5, read=10)


class Refused(Exception):
    """The receiver answered, and did not take it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")


def key_of(secret: str) -> bytes:
    """The key that a secret writes: what it has after its prefix, in base64."""
    return b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX))


def sign(secret: str, notice_id: UUID, timestamp: int, body: bytes) -> str:
    signed = f"{notice_id}.{timestamp}.".encode() + body
    return f"v1,{b64encode(hmac.digest(key_of(secret), signed, 'sha256')).decode()}"


def post(url: str, secret: str, notice_id: UUID, timestamp: int, body: bytes) -> None:
    """Raises `Refused` for any answer but success, else what urllib3 does."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Sightline",
        "webhook-id": str(notice_id),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, notice_id, timestamp, body),
    }
    with urllib3.PoolManager(timeout=TIMEOUT) as http:
        # Whoever answers may say whatever else, at any length: it is not read.
        answer = http.request(
            "POST",
            url,
            body=body,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
        )
        answer.close()
    if not 200 <= answer.status < 300:
        raise Refused(answer.status)
