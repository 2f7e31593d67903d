"""Every kind of fault: how it is injected and repaired, and what clients may see meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from signal import SIGKILL, SIGSTOP
from time import sleep

from reliability.faults import deliveries
from reliability.faults.disk import Tracer
from reliability.faults.history import Harm
from reliability.faults.installation import Installation
from reliability.parts import Part, kill_child, send

TAKING = 1.0
"""Seconds in which the worker takes as many tasks as it can."""

DAY = 86_400
SHIFTS = (-400 * DAY, -3_600, 3_600, 40 * DAY, 400 * DAY)
HANG = 4
"""Seconds that each write to the disk takes: twice as long as a request may wait for it."""


@dataclass
class FaultContext:
    """What a fault works with."""

    installation: Installation
    rng: Random
    copies: deliveries.Copies = field(default_factory=deliveries.empty_copies)
    tracer: Tracer | None = None


@dataclass(frozen=True)
class Fault:
    name: str
    inject: Callable[[FaultContext], object]
    repair: Callable[[FaultContext], object] = lambda context: None
    harms: frozenset[Harm] = frozenset()
    stops_web: bool = False
    """Whether the fault stops the web processes, which makes every wait of theirs long."""


def _one(part: Callable[[Installation], Part], signal: int) -> Callable[[FaultContext], None]:
    """Send a signal to one of the processes that a part has started."""

    def inject(context: FaultContext) -> None:
        children = part(context.installation).children
        if not children:
            return
        child = context.rng.choice(children)
        if signal == SIGKILL:
            kill_child(child)
        else:
            send(SIGSTOP, [child])

    return inject


def _deliver_again(context: FaultContext) -> None:
    deliveries.ensure_copies(context.installation, context.copies, context.rng)
    deliveries.redeliver(context.installation, context.copies, context.rng)


def _web(installation: Installation) -> Part:
    return installation.web


def _worker(installation: Installation) -> Part:
    return installation.worker


def _postgres(installation: Installation) -> Part:
    return installation.postgres


def _kill_both(context: FaultContext) -> None:
    context.installation.redis.kill()
    context.installation.postgres.kill()


def _start_both(context: FaultContext) -> None:
    context.installation.redis.start()
    context.installation.postgres.start()


def _kill_redis_under_tasks(context: FaultContext) -> None:
    """Kill Redis while every slot of the worker holds a task, so that none can be acknowledged."""
    deliveries.ensure_copies(context.installation, context.copies, context.rng)
    context.installation.postgres.pause()
    deliveries.redeliver(context.installation, context.copies, context.rng)
    sleep(TAKING)
    context.installation.redis.kill()
    context.installation.postgres.resume()


def _restart_web_without_database(context: FaultContext) -> None:
    context.installation.postgres.pause()
    context.installation.web.kill()
    context.installation.web.start()


def _fill_disk(context: FaultContext) -> None:
    """Fill the disk and kill the web processes: existing journals have pages to spare, new ones
    have none."""
    context.installation.journal.fill(context.installation.web.tree)
    send(SIGKILL, context.installation.web.children)


def _trace(injection: str) -> Callable[[FaultContext], None]:
    def inject(context: FaultContext) -> None:
        log = context.installation.web.log.with_name("strace.log")
        context.tracer = Tracer(context.installation.web.children, injection, log)

    return inject


def _detach(context: FaultContext) -> None:
    if context.tracer is not None:
        context.tracer.detach()
        context.tracer = None


def _move_clock(context: FaultContext) -> None:
    assert context.installation.clock is not None
    context.installation.clock.set(context.rng.choice(SHIFTS))


def _put_clock_right(context: FaultContext) -> None:
    assert context.installation.clock is not None
    context.installation.clock.set(0)


_ANSWERS: frozenset[Harm] = frozenset({"answers"})
_DATABASE: frozenset[Harm] = frozenset({"database"})
_JOURNAL: frozenset[Harm] = frozenset({"journal"})

CLOCK = Fault("web: clock moved", _move_clock, _put_clock_right)

FAULTS = (
    Fault("web: one process killed", _one(_web, SIGKILL), harms=_ANSWERS),
    Fault(
        "web: all killed",
        lambda context: context.installation.web.kill(),
        lambda context: context.installation.web.start(),
        _ANSWERS,
    ),
    Fault(
        "web: ended in order",
        lambda context: context.installation.web.stop(),
        lambda context: context.installation.web.start(),
        _ANSWERS,
    ),
    Fault(
        "web: one process stopped",
        _one(_web, SIGSTOP),
        lambda context: context.installation.web.resume(),
        _ANSWERS | _JOURNAL,
        stops_web=True,
    ),
    Fault(
        "web: all stopped",
        lambda context: context.installation.web.pause(),
        lambda context: context.installation.web.resume(),
        _ANSWERS | _JOURNAL,
        stops_web=True,
    ),
    Fault(
        "worker: all killed",
        lambda context: context.installation.worker.kill(),
        lambda context: context.installation.worker.start(),
    ),
    Fault("worker: one process killed", _one(_worker, SIGKILL)),
    Fault(
        "worker: stopped",
        lambda context: context.installation.worker.pause(),
        lambda context: context.installation.worker.resume(),
    ),
    Fault(
        "beat: killed",
        lambda context: context.installation.beat.kill(),
        lambda context: context.installation.beat.start(),
    ),
    Fault(
        "beat: stopped",
        lambda context: context.installation.beat.pause(),
        lambda context: context.installation.beat.resume(),
    ),
    Fault(
        "Redis: killed",
        lambda context: context.installation.redis.kill(),
        lambda context: context.installation.redis.start(),
    ),
    Fault(
        "Redis: stopped",
        lambda context: context.installation.redis.pause(),
        lambda context: context.installation.redis.resume(),
    ),
    Fault(
        "Redis: killed under waiting tasks",
        _kill_redis_under_tasks,
        lambda context: context.installation.redis.start(),
        _DATABASE,
    ),
    Fault("Redis: wiped", lambda context: context.installation.broker.flushall()),
    Fault(
        "PostgreSQL: killed",
        lambda context: context.installation.postgres.kill(),
        lambda context: context.installation.postgres.start(),
        _DATABASE,
    ),
    Fault("PostgreSQL: one backend killed", _one(_postgres, SIGKILL), harms=_DATABASE),
    Fault(
        "PostgreSQL: stopped",
        lambda context: context.installation.postgres.pause(),
        lambda context: context.installation.postgres.resume(),
        _DATABASE,
    ),
    Fault("Redis and PostgreSQL: killed", _kill_both, _start_both, _DATABASE),
    Fault(
        "PostgreSQL stopped, web killed and started",
        _restart_web_without_database,
        lambda context: context.installation.postgres.resume(),
        _ANSWERS | _DATABASE,
    ),
    Fault(
        "deliveries: doubled, out of order",
        lambda context: context.installation.worker.pause(),
        lambda context: deliveries.duplicate(context.installation, context.copies, context.rng),
    ),
    Fault(
        "deliveries: made again later",
        _deliver_again,
    ),
    Fault(
        "journal's disk: full, web processes killed",
        _fill_disk,
        lambda context: context.installation.journal.free(),
        _ANSWERS | _JOURNAL,
    ),
    Fault("journal's disk: fails (EIO)", _trace("error=EIO"), _detach, _JOURNAL),
    Fault("journal's disk: fails now and then", _trace("error=EIO:when=3+7"), _detach, _JOURNAL),
    Fault("journal's disk: hangs", _trace(f"delay_enter={HANG * 10**6}"), _detach, _JOURNAL),
)


def available_faults(installation: Installation) -> tuple[Fault, ...]:
    """The faults that this machine can inject."""
    return FAULTS if installation.clock is None else (*FAULTS, CLOCK)
