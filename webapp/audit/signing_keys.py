"""The registry of public keys: whose signatures are believed.

An operator registers and retires keys; no process registers its own. Triggers record each change of
the table, whoever makes it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from webapp.audit.models import SigningKeyRow
from webapp.audit.signature import Keys, RegisteredKey, Signer
from webapp.db.session import in_utc
from webapp.http.errors import Conflict, Invalid, NotFound
from webapp.signing_key import fingerprint_of
from webapp.text import LINE, is_line

MAX_LABEL = 255

Registration = Literal["registered", "known", "restored"]
"""What a registration changed: a new key, nothing, or a key that was retired."""


@dataclass(frozen=True)
class ListedKey:
    """A registered key, for people."""

    fingerprint: str
    process: str
    label: str
    registered_at: datetime
    retired_at: datetime | None
    public_key: str
    """In hex."""


def read_keys(session: Session, fingerprints: Collection[str] | None = None) -> Keys:
    """Return the registered keys with these fingerprints, or all of them, retired ones too."""
    if fingerprints is not None and not fingerprints:
        return {}
    columns = (SigningKeyRow.public_key, SigningKeyRow.process, SigningKeyRow.retired_at)
    query = select(SigningKeyRow.fingerprint, *columns)
    if fingerprints is not None:
        query = query.where(SigningKeyRow.fingerprint.in_(sorted(fingerprints)))
    return {
        fingerprint: RegisteredKey(bytes(public), cast(Signer, process), retired_at is not None)
        for fingerprint, public, process, retired_at in session.execute(query)
    }


def register(session: Session, public: bytes, process: Signer, label: str) -> Registration:
    """Register the public key of a process; one that was retired is believed again.

    Raises `Conflict` for a key that another kind of process has, and `Invalid` for a label that is
    no line of text. The caller commits.
    """
    if not (label and is_line(label) and len(label) <= MAX_LABEL):
        raise Invalid(f"The label must be {LINE}, of {MAX_LABEL} characters at most.")
    row = session.get(SigningKeyRow, fingerprint_of(public), with_for_update=True)
    if row is None:
        values = {"public_key": public, "process": process, "label": label}
        session.execute(insert(SigningKeyRow).values(values))
        return "registered"
    if row.process != process:
        raise Conflict(f"Key {row.fingerprint} is registered for {row.process} already.")
    if row.retired_at is None:
        return "known"
    row.retired_at = None
    return "restored"


def retire(session: Session, fingerprint: str) -> bool:
    """Retire a key: what it has signed is believed no more, once this is committed.

    Returns whether it was believed until then. Raises `NotFound`. The caller commits.
    """
    row = session.get(SigningKeyRow, fingerprint, with_for_update=True)
    if row is None:
        raise NotFound(f"There is no key {fingerprint}.")
    if row.retired_at is not None:
        return False
    row.retired_at = session.scalars(select(func.clock_timestamp())).one()
    return True


def list_keys(session: Session) -> Sequence[ListedKey]:
    """List all keys, those that are believed first, each in the order of registration."""
    order = (SigningKeyRow.retired_at.is_not(None), SigningKeyRow.registered_at)
    return [
        ListedKey(
            fingerprint=row.fingerprint,
            process=row.process,
            label=row.label,
            registered_at=row.registered_at.astimezone(UTC),
            retired_at=in_utc(row.retired_at),
            public_key=row.public_key.hex(),
        )
        for row in session.scalars(select(SigningKeyRow).order_by(*order))
    ]
