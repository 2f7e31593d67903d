"""Tells tenants that their rules take too long to prepare, so that they count as having denied.

Each tenant is told by an audit event that its admins see among the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby, islice
from operator import attrgetter
from threading import Lock
from uuid import UUID

import structlog
from cachetools import TTLCache
from flask import Flask, current_app

from webapp.audit.event import AuditEvent, EventDecision, EventScope
from webapp.audit.journal.service import JournalFailed
from webapp.audit.operation import SIGHTLINE, change, origin
from webapp.audit.relay.pipeline import current_journal
from webapp.rules.engine.evaluate import Candidate
from webapp.rules.rule_sets import NAMED, describe_rules

_EXTENSION = "decisions.over_budget"

PAUSE = 3600
"""Seconds in which a process tells a tenant once."""

MAX_TOLD = 10_000

log = structlog.get_logger()


class _Told:
    """The tenants that this process has told within PAUSE."""

    def __init__(self) -> None:
        self._tenants: TTLCache[UUID | None, bool] = TTLCache(MAX_TOLD, PAUSE)
        self._lock = Lock()

    def add(self, tenant_id: UUID | None) -> bool:
        """Add a tenant; `False` if it was there already."""
        with self._lock:
            is_new = tenant_id not in self._tenants
            if is_new:
                self._tenants[tenant_id] = True
            return is_new


def init_app(app: Flask) -> None:
    app.extensions[_EXTENSION] = _Told()


def tell_tenants(over_budget: Iterable[Candidate], surface: str) -> None:
    """Record for each tenant among these rules' owners that it is over the budget on a surface."""
    told: _Told = current_app.extensions[_EXTENSION]
    by_tenant = sorted(over_budget, key=attrgetter("tenant_id", "id"))
    events = [
        _event(tenant_id, list(rules), surface)
        for tenant_id, rules in groupby(by_tenant, attrgetter("tenant_id"))
        if told.add(tenant_id)
    ]
    if not events:
        return
    try:
        current_journal().finalize_later(events)
    except JournalFailed as error:
        log.error("over_budget_not_told", tenants=len(events), exc_info=error)


def _event(tenant_id: UUID, rules: Sequence[Candidate], surface: str) -> AuditEvent:
    slug, count = next((c.rule.tenant for c in rules if c.rule is not None), None), len(rules)
    if slug is None:  # they were not even loaded
        described = describe_rules(tenant_id, surface)
        slug, count, rules = described.tenant, described.rules, described.named
    named = tuple(candidate.id for candidate in islice(rules, NAMED))
    event = change(
        "rules.over_budget",
        origin("DECISION", surface),
        actor=SIGHTLINE,
        scope=EventScope(kind="tenant", tenant=slug, tenant_id=tenant_id),
        rows=count,
    )
    return replace(event, decision=EventDecision("denied", rule_ids=named), outcome="denied")
