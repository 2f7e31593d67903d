"""Origin signatures: which process first wrote an event, shown by public keys alone.

Ed25519 (RFC 8032) over the event's canonical bytes. A process has a private key of its own, and the
ledger the public keys of all of them: so nobody makes a record with what a worker, the broker or
the database know.
"""

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from webapp.audit.event import AuditEvent, EventError, load_event
from webapp.db.row_security import OWN_JOURNAL
from webapp.signing_key import SigningKey, fingerprint_of

Sign = Callable[[bytes], str]
"""Signs an event's canonical bytes."""

Signer = Literal["web", "worker", "commands"]
"""A kind of process that signs events."""

CONTEXT = b"sightline event v1\n"
"""What is signed before the canonical bytes, so that a signature stands for an event only."""

THREADS = min(4, os.cpu_count() or 1)
"""Threads that check one delivery's signatures."""

WORTH_A_THREAD = 50
"""Signatures for which a thread is started."""

Signed = tuple[bytes, str]
"""An event's canonical bytes, and the signature over them."""

_COMMAND = ("commands", "CLI")
"""The process, and the `request.method` of an access, of what a command reads."""

_SIGNATURE = re.compile(r"([0-9a-f]{16}):([A-Za-z0-9_-]{85}[AQgw])")


def sign_event(key: SigningKey, data: bytes) -> str:
    """The signature over an event's canonical bytes, after the fingerprint of its key."""
    made = urlsafe_b64encode(key.sign(CONTEXT + data)).rstrip(b"=")
    return f"{key.fingerprint}:{made.decode()}"


@dataclass(frozen=True)
class RegisteredKey:
    """The public key of a process, as the registry has it."""

    public: bytes
    process: Signer
    retired: bool = False

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.public)


Keys = Mapping[str, RegisteredKey]
"""Registered keys, by their fingerprints."""


def named_key(signature: str) -> str | None:
    """The fingerprint of the key that a signature names; `None` for a text that is no signature."""
    found = _SIGNATURE.fullmatch(signature)
    return found[1] if found else None


def check_signature(data: bytes, signature: str, keys: Keys) -> RegisteredKey:
    """Return the key that has signed canonical bytes; raises `EventError`.

    A retired key is believed no more, whenever it has signed: whoever stole it chooses the moment
    that an event names.
    """
    found = _SIGNATURE.fullmatch(signature)
    if found is None:
        raise EventError("not a signature")
    fingerprint, text = found.groups()
    key = keys.get(fingerprint)
    if key is None:
        raise EventError(f"signed by key {fingerprint}, which is not registered")
    if key.retired:
        raise EventError(f"signed by key {fingerprint}, which is retired")
    try:
        _public_key(key.public).verify(urlsafe_b64decode(f"{text}=="), CONTEXT + data)
    except InvalidSignature:
        raise EventError(f"not what key {fingerprint} has signed") from None
    return key


def check_signatures(signed: Sequence[Signed], keys: Keys) -> list[RegisteredKey | EventError]:
    """Check many signatures likewise, on all cores: checking one needs no interpreter's lock."""
    size = -(-len(signed) // THREADS)
    if size < WORTH_A_THREAD:
        return _check_each(signed, keys)
    parts = [signed[start : start + size] for start in range(0, len(signed), size)]
    with ThreadPoolExecutor(THREADS) as threads:
        checked = threads.map(partial(_check_each, keys=keys), parts)
        return list(chain.from_iterable(checked))


def _check_each(signed: Sequence[Signed], keys: Keys) -> list[RegisteredKey | EventError]:
    checked: list[RegisteredKey | EventError] = []
    for data, signature in signed:
        try:
            checked.append(check_signature(data, signature, keys))
        except EventError as error:
            checked.append(error)
    return checked


def load_journaled(data: bytes, key: RegisteredKey) -> AuditEvent:
    """Load an event of a journal that a key has signed; raises `EventError`.

    Only web processes have journals.
    """
    if key.process != "web":
        raise EventError(f"signed by key {key.fingerprint} of a {key.process} process")
    event = load_event(data)
    if event.origin is not None and event.origin.journal == OWN_JOURNAL:
        raise EventError("numbered as an event that has no journal")
    return event


def may_sign(process: Signer, event: AuditEvent) -> bool:
    """Whether an event is believed under the key of a kind of process.

    An access is, under that of a web process only, but for what a command reads itself. Workers and
    commands sign the changes that they make, which no journal has numbered.
    """
    if process == "web":
        return True
    own = event.origin is not None and event.origin.journal == OWN_JOURNAL
    return own and (event.kind == "change" or (process, event.request.method) == _COMMAND)


@lru_cache(1024)
def _public_key(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)
