"""Every kind of fault: how it strikes, how it is mended, and what a client may meet meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from signal import SIGKILL, SIGSTOP
from time import sleep
from typing import Literal

from reliability.faults import deliveries
from reliability.faults.disk import Tracer
from reliability.faults.installation import Installation, Part, send

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

    installation: Installation
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


def _one(part: Callable[[Installation], Part], signal: int) -> Callable[[Scene], None]:
    """A signal for one of the processes that a part has started."""

    def strike(scene: Scene) -> None:
        children = part(scene.installation).children
        if children:
            send(SIGSTOP if signal == SIGSTOP else SIGKILL, [scene.dice.choice(children)])

    return strike


def _deliver_again(scene: Scene) -> None:
    deliveries.ensure(scene.installation, scene.copies, scene.dice)
    deliveries.repeat(scene.installation, scene.copies, scene.dice)


def _web(installation: Installation) -> Part:
    return installation.web


def _worker(installation: Installation) -> Part:
    return installation.worker


def _postgres(installation: Installation) -> Part:
    return installation.postgres


def _kill_both(scene: Scene) -> None:
    scene.installation.redis.kill()
    scene.installation.postgres.kill()


def _start_both(scene: Scene) -> None:
    scene.installation.redis.start()
    scene.installation.postgres.start()


def _kill_redis_under_tasks(scene: Scene) -> None:
    """Every place of the worker is taken, and none can be given back to the broker."""
    deliveries.ensure(scene.installation, scene.copies, scene.dice)
    scene.installation.postgres.pause()
    deliveries.repeat(scene.installation, scene.copies, scene.dice)
    sleep(TAKEN)
    scene.installation.redis.kill()
    scene.installation.postgres.resume()


def _restart_web_without_database(scene: Scene) -> None:
    scene.installation.postgres.pause()
    scene.installation.web.kill()
    scene.installation.web.start()


def _fill_disk(scene: Scene) -> None:
    """Under new journals, since those that are there have pages to spare."""
    scene.installation.journal.fill(scene.installation.web.tree)
    send(SIGKILL, scene.installation.web.children)


def _trace(injection: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        log = scene.installation.web.log.with_name("strace.log")
        scene.tracer = Tracer(scene.installation.web.children, injection, log)

    return strike


def _detach(scene: Scene) -> None:
    if scene.tracer is not None:
        scene.tracer.detach()
        scene.tracer = None


def _move_clock(scene: Scene) -> None:
    assert scene.installation.clock is not None
    scene.installation.clock.set(scene.dice.choice(SHIFTS))


def _put_clock_right(scene: Scene) -> None:
    assert scene.installation.clock is not None
    scene.installation.clock.set(0)


_ANSWERS: frozenset[Harm] = frozenset({"answers"})
_DATABASE: frozenset[Harm] = frozenset({"database"})
_JOURNAL: frozenset[Harm] = frozenset({"journal"})

CLOCK = Fault("web: clock moved", _move_clock, _put_clock_right)

FAULTS = (
    Fault("web: one process killed", _one(_web, SIGKILL), harms=_ANSWERS),
    Fault(
        "web: all killed",
        lambda scene: scene.installation.web.kill(),
        lambda scene: scene.installation.web.start(),
        _ANSWERS,
    ),
    Fault(
        "web: ended in order",
        lambda scene: scene.installation.web.stop(),
        lambda scene: scene.installation.web.start(),
        _ANSWERS,
    ),
    Fault(
        "web: one process stopped",
        _one(_web, SIGSTOP),
        lambda scene: scene.installation.web.resume(),
        _ANSWERS | _JOURNAL,
        stops_web=True,
    ),
    Fault(
        "web: all stopped",
        lambda scene: scene.installation.web.pause(),
        lambda scene: scene.installation.web.resume(),
        _ANSWERS | _JOURNAL,
        stops_web=True,
    ),
    Fault(
        "worker: all killed",
        lambda scene: scene.installation.worker.kill(),
        lambda scene: scene.installation.worker.start(),
    ),
    Fault("worker: one process killed", _one(_worker, SIGKILL)),
    Fault(
        "worker: stopped",
        lambda scene: scene.installation.worker.pause(),
        lambda scene: scene.installation.worker.resume(),
    ),
    Fault(
        "beat: killed",
        lambda scene: scene.installation.beat.kill(),
        lambda scene: scene.installation.beat.start(),
    ),
    Fault(
        "beat: stopped",
        lambda scene: scene.installation.beat.pause(),
        lambda scene: scene.installation.beat.resume(),
    ),
    Fault(
        "Redis: killed",
        lambda scene: scene.installation.redis.kill(),
        lambda scene: scene.installation.redis.start(),
    ),
    Fault(
        "Redis: stopped",
        lambda scene: scene.installation.redis.pause(),
        lambda scene: scene.installation.redis.resume(),
    ),
    Fault(
        "Redis: killed under waiting tasks",
        _kill_redis_under_tasks,
        lambda scene: scene.installation.redis.start(),
        _DATABASE,
    ),
    Fault("Redis: wiped", lambda scene: scene.installation.broker.flushall()),
    Fault(
        "PostgreSQL: killed",
        lambda scene: scene.installation.postgres.kill(),
        lambda scene: scene.installation.postgres.start(),
        _DATABASE,
    ),
    Fault("PostgreSQL: one backend killed", _one(_postgres, SIGKILL), harms=_DATABASE),
    Fault(
        "PostgreSQL: stopped",
        lambda scene: scene.installation.postgres.pause(),
        lambda scene: scene.installation.postgres.resume(),
        _DATABASE,
    ),
    Fault("Redis and PostgreSQL: killed", _kill_both, _start_both, _DATABASE),
    Fault(
        "PostgreSQL stopped, web killed and started",
        _restart_web_without_database,
        lambda scene: scene.installation.postgres.resume(),
        _ANSWERS | _DATABASE,
    ),
    Fault(
        "deliveries: doubled, out of order",
        lambda scene: scene.installation.worker.pause(),
        lambda scene: deliveries.double(scene.installation, scene.copies, scene.dice),
    ),
    Fault(
        "deliveries: made again later",
        _deliver_again,
    ),
    Fault(
        "journal's disk: full, web processes killed",
        _fill_disk,
        lambda scene: scene.installation.journal.free(),
        _ANSWERS | _JOURNAL,
    ),
    Fault("journal's disk: fails (EIO)", _trace("error=EIO"), _detach, _JOURNAL),
    Fault("journal's disk: fails now and then", _trace("error=EIO:when=3+7"), _detach, _JOURNAL),
    Fault("journal's disk: hangs", _trace(f"delay_enter={HANG * 10**6}"), _detach, _JOURNAL),
)


def possible(installation: Installation) -> tuple[Fault, ...]:
    """All kinds that can be had on this machine."""
    return FAULTS if installation.clock is None else (*FAULTS, CLOCK)
