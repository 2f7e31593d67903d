"""`flask grants`: show and end approvals, requests and break-glass incidents."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import get_args
from uuid import UUID

import click

from webapp.audit.operation import origin
from webapp.commands import Commands, as_json, print_json, print_rows, say
from webapp.db.scopes import MaintenanceScope, Scope
from webapp.extensions import db
from webapp.grants import expiry, service
from webapp.grants.grant import Grant, GrantQuery, GrantState
from webapp.grants.schemas import GrantSchema
from webapp.http.pagination import MAX_LIMIT
from webapp.scope.command_access import command_access, reason_option
from webapp.scope.headers import Reason

group = Commands(
    "grants",
    help="Show and end grants: approvals for a limited time, requests for one, and break-glass.",
)


@dataclass(frozen=True)
class GrantEntry:
    """One line of the table of grants."""

    id: UUID
    kind: str
    holder: str
    tenant: str | None
    surfaces: tuple[str, ...]
    reason: str
    ticket: str | None
    state: str
    ends_at: datetime


@group.command("list")
@click.option("--tenant", metavar="SLUG", help="Only grants at the tenant with this slug.")
@click.option("--state", type=click.Choice(get_args(GrantState)), help="Only grants in this state.")
@reason_option
@as_json
def list_command(
    *, tenant: str | None, state: GrantState | None, reason: Reason, as_json: bool
) -> None:
    """Show grants and requests, the newest first. A grant at all tenants names no tenant."""
    terms = {"tenant": tenant, "state": state}
    with command_access("grants list", reason, terms, tenant=tenant) as access:
        query = GrantQuery(limit=MAX_LIMIT, tenant=tenant, state=state)
        grants = list(_grants(access.scope, query))
        access.rows = len(grants)
    if as_json:
        print_json({"items": GrantSchema(many=True).dump(grants)})
    else:
        print_rows(GrantEntry, [_entry(grant) for grant in grants], as_json=False)


@group.command("revoke")
@click.argument("grant_id", type=click.UUID)
@as_json
def revoke(*, grant_id: UUID, as_json: bool) -> None:
    """End a request or a grant, from the next request on."""
    with db.scoped(MaintenanceScope()):
        grant = expiry.revoke(grant_id, origin("CLI", f"flask grants revoke {grant_id}"))
        db.session.commit()
    if as_json:
        print_json(GrantSchema().dump(grant))
    else:
        say(f"The grant {grant_id} of {grant.email} is revoked.")


@group.command("expire")
@as_json
def expire(*, as_json: bool) -> None:
    """End the grants whose time is over, as the workers do every minute."""
    expired, request = 0, origin("CLI", "flask grants expire")
    with db.scoped(MaintenanceScope()):
        while some := expiry.expire_over(request):
            db.session.commit()
            expired += some
    if as_json:
        print_json({"expired": expired})
    else:
        say(f"{expired} {'grant has' if expired == 1 else 'grants have'} expired.")


def _grants(scope: Scope, query: GrantQuery) -> Iterator[Grant]:
    while True:
        page = service.list_grants(scope, query)
        yield from page.items
        if page.next_cursor is None:
            return
        query = replace(query, cursor=page.next_cursor)


def _entry(grant: Grant) -> GrantEntry:
    return GrantEntry(
        grant.id,
        grant.kind,
        grant.email,
        grant.tenant,
        grant.surfaces,
        grant.reason,
        grant.ticket,
        grant.state,
        grant.ends_at,
    )
