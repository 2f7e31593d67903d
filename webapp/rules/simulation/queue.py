"""The queue of simulations that need more time than a request has.

A request stores a simulation, a task carries it out in the scope of that request, and the person
who asked fetches the result within KEPT. The rows are the queue; the task only wakes a worker.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import orjson
from flask import Flask, current_app
from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from webapp.caching import SingleFlight
from webapp.db.scopes import Exclusion, GlobalScope, Scope, TenantScope
from webapp.db.session import violated_constraint
from webapp.db.turns import take_turn
from webapp.extensions import db
from webapp.http.errors import NotFound, RateLimited
from webapp.identity.principal import Principal
from webapp.rules.simulation.models import ONE_AT_A_TIME, SimulationRow
from webapp.rules.simulation.replay import Replay
from webapp.worker.after_commit import send_after_commit

SIMULATE_TASK = "rules.simulate"
_EXTENSION = "simulations"

WAITING = timedelta(minutes=10)
"""How long a simulation waits for a worker before it counts as failed."""

LEASE = timedelta(minutes=2)
"""How long a worker may take for it, with all that it waits for."""

KEPT = timedelta(hours=1)
"""How long a result can be fetched."""

KEPT_EACH = 10
"""How many results are kept for each turn: the newest."""

NOT_IN_TIME = "No worker has carried it out in time. Ask again."

SimulationState = Literal["queued", "running", "done", "failed"]
UNFINISHED = ("queued", "running")


@dataclass(frozen=True)
class QueuedSimulation:
    """A simulation that a worker carries out, as the person who asked for it sees it."""

    id: UUID
    state: SimulationState
    asked_at: datetime
    until: datetime
    """When it counts as failed; once it is done or has failed, when it is forgotten."""
    past: Replay | None = None
    problem: str | None = None


@dataclass(frozen=True)
class TakenSimulation:
    """A simulation that a task has taken, to be carried out in its scope."""

    id: UUID
    scope: Scope
    question: Mapping[str, Any]
    """The request's body."""


def init_app(app: Flask) -> None:
    app.extensions[_EXTENSION] = SingleFlight()


def turn_of(principal: Principal, scope: Scope) -> UUID:
    """Who has one simulation at a time: the tenant in which one is at home, or else the person.

    So staff take nothing from the tenants that they access.
    """
    at_home = {membership.tenant_id for membership in principal.memberships}
    own = scope.tenant_id if isinstance(scope, TenantScope) else None
    return own if own in at_home and own is not None else principal.id


@contextmanager
def one_at_a_time(turn: UUID) -> Iterator[None]:
    """Simulate in the block. Raises `RateLimited` while another simulation of the turn goes on.

    It sees those of this process, and those that wait for a worker.
    """
    running: SingleFlight = current_app.extensions[_EXTENSION]
    with running.enter(turn) as other:
        if other is not None or db.session.scalar(select(SimulationRow.id).where(*_open(turn))):
            raise _busy()
        yield


def enqueue(
    principal: Principal, scope: Scope, turn: UUID, question: Mapping[str, Any]
) -> QueuedSimulation:
    """Store a simulation for a worker, in its scope. The caller commits.

    Raises `RateLimited` if another one of the turn is not finished.
    """
    now = datetime.now(UTC)
    overdue = SimulationRow.state.in_(UNFINISHED) & (SimulationRow.until <= now)
    db.session.execute(delete(SimulationRow).where(SimulationRow.turn == turn, overdue))
    row = SimulationRow(
        asked_by=principal.id,
        turn=turn,
        question=orjson.dumps(question).decode(),
        state="queued",
        asked_at=now,
        until=now + WAITING,
        **_columns_of(scope),
    )
    db.session.add(row)
    try:
        db.session.flush()
    except IntegrityError as error:
        if violated_constraint(error) != ONE_AT_A_TIME:
            raise
        raise _busy() from error
    send_after_commit(db.session, SIMULATE_TASK)
    return QueuedSimulation(row.id, "queued", now, row.until)


