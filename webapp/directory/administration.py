"""The administration of identity over HTTP, in the scope of the request.

The database decides by the request's credential what may be changed (`acting`), and triggers record
it with that person as the actor. Functions here do not commit.

In a tenant's scope that is the tenant, its members, and the tokens that were made in it. In the
scope of all tenants it is new tenants, and the tokens of services.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import func, select
from sqlalchemy.exc import ProgrammingError

from webapp.db.scopes import GlobalScope, IdentityScope, Scope, TenantScope
from webapp.directory import service
from webapp.extensions import db
from webapp.http.errors import Forbidden, Invalid
from webapp.http.state import current_state
from webapp.identity.models import PrincipalRow, Tenant
from webapp.scope.surface import current_principal


@contextmanager
def acting(tenant: str | None = None) -> Iterator[None]:
    """Run a block as whoever the request's credential is, in what this person administers.

    With the slug of a `tenant` the block runs while nobody else changes its members. Raises
    `Forbidden` where the person does not administer the scope: a role or the credential may have
    ended while the block waited.
    """
    state, token_id = current_state(), current_principal().token_id
    if token_id is None or state.credential is None:
        raise Forbidden("Administration takes an API token.")
    try:
        with db.session.administering(token_id, state.credential, state.request_id):
            _refuse_unproven()
            if tenant is not None:
                service.lock_tenant(tenant)
                _refuse_unproven()
            yield
    except ProgrammingError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise Forbidden(_UNPROVEN) from error
        raise


_UNPROVEN = "Your credential does not let you administer this."


def _refuse_unproven() -> None:
    if not db.session.scalar(select(func.administers_scope())):
        raise Forbidden(_UNPROVEN)


def require_tenant_scope(scope: Scope) -> UUID:
    """The tenant of the scope; raises `Invalid` in the scope of all tenants."""
    if isinstance(scope, TenantScope):
        return scope.tenant_id
    raise _wrong_scope("must name one tenant, as in `tenant:acme`")


def require_global_scope(scope: Scope) -> None:
    """Raise `Invalid` in a tenant's scope."""
    if not isinstance(scope, GlobalScope):
        raise _wrong_scope("must be `global`")


def _wrong_scope(problem: str) -> Invalid:
    return Invalid(f"The header Sightline-Scope {problem}.", {"Sightline-Scope": [problem]})


def emails_of(user_ids: set[UUID]) -> dict[UUID, str]:
    with db.session.reading(IdentityScope()):
        named = select(PrincipalRow.id, PrincipalRow.email).where(PrincipalRow.id.in_(user_ids))
        return dict(iter(db.session.execute(named)))


def slugs_of(tenant_ids: set[UUID]) -> dict[UUID, str]:
    with db.session.reading(IdentityScope()):
        named = select(Tenant.id, Tenant.slug).where(Tenant.id.in_(tenant_ids))
        return dict(iter(db.session.execute(named)))


def find_user_id(email: str) -> UUID | None:
    with db.session.reading(IdentityScope()):
        return db.session.scalar(select(PrincipalRow.id).where(PrincipalRow.email == email.lower()))
