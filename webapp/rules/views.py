"""The rules over HTTP: /admin/api/rules."""

from http import HTTPStatus
from typing import Any
from uuid import UUID

import orjson
from flask import Response, request, url_for

from webapp.http.errors import RETRY_AFTER
from webapp.http.etags import required_version, row_etag
from webapp.http.parsing import Blueprint
from webapp.identity.principal import STAFF_ROLES, TENANT_ROLES, PlatformRole
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
from webapp.rules.simulation import queue
from webapp.rules.simulation.queue import (
    UNFINISHED,
    QueuedSimulation,
    one_at_a_time,
    turn_of,
)
from webapp.rules.simulation.schemas import (
    QueuedSimulationSchema,
    SimulationRequestSchema,
    SimulationSchema,
    queued_simulation,
)
from webapp.rules.simulation.service import (
    IN_REQUEST,
    Simulation,
    propose,
    simulate_access,
    simulate_history,
)
from webapp.scope.answers import respond, respond_cached, respond_empty, respond_page
from webapp.scope.surface import current_principal, current_scope, surface

SIMULATORS: tuple[PlatformRole, ...] = ("owner", "engineer", "auditor")
WAIT = {"Retry-After": "RetryAfter"}
"""The headers of an answer about a simulation that is not finished."""

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
    platform_roles=SIMULATORS,
    stores_because="hands a long simulation to a worker, which changes nothing that others see",
)
@blueprint.arguments(SimulationRequestSchema)
@blueprint.response(200, SimulationSchema)
@blueprint.alt_response(202, schema=QueuedSimulationSchema, headers=WAIT)
def simulate_rule(draft: dict[str, Any]) -> Response:
    """Try a draft rule

    Shows what a draft, or the removal of a rule, would decide, and changes nothing. Try it on an
    access that you describe, or on the accesses of the last days that the scope sees. In the answer
    a draft that replaces no rule has an id of zeros.

    If there are more accesses than one request may take the time for, a worker tries them. The
    answer is 202 then, and `Location` has the result. A tenant, and each person of the platform's
    staff, has one simulation of past accesses at a time.
    """
    scope = current_scope()
    proposal = propose(scope, draft["rule"], draft["replaces"])
    if draft["access"] is not None:
        simulation = Simulation(access=simulate_access(scope, proposal, draft["access"]))
        return respond(SimulationSchema(), simulation, rows=None)
    turn = turn_of(current_principal(), scope)
    with one_at_a_time(turn):
        past = simulate_history(proposal, draft["days"], IN_REQUEST)
    if past.truncated:
        return _hand_to_worker(turn)
    return respond(SimulationSchema(), Simulation(past=past), rows=past.examined)


def _hand_to_worker(turn: UUID) -> Response:
    question = orjson.loads(request.get_data())
    queued = queue.enqueue(current_principal(), current_scope(), turn, question)
    response = _respond_queued(queued, 202)
    response.headers["Location"] = url_for("rules.read_simulation", simulation_id=queued.id)
    return response


@blueprint.route("/simulations/<uuid:simulation_id>")
@surface("admin.rules.simulation", tenant_roles=("admin",), platform_roles=SIMULATORS)
@blueprint.response(200, QueuedSimulationSchema, headers=WAIT)
def read_simulation(simulation_id: UUID) -> Response:
    """Fetch the result of a simulation

    Only the person who asked for it can fetch it, in the same scope, for an hour.
    """
    return _respond_queued(queued_simulation(queue.find(current_principal(), simulation_id)))


def _respond_queued(queued: QueuedSimulation, status: int = 200) -> Response:
    examined = queued.past.examined if queued.past else None
    response = respond(QueuedSimulationSchema(), queued, rows=examined, status=status)
    if queued.state in UNFINISHED and response.status_code != HTTPStatus.NOT_MODIFIED:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _respond(rule: Rule, status: int = 200) -> Response:
    etag = row_etag(rule.id, rule.version)
    return respond(RuleSchema(), rule, rows=1, etag=etag, status=status)
