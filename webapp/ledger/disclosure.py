"""What a scope is shown of an event that it can check: each unit whole, or its digest alone."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from webapp.audit.models import AuditEventRow
from webapp.db.scopes import Scope, TenantScope
from webapp.db.session import ScopedSession
from webapp.http.errors import NotFound
from webapp.ledger.attempts import is_strangers
from webapp.ledger.sealing import published
from webapp.ledger.sealing.proof import InclusionProof


def withheld_in(scope: Scope | None, event: Mapping[str, Any]) -> frozenset[str]:
    """The units of an event that a scope is not shown.

    They are those of which a list in that scope leaves something out: a unit with something left
    out could not be checked.
    """
    if not isinstance(scope, TenantScope):
        return frozenset()
    withheld = {"excluded"}
    if event["scope"]["kind"] == "global":
        withheld.add("request")  # what was looked for at all tenants
    if is_strangers(event):
        withheld |= {"request", "reason"}  # a stranger's own words
    return frozenset(withheld)


def prove_event(session: ScopedSession, event_id: UUID) -> InclusionProof:
    """Prove that the log has an event that the scope sees; raises `NotFound` and `NotSealed`."""
    row = session.get(AuditEventRow, event_id)
    if row is None:
        raise NotFound("There is no such event.")
    return published.prove(session, event_id, row.event, withheld_in(session.scope, row.event))
