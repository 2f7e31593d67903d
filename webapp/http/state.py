"""The state of one request, command or task: a single typed value in `flask.g`."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol
from uuid import UUID

from flask import g

from webapp.db.scopes import Scope
from webapp.db.session import ScopedSession

_NAME = "state"


class Identified(Protocol):
    """What lower layers know of a principal; `identity` has the rest."""

    @property
    def id(self) -> UUID: ...


class Named(Protocol):
    """What lower layers know of a surface; `scope` has the rest."""

    @property
    def name(self) -> str: ...


@dataclass(slots=True)
class RequestState:
    """Everything that one unit of work has to remember. Each field is set by the room it names."""

    request_id: str | None = None
    """`observability`: the `X-Request-ID` of the answer; `None` outside a request."""
    started: float = field(default_factory=perf_counter)
    session: ScopedSession | None = None
    """`extensions`: made when it is first used."""
    generations: dict[str, int] | None = None
    """`caching`: the generations read so far; `None` where each read asks anew, as in tasks."""
    principal: Identified | None = None
    """`identity`: who asks, once the credential has been verified."""
    surface: Named | None = None
    """`scope`: the surface that the view declares."""
    scope: Scope | None = None
    """`extensions`: the scope that a session is in, or will be in once it is made."""
    surface_scope: Scope | None = None
    """`scope`: the scope that the surface was entered in."""
    accesses: dict[Any, Any] = field(default_factory=dict)
    """`audit`: the accesses that have begun, by what makes them one record."""
    finalized: bool = False
    """`audit`: the accesses are recorded, and no other may begin."""
    waited: float = 0.0
    """`audit`: seconds that the journal has held this request."""


def begin_request(request_id: str) -> None:
    """Start a request's state anew, also where somebody has pushed a context around several."""
    before: RequestState | None = g.get(_NAME)
    session = None if before is None else before.session
    setattr(g, _NAME, RequestState(request_id=request_id, session=session, generations={}))


def current_state() -> RequestState:
    """The state of what runs now; raises `RuntimeError` outside an application context."""
    state: RequestState | None = g.get(_NAME)
    if state is None:
        state = RequestState()
        setattr(g, _NAME, state)
    return state
