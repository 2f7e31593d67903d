"""Tenants over HTTP. One is made in the scope of all tenants, and changed or ended in its own."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select

from webapp.audit import recorder
from webapp.db.scopes import Scope
from webapp.directory import service
from webapp.directory.administration import acting, require_global_scope, require_tenant_scope
from webapp.directory.entry import ListedTenant, Page, TenantQuery
from webapp.extensions import db
from webapp.http.errors import NotFound
from webapp.http.pagination import listing_of, read_page
from webapp.identity.models import Tenant

Check = Callable[[ListedTenant], None]
"""Gets the tenant as it is, and raises to refuse its change."""


def list_tenants(scope: Scope, query: TenantQuery) -> Page[ListedTenant]:
    """List one page of the tenants in the scope. Raises `Invalid` for a wrong cursor."""
    page = read_page(
        db.session,
        select(Tenant),
        Tenant,
        _filters(query),
        sort=query.sort,
        limit=query.limit,
        cursor=query.cursor,
        listing=listing_of("tenants", scope, replace(query, limit=0, cursor=None)),
    )
    return Page(
        tuple(_listed(row) for row, _ in page.rows),
        page.next_cursor,
        page.total,
        page.total_is_at_least,
    )


def read_tenant(tenant_id: UUID) -> ListedTenant:
    return _listed(_find(tenant_id))


def create_tenant(scope: Scope, slug: str, name: str) -> ListedTenant:
    require_global_scope(scope)
    with acting():
        made = _listed(service.create_tenant(slug, name))
    recorder.concern(made.id, made.slug)
    return made


def update_tenant(
    scope: Scope, tenant_id: UUID, check: Check, *, slug: str | None, name: str | None
) -> ListedTenant:
    tenant = _find(tenant_id)
    require_tenant_scope(scope)
    with acting(tenant.slug):
        locked = service.get_tenant(tenant.slug)
        check(_listed(locked))
        return _listed(service.rename_tenant(locked.slug, new_slug=slug, name=name))


def end_tenant(scope: Scope, tenant_id: UUID, check: Check) -> None:
    """End a tenant and all its memberships, for good."""
    tenant = _find(tenant_id)
    require_tenant_scope(scope)
    with acting(tenant.slug):
        locked = service.get_tenant(tenant.slug)
        check(_listed(locked))
        locked.ended_at = datetime.now(UTC)
        db.session.flush()
        db.session.execute(select(func.end_members_in_scope(None)))
        service.flush_change()


def _find(tenant_id: UUID) -> Tenant:
    """A tenant that the scope sees."""
    tenant = db.session.scalar(select(Tenant).where(Tenant.id == tenant_id))
    if tenant is None:
        raise NotFound("There is no such tenant.")
    recorder.concern(tenant.id, tenant.slug)
    return tenant


def _filters(query: TenantQuery) -> Iterator[ColumnElement[bool]]:
    if query.ended is not None:
        yield Tenant.ended_at.is_not(None) if query.ended else Tenant.ended_at.is_(None)


def _listed(row: Tenant) -> ListedTenant:
    return ListedTenant(row.id, row.slug, row.name, row.created_at, row.ended_at)
