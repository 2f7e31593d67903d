"""Tasks that carry out simulations of rules, and forget old ones."""

from collections.abc import Mapping
from typing import Any

import structlog
from celery import shared_task

from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.http.errors import AppError
from webapp.rules.simulation import queue
from webapp.rules.simulation.queue import SIMULATE_TASK, TakenSimulation
from webapp.rules.simulation.schemas import ReplaySchema, SimulationRequestSchema
from webapp.rules.simulation.service import BEYOND_REQUEST, propose, simulate_history
from webapp.worker.after_commit import send_soon

log = structlog.get_logger()


@shared_task(name=SIMULATE_TASK, ignore_result=True)
def simulate() -> None:
    """Carry out the simulation that has waited longest, and leave the next one to a new task."""
    with db.scoped(MaintenanceScope()):
        taken = queue.take()
        db.session.commit()
    if taken is None:
        return
    result, problem = None, None
    try:
        result = _carry_out(taken)
    except AppError as error:  # the rule that it is about has gone meanwhile, for one
        problem = str(error)
    except Exception as error:
        log.error("simulation_failed", simulation=str(taken.id), exc_info=error)
        problem = "It could not be carried out."
    with db.scoped(MaintenanceScope()):
        queue.store(taken.id, result, problem)
        db.session.commit()
    send_soon(SIMULATE_TASK)


def _carry_out(taken: TakenSimulation) -> Mapping[str, Any]:
    question = SimulationRequestSchema().load(taken.question)
    with db.scoped(taken.scope):
        proposal = propose(taken.scope, question["rule"], question["replaces"])
        past = simulate_history(proposal, question["days"], BEYOND_REQUEST)
    result: Mapping[str, Any] = ReplaySchema().dump(past)
    return result


@shared_task(name="rules.forget_simulations", ignore_result=True)
def forget() -> None:
    """Remove results that were kept long enough, and let fail what nobody has carried out."""
    with db.scoped(MaintenanceScope()):
        queue.forget_old()
        db.session.commit()
