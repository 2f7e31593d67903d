"""The state of one request, command or task: a single typed value in `flask.g`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from flask import g

from webapp.db.scopes import Scope
from webapp.db.session import ScopedSession

_NAME = "state"


class Identified(Protocol):
    """The part of a principal that rooms below `identity` know."""

    @property
    def id(self) -> UUID: ...


class Named(Protocol):
    """The part of a surface that rooms below `scope` know."""

    @property
    def name(self) -> str: ...


class Held(Protocol):
    """The part of a held answer that other rooms know."""

    then: Callable[[], None]
    """What is to be called when the answer leaves."""


class RateLimit(Protocol):
    """The part of a rate limit that an answer tells."""

    policy: str

    def left(self, tokens: float) -> str: ...


class Streamed(Protocol):
    """The part of an answer that goes on which rooms other than `audit` know."""

    def follow(self, parts: Iterable[bytes]) -> Iterator[bytes]: ...


class Recorded(NamedTuple):
    """What a request has handed to the journal when its answer was known."""

    events: tuple[UUID, ...]
    """The ids of its accesses' events."""
    at: float
    """When the journal had them, or was given up, in seconds since 1970."""
    seconds: float
    """How long that took."""
    durable: bool = True


@dataclass(slots=True)
class RequestState:
    """What one request, command or task has to remember. Each field names the room that sets it."""

    request_id: str | None = None
    """`observability`: the `X-Request-ID` of the answer; `None` outside a request."""
    client_request_id: str | None = None
    """`observability`: the `X-Request-ID` of the request, escaped; `None` if it has none."""
    traceparent: str | None = None
    """`observability`: the trace that the client says the request is in."""
    started: float = field(default_factory=perf_counter)
    session: ScopedSession | None = None
    """`extensions`: the session, made when it is first used."""
    credential: bytes | None = None
    """`identity`: the digest of the credential, which proves to the database who administers."""
    principal: Identified | None = None
    """`identity`: the principal, once the credential is verified."""
    surface: Named | None = None
    """`scope`: the surface that the view declares."""
    scope: Scope | None = None
    """`extensions`: the scope that a session is in, or will be in once it is made."""
    limit: RateLimit | None = None
    """`rate_limits`: the limit of which least is left, which the answer tells."""
    tokens: float = 0.0
    """`rate_limits`: how much of it is left."""
    elevated: bool = False
    """`scope`: whether a surface was entered beyond the principal's own scope."""
    terms: dict[str, str] | None = None
    """`parsing`: the parameters of the query by name, once they are known to be valid; `None` where
    there are none."""
    surface_scope: Scope | None = None
    """`scope`: the scope that the surface was entered in."""
    accesses: dict[Any, Any] = field(default_factory=dict)
    """`audit`: the accesses that have begun, by the key that makes equal ones one record."""
    finalized: bool = False
    """`audit`: whether the accesses are recorded, after which no other may begin."""
    streamed: Streamed | None = None
    """`audit`: the answer that goes on after its view has returned, if it does."""
    held: Held | None = None
    """`audit`: why the server holds the answer back, if it does."""
    waited: float = 0.0
    """`audit`: seconds that this request has waited for the journal."""
    recorded: Recorded | None = None
    """`audit`: what the journal has taken in the end; `None` where there was nothing."""


def begin_request(
    request_id: str, client_request_id: str | None = None, traceparent: str | None = None
) -> None:
    """Start a new state, even if one application context surrounds several requests."""
    before: RequestState | None = g.get(_NAME)
    session = None if before is None else before.session
    state = RequestState(
        request_id=request_id,
        client_request_id=client_request_id,
        traceparent=traceparent,
        session=session,
    )
    setattr(g, _NAME, state)


def resume_request(state: RequestState) -> None:
    """Go on with a request in another application context than the one in which it began."""
    setattr(g, _NAME, state)


def current_state() -> RequestState:
    """The current state; raises `RuntimeError` outside an application context."""
    state: RequestState | None = g.get(_NAME)
    if state is None:
        state = RequestState()
        setattr(g, _NAME, state)
    return state