def find(principal: Principal, simulation_id: UUID) -> SimulationRow:
    """Find a simulation that the principal has asked for in the session's scope.

    Raises `NotFound`, also if the scope leaves out a tenant now that it did not leave out then.
    """
    row = db.session.scalar(
        select(SimulationRow).where(
            SimulationRow.id == simulation_id,
            SimulationRow.asked_by == principal.id,
            or_(SimulationRow.state.in_(UNFINISHED), SimulationRow.until > datetime.now(UTC)),
        )
    )
    if row is None:
        raise NotFound("There is no such simulation, or it was forgotten.")
    return row


def take() -> TakenSimulation | None:
    """Take the simulation that has waited longest. Once the caller commits, nobody else takes it.

    None is taken while another one is carried out: workers have events to commit too. None is taken
    a second time, even if its worker dies.
    """
    now = datetime.now(UTC)
    take_turn(db.session, "simulate")
    current = SimulationRow.until > now
    running = select(SimulationRow.id).where(SimulationRow.state == "running", current).exists()
    row = db.session.scalar(
        select(SimulationRow)
        .where(SimulationRow.state == "queued", current, ~running)
        .order_by(SimulationRow.asked_at)
        .limit(1)
    )
    if row is None:
        return None
    row.state, row.until = "running", now + LEASE
    return TakenSimulation(row.id, _scope_of(row), orjson.loads(row.question))


def store(simulation_id: UUID, result: Mapping[str, Any] | None, problem: str | None) -> None:
    """Store the result of a simulation, or why there is none, and forget old results of its turn.

    Whatever is stored for a simulation that has been forgotten meanwhile is dropped.
    """
    row = db.session.get(SimulationRow, simulation_id)
    if row is None:
        return
    row.state, row.until = "failed" if result is None else "done", datetime.now(UTC) + KEPT
    row.problem = problem
    row.result = None if result is None else orjson.dumps(result).decode()
    db.session.flush()
    finished = SimulationRow.state.not_in(UNFINISHED)
    newest = (
        select(SimulationRow.id)
        .where(SimulationRow.turn == row.turn, finished)
        .order_by(SimulationRow.asked_at.desc())
        .limit(KEPT_EACH)
    )
    others = (SimulationRow.turn == row.turn, finished, SimulationRow.id.not_in(newest))
    db.session.execute(delete(SimulationRow).where(*others))


def forget_old() -> None:
    """Let simulations fail that no worker has carried out in time, and delete old results."""
    now = datetime.now(UTC)
    over = SimulationRow.until <= now
    finished = SimulationRow.state.not_in(UNFINISHED)
    db.session.execute(delete(SimulationRow).where(over, finished))
    db.session.execute(
        update(SimulationRow)
        .where(over)
        .values(state="failed", problem=NOT_IN_TIME, until=now + KEPT)
    )


def _open(turn: UUID) -> tuple[ColumnElement[bool], ...]:
    return (
        SimulationRow.turn == turn,
        SimulationRow.state.in_(UNFINISHED),
        SimulationRow.until > func.clock_timestamp(),
    )


def _busy() -> RateLimited:
    return RateLimited("Another simulation goes on. Try again when it is done.")


def _columns_of(scope: Scope) -> dict[str, Any]:
    match scope:
        case TenantScope(tenant_id):
            return {"tenant_id": tenant_id, "access_id": None, "excluded_tenant_ids": []}
        case GlobalScope(access_id, excluded):
            ids = list(excluded.ids)
            return {"tenant_id": None, "access_id": access_id, "excluded_tenant_ids": ids}
    raise TypeError(scope)


def _scope_of(row: SimulationRow) -> Scope:
    if row.tenant_id is not None:
        return TenantScope(row.tenant_id)
    assert row.access_id is not None  # noqa: S101 - `_columns_of` sets one of them
    return GlobalScope(row.access_id, Exclusion(frozenset(row.excluded_tenant_ids)))
