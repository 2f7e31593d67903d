"""What a scope is shown of an event that it can check: each unit whole, or its digest alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from webapp.audit.models import AuditEventRow
from webapp.db.scopes import Scope, TenantScope
from webapp.db.session import ScopedSession
from webapp.http.errors import NotFound
from webapp.ledger.attempts import is_strangers
from webapp.ledger.export.lines import disclose
from webapp.ledger.sealing import published
from webapp.ledger.sealing.leaf import canonical_json
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
    """Prove that the log has an event that the scope sees; raises `NotFound` and `NotSealed`.

    The proof shows the event's units but for those that are withheld, of which it has digests: so
    whoever reads it can make the entry from it. Who is shown all of them is shown the signature
    too, of the process that first wrote the event.
    """
    row = session.get(AuditEventRow, event_id)
    if row is None:
        raise NotFound("There is no such event.")
    proof, leaf = published.prove(session, event_id)
    shown = disclose(row.event, withheld_in(session.scope, row.event), row.origin_signature)
    said = {"commitment": leaf.commitment, "series": leaf.series, **shown.line}
    return replace(proof, extra=canonical_json(said))
