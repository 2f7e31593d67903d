"""Bearer tokens: their form, their principals and their last use.

A verified token is cached in the process together with the generation of all identity data (see
`lookup`). So a revocation counts from the next request on, in every process.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

from celery import Celery
from flask import Flask, Request, current_app, has_request_context, request
from sqlalchemy import ColumnElement, Uuid, func, literal, select, update
from sqlalchemy.orm import Session

from webapp.caching import GenerationCache, read_generations
from webapp.db.scopes import IdentityScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.http.errors import Unauthenticated
from webapp.http.rate_limits import client_site, current_limits
from webapp.http.state import current_state
from webapp.identity.last_use import TOUCH_TASK, LastUse
from webapp.identity.lookup import IDENTITY_TAG, load_principal, remembered
from webapp.identity.models import ApiToken, PrincipalRow
from webapp.identity.principal import Bindings, Principal

TOKEN_PREFIX = "slt_"  # noqa: S105 - the public prefix that every token has

MAX_SKEW = timedelta(minutes=1)
"""How far a host's clock may be ahead of the database's, for a use of a token to be believed."""

UNKNOWN = "The token is unknown or was revoked."

Expect = Callable[[Principal | None], Iterable[str]]
"""Guesses the cache tags that a request will need, so that they come in the same round trip as the
token's own. Its argument is the principal that the credential stood for when this process last
verified it: a hint, never an answer."""


def expect_nothing(_: Principal | None) -> Iterable[str]:
    return ()


def init_app(app: Flask) -> None:
    """Uses `app.extensions["celery"]`; sends nothing yet."""
    celery: Celery = app.extensions["celery"]

    def send(token_id: UUID, used_at: datetime) -> None:
        arguments = [str(token_id), used_at.isoformat()]
        celery.send_task(TOUCH_TASK, args=arguments, ignore_result=True, retry=False)

    app.extensions["identity.unknown_tokens"] = GenerationCache()
    app.extensions["identity.last_use"] = LastUse(send)


def make_secret() -> str:
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """The hash of a token, which is all that is stored of it."""
    return hashlib.sha256(token.encode()).digest()


def authenticate_bearer(request: Request, expect: Expect) -> Principal | None:
    """Authenticate by an API token in the Authorization header, and note the token's use.

    Returns `None` where the header has no token; raises `Unauthenticated` for a bad one.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.startswith(TOKEN_PREFIX):
        return None
    current_state().credential = digest(token)
    principal = verify(token, expect)
    if principal.token_id is not None:
        last_use: LastUse = current_app.extensions["identity.last_use"]
        last_use.note(principal.token_id)
    return principal


def verify(token: str, expect: Expect = expect_nothing) -> Principal:
    """The principal that a token stands for; raises `Unauthenticated`."""
    key = digest(token)
    known = remembered().entry(key)
    tags = (IDENTITY_TAG, *expect(known[1] if known else None))
    generation = read_generations(tags)[IDENTITY_TAG]
    if known is not None and known[0] == generation:
        principal = cast(Principal, known[1])
    else:
        principal = _look_up(key, generation, is_new=known is None)
        remembered().put(key, generation, principal)
    if principal.expires_at is not None and principal.expires_at <= datetime.now(UTC):
        raise Unauthenticated("The token has expired.")
    return principal


def _look_up(key: bytes, generation: int, *, is_new: bool) -> Principal:
    """Read a token's principal. What is unknown stays so for as long as no identity changes.

    An address that sends bad tokens is refused before a token is looked up that this process has
    never seen to be good.
    """
    if _unknown().get(key, generation):
        raise Unauthenticated(UNKNOWN)
    if is_new and has_request_context():
        current_limits().failures.check(client_site(request.remote_addr))
    try:
        with db.scoped(IdentityScope()):
            return _load(db.session, key)
    except Unauthenticated:
        _unknown().put(key, generation, True)
        raise


def _unknown() -> GenerationCache:
    """The tokens that nobody has, kept apart so that they drive out no good ones."""
    cache: GenerationCache = current_app.extensions["identity.unknown_tokens"]
    return cache


def read_again(session: ScopedSession, principal: Principal) -> Principal:
    """The principal of a request as it is now, read in the open transaction and not from a cache.

    Raises `Unauthenticated` if the token, the only credential that a principal may have, has ended.
    """
    with session.reading(IdentityScope()):
        found = _find(session, ApiToken.id == principal.token_id)
    if found is None:
        raise Unauthenticated(UNKNOWN)
    return found


def _load(session: Session, token_hash: bytes) -> Principal:
    # The statement tells nobody who watches it what proves a credential.
    of_digest = hashlib.sha256(token_hash).digest()
    found = _find(session, ApiToken.id == func.token_with(of_digest, type_=Uuid))
    if found is None:
        raise Unauthenticated(UNKNOWN)
    return found


def _find(session: Session, condition: ColumnElement[bool]) -> Principal | None:
    found = session.execute(
        select(ApiToken, PrincipalRow)
        .join(PrincipalRow, PrincipalRow.id == ApiToken.principal_id)
        .where(
            condition,
            ApiToken.revoked_at.is_(None),
            PrincipalRow.ended_at.is_(None),
        )
    ).one_or_none()
    if found is None:
        return None
    token, row = found
    return load_principal(
        session,
        row,
        token_id=token.id,
        expires_at=token.expires_at,
        mfa=token.mfa,
        bindings=bindings_of(token),
        only_in=token.tenant_id,
    )


def bindings_of(token: ApiToken) -> Bindings:
    """What a service may ask with a token."""
    return Bindings(
        surfaces=tuple(token.surfaces),
        tenant_ids=None if token.tenant_ids is None else frozenset(token.tenant_ids),
        break_glass=token.break_glass,
        reports_mfa=token.reports_mfa,
    )


def touch(token_id: UUID, used_at: datetime) -> None:
    """Store the last use. It never moves back, although reports may arrive out of order.

    A use in the future, by the database's clock, is not believed.
    """
    now = func.clock_timestamp()
    db.session.execute(
        update(ApiToken)
        .where(
            ApiToken.id == token_id,
            ApiToken.last_used_at.is_(None) | (ApiToken.last_used_at < used_at),
            literal(used_at) <= now + MAX_SKEW,
        )
        .values(last_used_at=func.least(used_at, now))
    )
