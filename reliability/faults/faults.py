"""Every kind of fault: how it strikes, how it is mended, and what a client may meet meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from signal import SIGKILL, SIGSTOP
from time import sleep
from typing import Literal

from reliability.faults import deliveries
from reliability.faults.disk import Tracer
from reliability.faults.installation import Part, Plant, send

Harm = Literal["answers", "database", "journal"]
"""Requests may remain without an answer, be refused for want of the database, or, as far as they
are elevated, for want of the journal."""

TAKEN = 1.0
"""Seconds in which the worker takes up as many tasks as it can."""

DAY = 86_400
SHIFTS = (-400 * DAY, -3_600, 3_600, 40 * DAY, 400 * DAY)
HANG = 4
"""Seconds that each write to the disk takes: twice as long as any request may wait for it."""


@dataclass
class Scene:
    """What a fault needs while it lasts."""

    plant: Plant
    dice: Random
    copies: deliveries.Copies = field(default_factory=deliveries.no_copies)
    tracer: Tracer | None = None


@dataclass(frozen=True)
class Fault:
    name: str
    strike: Callable[[Scene], object]
    mend: Callable[[Scene], object] = lambda scene: None
    harms: frozenset[Harm] = frozenset()
    stops_web: bool = False
    """Whether the web processes stand still in it, and then any wait of theirs is long."""


def _one(part: Callable[[Plant], Part], signal: int) -> Callable[[Scene], None]:
    """A signal for one of the processes that a part has started."""

    def strike(scene: Scene) -> None:
        children = part(scene.plant).children
        if children:
            send(SIGSTOP if signal == SIGSTOP else SIGKILL, [scene.dice.choice(children)])

    return strike


def _deliver_again(scene: Scene) -> None:
    deliveries.ensure(scene.plant, scene.copies, scene.dice)
    deliveries.repeat(scene.plant, scene.copies, scene.dice)


def _web(plant: Plant) -> Part:
    return plant.web


def _worker(plant: Plant) -> Part:
    return plant.worker


def _postgres(plant: Plant) -> Part:
    return plant.postgres


def _kill_both(scene: Scene) -> None:
    scene.plant.redis.kill()
    scene.plant.postgres.kill()


def _start_both(scene: Scene) -> None:
    scene.plant.redis.start()
    scene.plant.postgres.start()


def _kill_redis_under_tasks(scene: Scene) -> None:
    """Every place of the worker is taken, and none can be given back to the broker."""
    deliveries.ensure(scene.plant, scene.copies, scene.dice)
    scene.plant.postgres.pause()
    deliveries.repeat(scene.plant, scene.copies, scene.dice)
    sleep(TAKEN)
    scene.plant.redis.kill()
    scene.plant.postgres.resume()


def _restart_web_without_database(scene: Scene) -> None:
    scene.plant.postgres.pause()
    scene.plant.web.kill()
    scene.plant.web.start()


def _fill_disk(scene: Scene) -> None:
    """Under new journals, since those that are there have pages to spare."""
    scene.plant.journal.fill(scene.plant.web.tree)
    send(SIGKILL, scene.plant.web.children)


def _trace(injection: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        log = scene.plant.web.log.with_name("strace.log")
        scene.tracer = Tracer(scene.plant.web.children, injection, log)

    return strike


def _detach(scene: Scene) -> None:
    if scene.tracer is not None:
        scene.tracer.detach()
        scene.tracer = None


def _move_clock(scene: Scene) -> None:
    assert scene.plant.clock is not None
    scene.plant.clock.set(scene.dice.choice(SHIFTS))


def _put_clock_right(scene: Scene) -> None:
    assert scene.plant.clock is not None
    scene.plant.clock.set(0)


_ANSWERS: frozenset[Harm] = frozenset({"answers"})
_DATABASE: frozenset[Harm] = frozenset({"database"})
_JOURNAL: frozenset[Harm] = frozenset({"journal"})

CLOCK = Fault("web: clock moved", _move_clock, _put_clock_right)

FAULTS = (
    Fault("web: one process killed", _one(_web, SIGKILL), harms=_ANSWERS),
    Fault(
        "web: all killed",
        lambda scene: scene.plant.web.kill(),
        lambda scene: scene.plant.web.start(),
        _ANSWERS,
    ),
    Fault(
        "web: ended in order",
        lambda scene: scene.plant.web.stop(),
        lambda scene: scene.plant.web.start(),
        _ANSWERS,
    ),
    Fault(
        "web: one process stopped",
        _one(_web, SIGSTOP),
        lambda scene: scene.plant.web.resume(),
        _ANSWERS | _JOURNAL,
        stops_web=True,
    ),
    Fault(
        "web: all stopped",
        lambda scene: scene.plant.web.pause(),
        lambda scene: scene.plant.web.resume(),
        _ANSWERS | _JOURNAL,
        stops_web=True,
    ),
    Fault(
        "worker: all killed",
        lambda scene: scene.plant.worker.kill(),
        lambda scene: scene.plant.worker.start(),
    ),
    Fault("worker: one process killed", _one(_worker, SIGKILL)),
    Fault(
        "worker: stopped",
        lambda scene: scene.plant.worker.pause(),
        lambda scene: scene.plant.worker.resume(),
    ),
    Fault(
        "beat: killed",
        lambda scene: scene.plant.beat.kill(),
        lambda scene: scene.plant.beat.start(),
    ),
    Fault(
        "beat: stopped",
        lambda scene: scene.plant.beat.pause(),
        lambda scene: scene.plant.beat.resume(),
    ),
    Fault(
        "Redis: killed",
        lambda scene: scene.plant.redis.kill(),
        lambda scene: scene.plant.redis.start(),
    ),
    Fault(
        "Redis: stopped",
        lambda scene: scene.plant.redis.pause(),
        lambda scene: scene.plant.redis.resume(),
    ),
    Fault(
        "Redis: killed under waiting tasks",
        _kill_redis_under_tasks,
        lambda scene: scene.plant.redis.start(),
        _DATABASE,
    ),
    Fault("Redis: wiped", lambda scene: scene.plant.broker.flushall()),
    Fault(
        "PostgreSQL: killed",
        lambda scene: scene.plant.postgres.kill(),
        lambda scene: scene.plant.postgres.start(),
        _DATABASE,
    ),
    Fault("PostgreSQL: one backend killed", _one(_postgres, SIGKILL), harms=_DATABASE),
    Fault(
        "PostgreSQL: stopped",
        lambda scene: scene.plant.postgres.pause(),
        lambda scene: scene.plant.postgres.resume(),
        _DATABASE,
    ),
    Fault("Redis and PostgreSQL: killed", _kill_both, _start_both, _DATABASE),
    Fault(
        "PostgreSQL stopped, web killed and started",
        _restart_web_without_database,
        lambda scene: scene.plant.postgres.resume(),
        _ANSWERS | _DATABASE,
    ),
    Fault(
        "deliveries: doubled, out of order",
        lambda scene: scene.plant.worker.pause(),
        lambda scene: deliveries.double(scene.plant, scene.copies, scene.dice),
    ),
    Fault(
        "deliveries: made again later",
        _deliver_again,
    ),
    Fault(
        "journal's disk: full, web processes killed",
        _fill_disk,
        lambda scene: scene.plant.journal.free(),
        _ANSWERS | _JOURNAL,
    ),
    Fault("journal's disk: fails (EIO)", _trace("error=EIO"), _detach, _JOURNAL),
    Fault("journal's disk: fails now and then", _trace("error=EIO:when=3+7"), _detach, _JOURNAL),
    Fault("journal's disk: hangs", _trace(f"delay_enter={HANG * 10**6}"), _detach, _JOURNAL),
)


def possible(plant: Plant) -> tuple[Fault, ...]:
    """All kinds that can be had on this machine."""
    return FAULTS if plant.clock is None else (*FAULTS, CLOCK)
