"""What a stranger may put into a queue."""

import json
from base64 import b64encode
from typing import Any
from uuid import uuid4

from webapp.audit.relay.pipeline import COMMIT_TASK


def envelope(body: bytes | str, **changes: Any) -> dict[str, Any]:
    """A message as kombu writes it, with headers that name a task."""
    made = {
        "body": body if isinstance(body, str) else b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": COMMIT_TASK, "id": str(uuid4()), "lang": "py"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
            "delivery_info": {"exchange": "", "routing_key": "audit"},
        },
    }
    return made | changes


BRACKETS = b"[" * 600 + b"]" * 600

GARBAGE = [
    b"garbage",
    b"",
    b"[]",
    b"{}",
    b"null",
    b"7",
    b'"text"',
    b"\xff\xfe\x00",
    BRACKETS,
    b"[" * 100_000,
    b'{"__type__": "x", "__value__": 1}',
    b'{"body": ' + BRACKETS + b"}",
    json.dumps({"body": "", "content-type": "x", "properties": []}).encode(),
    json.dumps({"body": 1, "content-type": "x", "properties": {}}).encode(),
]
