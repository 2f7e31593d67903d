"""The series that an event is numbered in, and their labels."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from webapp.ledger.sealing.leaf import Series, encode_bytes

ALL = "all"
"""The series of accesses that every tenant sees, but for those that they left out."""
PLATFORM = "platform"
"""The series of events that concern no tenant."""
HEARTBEAT = "heartbeat"

LABEL_BYTES = 16


def tenant_of(event: Mapping[str, Any]) -> UUID | None:
    """The tenant whose series an event is in; `None` where it is in no tenant's."""
    tenant_id = event["scope"]["tenant_id"]
    return None if tenant_id is None else UUID(tenant_id)


def label_of(event: Mapping[str, Any], secret: bytes) -> str:
    """The label of an event's series, which follows from what the event itself says."""
    tenant_id = tenant_of(event)
    if tenant_id is not None:
        return label_of_tenant(tenant_id, secret)
    seen_by_all = (
        event["scope"]["kind"] == "global"
        and event["kind"] == "access"
        and event["decision"]["effect"] == "allowed"
    )
    return ALL if seen_by_all else PLATFORM


def label_of_tenant(tenant_id: UUID, secret: bytes) -> str:
    """The label of a tenant's series, which tells nobody whose it is."""
    return encode_bytes(hmac.digest(secret, str(tenant_id).encode(), "sha256")[:LABEL_BYTES])


@dataclass
class Numbering:
    """The last number of each series, while entries are numbered."""

    last: dict[str, int]
    tenants: dict[str, UUID] = field(default_factory=dict)
    """The tenants of the labels that were used."""
    _used: set[str] = field(default_factory=set)

    def number(self, label: str, tenant_id: UUID | None = None) -> Series:
        """Give the next number of a series."""
        self.last[label] = number = self.last.get(label, 0) + 1
        self._used.add(label)
        if tenant_id is not None:
            self.tenants[label] = tenant_id
        return label, number

    @property
    def changed(self) -> dict[str, int]:
        return {label: self.last[label] for label in sorted(self._used)}
