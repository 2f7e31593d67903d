"""What a service's token lets it ask, as values: everything else is refused."""

from collections.abc import Iterator
from uuid import UUID

from webapp.elevations.elevation import ElevationRequest
from webapp.identity.principal import Bindings
from webapp.rules.engine.templates import BREAK_GLASS
from webapp.rules.rule import surfaces_covering

OWN = "admin"
"""What Sightline's own surfaces begin with. Only a pattern that begins so covers them."""


def find_refusals(
    bindings: Bindings, question: ElevationRequest, tenant_id: UUID | None
) -> dict[str, list[str]]:
    """What a service may not ask, by field of the question; empty if it may ask all of it.

    `tenant_id` is the tenant that the question names, if it is there.
    """
    return {field: [problem] for field, problem in _refusals(bindings, question, tenant_id)}


def _refusals(
    bindings: Bindings, question: ElevationRequest, tenant_id: UUID | None
) -> Iterator[tuple[str, str]]:
    if not _covers(bindings, question.surface):
        yield "surface", "is not among those that the token is bound to"
    if bindings.tenant_ids is not None and tenant_id not in bindings.tenant_ids:
        yield "tenant", "is not among those that the token is bound to"
    if question.reason.code == BREAK_GLASS and not bindings.break_glass:
        yield "reason.code", "must not be break_glass: the token is not bound to it"
    if question.principal.mfa and not bindings.reports_mfa:
        yield "principal.mfa", "must not be true: the token may not report a second factor"


def _covers(bindings: Bindings, surface: str) -> bool:
    patterns = set(surfaces_covering(surface))
    if surface.split(".")[0] == OWN:
        patterns.discard("*")
    return not patterns.isdisjoint(bindings.surfaces)
