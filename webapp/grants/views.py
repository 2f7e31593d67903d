"""Grants over HTTP: /admin/api/grants."""

from collections.abc import Callable
from functools import partial
from uuid import UUID

from flask import Response, request

from webapp.extensions import db
from webapp.grants import requests, service
from webapp.grants.grant import Grant, GrantQuery, GrantRequest
from webapp.grants.review import may_review, review
from webapp.grants.schemas import (
    GrantPageSchema,
    GrantQuerySchema,
    GrantRequestSchema,
    GrantSchema,
    GrantsSchema,
    ReviewSchema,
)
from webapp.grants.service import PendingDecision
from webapp.http.errors import NotFound
from webapp.http.etags import row_etag, sent_version
from webapp.http.parsing import Blueprint
from webapp.identity.principal import STAFF_ROLES, TENANT_ROLES, Principal
from webapp.identity.tokens import read_again
from webapp.scope.answers import respond, respond_page
from webapp.scope.decision import Allowed, Denied
from webapp.scope.enter import begin_access, raise_unless_allowed
from webapp.scope.surface import current_principal, current_scope, current_surface, surface

blueprint = Blueprint(
    "grants",
    __name__,
    url_prefix="/admin/api/grants",
    description="Approvals for a limited time, and uses of break-glass. Send no scope, but for"
    " the list of all: you see the grants that concern you.",
)

_decides = partial(
    surface,
    tenant_roles=TENANT_ROLES,
    platform_roles=STAFF_ROLES,
    changes=True,
    personal=True,
    decides=True,
)
"""A surface that changes one grant: who may do so depends on the grant."""


@blueprint.route("")
@surface("admin.grants.list", tenant_roles=TENANT_ROLES, platform_roles=STAFF_ROLES, personal=True)
@blueprint.arguments(GrantQuerySchema, location="query")
@blueprint.response(200, GrantPageSchema)
def list_grants(query: GrantQuery) -> Response:
    """List grants and requests

    You see your own and those at the tenants whose admin you are.
    """
    return respond_page(GrantPageSchema(), service.list_grants(current_scope(), query))


@blueprint.route("/all")
@surface("admin.grants.all", tenant_roles=("admin",), platform_roles=STAFF_ROLES)
@blueprint.arguments(GrantQuerySchema, location="query")
@blueprint.response(200, GrantPageSchema)
def list_all_grants(query: GrantQuery) -> Response:
    """List the grants and requests of a scope

    In a tenant's scope you see those at that tenant. In the scope `global` you see those at every
    tenant that does not say no, and those for all tenants. Beyond your own tenant it is an
    elevation.
    """
    return respond_page(GrantPageSchema(), service.list_grants(current_scope(), query))


@blueprint.route("", methods=["POST"])
@surface(
    "admin.grants.ask", tenant_roles=(), platform_roles=STAFF_ROLES, changes=True, personal=True
)
@blueprint.arguments(GrantRequestSchema)
@blueprint.response(201, GrantsSchema)
def request_grants(grant_request: GrantRequest) -> Response:
    """Ask for approvals

    Makes one request for each tenant or, with null, one for all tenants. If one is refused, none is
    made. A request that nobody decides lapses after a day.
    """
    principal = current_principal()
    evaluated = requests.evaluate(principal, grant_request, request.remote_addr)
    problem = requests.find_problem(grant_request, evaluated)
    for one in evaluated:
        decision = one.decision if problem is None else one.attempt
        begin_access(principal, current_surface(), one.target, grant_request.reason, decision)
    for one in evaluated:
        raise_unless_allowed(one.decision)
    if problem is not None:
        raise problem
    grants = requests.submit(principal, grant_request, evaluated)
    return respond(GrantsSchema(), {"items": grants}, rows=1, status=201)


@blueprint.route("/<uuid:grant_id>")
@surface(
    "admin.grants.read",
    tenant_roles=TENANT_ROLES,
    platform_roles=STAFF_ROLES,
    personal=True,
    decides=True,
)
@blueprint.response(200, GrantSchema)
def read_grant(grant_id: UUID) -> Response:
    """Read a grant

    You see your own, those at the tenants whose admin you are, and those that your roles may
    approve, revoke or review.
    """
    principal, pending = current_principal(), service.read_pending(grant_id)
    if not _concerns(principal, pending):
        raise NotFound(service.UNKNOWN)
    return _respond(pending.grant)


@blueprint.route("/<uuid:grant_id>/approve", methods=["POST"])
@_decides("admin.grants.approve")
@blueprint.response(200, GrantSchema)
def approve_grant(grant_id: UUID) -> Response:
    """Approve a request

    The grant begins once as many people have approved as the rules require. Nobody approves their
    own request.
    """
    return _decide(grant_id, service.may_decide, service.approve)


@blueprint.route("/<uuid:grant_id>/deny", methods=["POST"])
@_decides("admin.grants.deny")
@blueprint.response(200, GrantSchema)
def deny_grant(grant_id: UUID) -> Response:
    """Deny a request"""
    return _decide(grant_id, service.may_decide, service.deny)


@blueprint.route("/<uuid:grant_id>/revoke", methods=["POST"])
@_decides("admin.grants.revoke")
@blueprint.response(200, GrantSchema)
def revoke_grant(grant_id: UUID) -> Response:
    """End a grant or a request early

    It counts no more from the next request on. Its holder may end it too.
    """
    return _decide(
        grant_id,
        service.may_revoke,
        lambda principal, pending: service.revoke(pending.grant.id, principal.email),
    )


@blueprint.route("/<uuid:grant_id>/review", methods=["POST"])
@surface(
    "admin.grants.review",
    tenant_roles=("admin",),
    platform_roles=STAFF_ROLES,
    changes=True,
    personal=True,
    decides=True,
)
@blueprint.arguments(ReviewSchema)
@blueprint.response(200, GrantSchema)
def review_grant(draft: dict[str, str], grant_id: UUID) -> Response:
    """Review a use of break-glass

    Somebody other than its holder reviews it, once it is over. Until then the holder cannot use
    break-glass again.
    """
    return _decide(
        grant_id,
        lambda principal, pending: may_review(principal, pending.grant),
        lambda principal, pending: review(principal, pending.grant.id, draft["text"]),
    )


def _decide(
    grant_id: UUID,
    may: Callable[[Principal, PendingDecision], Allowed | Denied],
    act: Callable[[Principal, PendingDecision], Grant],
) -> Response:
    """Record that somebody wants to change a grant, and change it if they may.

    Whether they may is decided once nobody else can change the grant: a role, a token or a rule may
    have ended while it was waited for.
    """
    check_version = sent_version(grant_id)
    pending = service.lock_pending(grant_id)
    principal = read_again(db.session, current_principal())
    decision = may(principal, pending)
    begin_access(principal, current_surface(), pending.target, pending.grant.why, decision)
    raise_unless_allowed(decision)
    check_version(pending.grant.version)
    return _respond(act(principal, pending))


def _concerns(principal: Principal, pending: PendingDecision) -> bool:
    """Whether somebody may do anything about a grant. Its holder and the tenant's admins may."""
    grant = pending.grant
    may = [service.may_decide(principal, pending), service.may_revoke(principal, pending)]
    if grant.kind == "break_glass":
        may.append(may_review(principal, grant))
    return any(isinstance(decision, Allowed) for decision in may)


def _respond(grant: Grant) -> Response:
    return respond(GrantSchema(), grant, rows=1, etag=row_etag(grant.id, grant.version))
