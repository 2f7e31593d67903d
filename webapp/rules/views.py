"""The rules over HTTP: /admin/api/rules."""

from typing import Any
from uuid import UUID

from flask import Response, url_for

from webapp.http.etags import required_version, row_etag
from webapp.http.parsing import Blueprint
from webapp.identity.principal import STAFF_ROLES, TENANT_ROLES
from webapp.rules import service
from webapp.rules.rule import KIND, HistoryQuery, Rule, RuleQuery
from webapp.rules.schemas import (
    HistoryQuerySchema,
    RuleCreateSchema,
    RuleHistorySchema,
    RulePageSchema,
    RulePatchSchema,
    RuleQuerySchema,
    RuleSchema,
)
from webapp.rules.simulation.schemas import SimulationRequestSchema, SimulationSchema
from webapp.rules.simulation.service import (
    Simulation,
    propose,
    simulate_access,
    simulate_history,
)
from webapp.scope.answers import respond, respond_cached, respond_empty, respond_page
from webapp.scope.surface import current_principal, current_scope, surface

blueprint = Blueprint(
    "rules",
    __name__,
    url_prefix="/admin/api/rules",
    description="The rules that decide accesses beyond one's own tenant.",
)


@blueprint.route("")
@surface(
    "admin.rules.list",
    tenant_roles=TENANT_ROLES,
    platform_roles=STAFF_ROLES,
    caches=(KIND,),
)
@blueprint.arguments(RuleQuerySchema, location="query")
@blueprint.response(200, RulePageSchema)
def list_rules(query: RuleQuery) -> Response:
    """List rules

    In a tenant's scope you see that tenant's rules. In the scope `global` you see the rules of the
    platform and of all tenants.
    """
    return respond_cached(service.list_rules(current_scope(), query))


@blueprint.route("", methods=["POST"])
@surface("admin.rules.create", tenant_roles=("admin",), platform_roles=("owner",), changes=True)
@blueprint.arguments(RuleCreateSchema)
@blueprint.response(201, RuleSchema)
def create_rule(draft: dict[str, Any]) -> Response:
    """Add a rule

    In a tenant's scope the rule belongs to that tenant. In the scope `global`, `tenant` names the
    owner; null or absent means the platform.
    """
    rule = service.create_rule(current_scope(), draft, current_principal().email)
    response = _respond(rule, 201)
    response.headers["Location"] = url_for("rules.read_rule", rule_id=rule.id)
    return response


@blueprint.route("/<uuid:rule_id>")
@surface("admin.rules.read", tenant_roles=TENANT_ROLES, platform_roles=STAFF_ROLES)
@blueprint.response(200, RuleSchema)
def read_rule(rule_id: UUID) -> Response:
    """Read a rule"""
    return _respond(service.get_rule(rule_id))


@blueprint.route("/<uuid:rule_id>", methods=["PATCH"])
@surface("admin.rules.update", tenant_roles=("admin",), platform_roles=("owner",), changes=True)
@blueprint.arguments(RulePatchSchema)
@blueprint.response(200, RuleSchema)
def update_rule(changes: dict[str, Any], rule_id: UUID) -> Response:
    """Change a rule

    A field that is absent stays as it is; a field that is sent is replaced as a whole. `If-Match`
    names the version that you change.
    """
    rule = service.update_rule(
        rule_id, required_version(rule_id), changes, current_principal().email
    )
    return _respond(rule)


@blueprint.route("/<uuid:rule_id>", methods=["DELETE"])
@surface("admin.rules.delete", tenant_roles=("admin",), platform_roles=("owner",), changes=True)
@blueprint.response(204)
def delete_rule(rule_id: UUID) -> Response:
    """Delete a rule

    The rule counts no more, but its history stays. `If-Match` names the version that you delete.
    """
    service.delete_rule(rule_id, required_version(rule_id), current_principal().email)
    return respond_empty()


@blueprint.route("/<uuid:rule_id>/history")
@surface("admin.rules.history", tenant_roles=TENANT_ROLES, platform_roles=STAFF_ROLES)
@blueprint.arguments(HistoryQuerySchema, location="query")
@blueprint.response(200, RuleHistorySchema)
def list_rule_history(query: HistoryQuery, rule_id: UUID) -> Response:
    """List a rule's versions

    Shows what the rule was after each change, the newest first, also if the rule is deleted.
    """
    versions = service.list_history(current_scope(), rule_id, query)
    return respond_page(RuleHistorySchema(), versions)


@blueprint.route("/simulate", methods=["POST"])
@surface(
    "admin.rules.simulate",
    tenant_roles=("admin",),
    platform_roles=("owner", "engineer", "auditor"),
)
@blueprint.arguments(SimulationRequestSchema)
@blueprint.response(200, SimulationSchema)
def simulate_rule(draft: dict[str, Any]) -> Response:
    """Try a draft rule

    Shows what a draft, or the removal of a rule, would decide, and changes nothing. Try it on an
    access that you describe, or on the accesses of the last days that the scope sees. In the answer
    a draft that replaces no rule has an id of zeros.
    """
    scope = current_scope()
    proposal = propose(scope, draft["rule"], draft["replaces"])
    if draft["access"] is not None:
        simulation = Simulation(access=simulate_access(scope, proposal, draft["access"]))
    else:
        simulation = Simulation(past=simulate_history(proposal, draft["days"]))
    examined = simulation.past.examined if simulation.past else None
    return respond(SimulationSchema(), simulation, rows=examined)


def _respond(rule: Rule, status: int = 200) -> Response:
    etag = row_etag(rule.id, rule.version)
    return respond(RuleSchema(), rule, rows=1, etag=etag, status=status)
