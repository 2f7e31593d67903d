"""Strangers' refused attempts in a list of events: those of a page that are alike make one line.

A stranger may leave many events within a moment, and each stays for good. They would push whatever
else happened off a tenant's page. Which events a page stands for does not change by that: each
event is on one page, shown there or counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from webapp.audit.models import AuditEventRow
from webapp.identity.principal import STAFF_ROLES

MOST = 1000
"""Events at most for which a page stands that groups attempts, beyond those that it reads first."""

MILLISECOND = timedelta(milliseconds=1)
"""The precision of an event's moment."""

Kind = tuple[str, ...]
"""What attempts have in common that make one line."""


@dataclass(frozen=True)
class Attempts:
    """The attempts that a line stands for."""

    count: int
    first_at: datetime
    last_at: datetime

    def with_another(self, at: datetime) -> "Attempts":
        return Attempts(self.count + 1, min(self.first_at, at), max(self.last_at, at))


def is_strangers(event: Mapping[str, Any]) -> bool:
    """Whether a refused attempt was that of somebody who is neither a member nor of the staff."""
    roles, own = event["actor"]["roles"], f"{event['scope']['tenant']}:"
    known = any(role in STAFF_ROLES or role.startswith(own) for role in roles)
    return event["outcome"] == "denied" and not known


class Lines:
    """The lines of a page while it is read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: list[tuple[AuditEventRow, Kind | None]] = []
        self._attempts: dict[Kind, Attempts] = {}
        self.last: AuditEventRow | None = None
        """The last event that a line stands for."""

    def add(self, row: AuditEventRow) -> bool:
        """Add the list's next event; return whether the page has room for it."""
        kind = _kind(row.event) if is_strangers(row.event) else None
        if kind is not None and kind in self._attempts:
            self._attempts[kind] = self._attempts[kind].with_another(row.occurred_at)
        elif len(self._lines) == self._limit:
            return False
        else:
            self._lines.append((row, kind))
            if kind is not None:
                self._attempts[kind] = Attempts(1, row.occurred_at, row.occurred_at)
        self.last = row
        return True

    @property
    def want_more(self) -> bool:
        """Whether to look at further events: there is room, or the last one may have its like."""
        is_attempt = self.last is not None and is_strangers(self.last.event)
        return is_attempt or len(self._lines) < self._limit

    @property
    def rows(self) -> list[tuple[AuditEventRow, Attempts | None]]:
        """Each line's first event, and the attempts that it stands for if there are several."""
        return [(row, self._several(kind)) for row, kind in self._lines]

    def _several(self, kind: Kind | None) -> Attempts | None:
        attempts = None if kind is None else self._attempts[kind]
        return attempts if attempts and attempts.count > 1 else None


def _kind(event: Mapping[str, Any]) -> Kind:
    actor, scope = event["actor"], event["scope"]
    tenant = scope["tenant"] or ""
    return actor["id"], actor["email"], event["surface"], event["decision"]["effect"], tenant
