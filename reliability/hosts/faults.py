"""Every kind of fault between hosts: how it is injected and repaired, and what clients may see."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

from reliability.faults.history import Harm
from reliability.hosts.host import Host
from reliability.hosts.site import (
    CACHE_NAME,
    FRONT_NAME,
    POOL_NAME,
    Site,
    WebHost,
)
from reliability.parts import await_until
from webapp.db import migrate

Kind = Literal["promotion", "partition", "loss", "delay", "host", "upgrade", "restore"]

LOSSY = 25
"""Percent of the packets that are lost."""

STATEMENT = 7.0
"""Seconds after which a commit no longer waits for a standby: DATABASE_TIMEOUT and more."""


@dataclass
class FaultContext:
    """What a fault works with."""

    site: Site
    rng: Random
    home: Path

    def web(self) -> WebHost:
        return self.rng.choice(self.site.webs)

    def worker(self) -> Host:
        return self.rng.choice(self.site.workers)


@dataclass(frozen=True)
class Fault:
    name: str
    kind: Kind
    inject: Callable[[FaultContext], object]
    repair: Callable[[FaultContext], object] = lambda context: context.site.restore()
    harms: frozenset[Harm] = frozenset()
    needs: Literal["nothing", "two webs", "three nodes", "a cache"] = "nothing"
    stops_web: bool = False


_ANSWERS: frozenset[Harm] = frozenset({"answers"})
_DATABASE: frozenset[Harm] = frozenset({"answers", "database"})
"""While the database is away, the front has no host that is ready, and answers itself."""


def _rebuild(context: FaultContext) -> None:
    """What a failover manager does at last: the old primary's host gets the new one's data."""
    context.site.database.rebuild_standby()
    context.site.restore()


def _cut_standby(context: FaultContext) -> None:
    database = context.site.database
    context.site.network.cut([database.primary.host.name], [database.standby.host.name])


def _promote(context: FaultContext) -> None:
    context.site.database.promote()
    context.site.network.heal()


def _promote_killed(context: FaultContext, *, synchronous: bool) -> None:
    context.site.database.be_synchronous(wanted=synchronous)
    time.sleep(context.rng.uniform(0.5, 2.0))
    context.site.database.primary.part.kill()
    _promote(context)


def _promote_stopped(context: FaultContext) -> None:
    """The primary hangs, and holds every connection, until it is ended."""
    context.site.database.primary.part.pause()
    time.sleep(context.rng.uniform(0.5, 2.0))
    _promote(context)


def _promote_cut_off(context: FaultContext, *, synchronous: bool) -> None:
    """Nobody reaches the primary any more, and it does not know."""
    database = context.site.database
    database.be_synchronous(wanted=synchronous)
    time.sleep(context.rng.uniform(0.5, 2.0))
    name = database.primary.host.name
    context.site.network.cut([name], context.site.others(name))
    time.sleep(context.rng.uniform(0.5, 2.0))
    _promote(context)


def _promote_lagging(context: FaultContext) -> None:
    """The standby lacks the last seconds, which the primary has confirmed to everybody."""
    _cut_standby(context)
    time.sleep(context.rng.uniform(2.0, 5.0))
    context.site.database.primary.part.kill()
    _promote(context)


def _promote_after_cut_wait(context: FaultContext) -> None:
    """Commits wait for a standby that is cut off, until the limit of a statement ends their wait:
    then everybody sees them, and the standby that is promoted has never had them."""
    context.site.database.be_synchronous(wanted=True)
    _cut_standby(context)
    time.sleep(STATEMENT + context.rng.uniform(0.0, 3.0))
    context.site.database.primary.part.kill()
    _promote(context)


def _cut(
    context: FaultContext,
    one: Callable[[FaultContext], Sequence[str]],
    other: Callable[[FaultContext], Sequence[str]],
    percent: int = 100,
) -> None:
    names = one(context)
    context.site.network.cut(names, [name for name in other(context) if name not in names], percent)


def _one_web(context: FaultContext) -> Sequence[str]:
    return [context.web().host.name]


def _webs(context: FaultContext) -> Sequence[str]:
    return [web.host.name for web in context.site.webs]


def _one_worker(context: FaultContext) -> Sequence[str]:
    return [context.worker().name]


def _workers(context: FaultContext) -> Sequence[str]:
    return [worker.name for worker in context.site.workers]


def _nodes(context: FaultContext) -> Sequence[str]:
    return [host.name for host in context.site.broker.hosts]


def _one_node(context: FaultContext) -> Sequence[str]:
    return [context.rng.choice(_nodes(context))]


def _primary(context: FaultContext) -> Sequence[str]:
    return [context.site.database.primary.host.name]


def _standby(context: FaultContext) -> Sequence[str]:
    return [context.site.database.standby.host.name]


def _all(context: FaultContext) -> Sequence[str]:
    return list(context.site.hosts)


def _named(name: str) -> Callable[[FaultContext], Sequence[str]]:
    return lambda context: [name]


def _slow(context: FaultContext, which: Callable[[FaultContext], Sequence[str]]) -> None:
    for name in which(context):
        context.site.network.slow(name)


def _die(context: FaultContext, which: Callable[[FaultContext], Sequence[str]]) -> None:
    for name in which(context):
        context.site.hosts[name].die()


def _web_dies_with_disk(context: FaultContext) -> None:
    """The front takes the host out first, and it dies with its disk once it holds no event more."""
    web = context.web()
    take_out(context.site, web)
    await_until(
        f"{web.host.name} is not drained",
        lambda: web.metrics()["sightline_journal_events"] == 0,
    )
    context.site.database.await_standby()
    web.host.die()
    web.host.lose_disk()


def _worker_dies_with_disk(context: FaultContext) -> None:
    worker = context.worker()
    worker.die()
    worker.lose_disk()


def _standby_dies_with_disk(context: FaultContext) -> None:
    standby = context.site.database.standby
    standby.part.kill()
    standby.host.lose_disk()


def _come_back(context: FaultContext) -> None:
    context.site.restore()
    put_back(context.site)


def _upgrade(context: FaultContext) -> None:
    """Restart each host of the product, one after the other, as the page of operations says."""
    site = context.site
    migrate.upgrade(site.app.extensions["settings"])
    for worker in site.workers:
        for part in worker.parts:
            part.stop()
        worker.come_back()
    for web in context.rng.sample(site.webs, len(site.webs)):
        take_out(site, web)
        web.part.stop()
        web.part.start()
        await_until(f"{web.host.name} is not ready", web.is_ready)
        put_back(site)


def _restore(context: FaultContext) -> None:
    """Lose both database hosts' data, some seconds after a base backup."""
    database = context.site.database
    backup = context.home / "backup"
    database.primary.copy(database.primary, backup)
    time.sleep(context.rng.uniform(3.0, 8.0))
    database.restore(backup)


def take_out(site: Site, web: WebHost) -> None:
    """Have the front send a host nothing more, and wait for what it has there."""
    server = f"sightline/{web.host.name}"
    site.tell_front(f"set server {server} state drain")
    busy = partial(_sessions, site, web.host.name)
    await_until(f"{server} still has requests", lambda: busy() == 0)


def put_back(site: Site) -> None:
    for web in site.webs:
        site.tell_front(f"set server sightline/{web.host.name} state ready")
    await_until("a host is not back", lambda: site.front_counts() == len(site.webs))


def _sessions(site: Site, name: str) -> int:
    """The requests of the front that a host has."""
    for line in site.tell_front("show stat").splitlines():
        fields = line.split(",")
        if fields[:2] == ["sightline", name]:
            return int(fields[4])
    raise LookupError(name)


PROMOTIONS = (
    Fault(
        "primary killed, synchronous standby promoted",
        "promotion",
        partial(_promote_killed, synchronous=True),
        _rebuild,
        _DATABASE,
    ),
    Fault(
        "primary killed, asynchronous standby promoted",
        "promotion",
        partial(_promote_killed, synchronous=False),
        _rebuild,
        _DATABASE,
    ),
    Fault("primary stopped, standby promoted", "promotion", _promote_stopped, _rebuild, _DATABASE),
    Fault(
        "primary cut off, asynchronous standby promoted",
        "promotion",
        partial(_promote_cut_off, synchronous=False),
        _rebuild,
        _DATABASE,
    ),
    Fault(
        "primary cut off, synchronous standby promoted",
        "promotion",
        partial(_promote_cut_off, synchronous=True),
        _rebuild,
        _DATABASE,
    ),
    Fault("lagging standby promoted", "promotion", _promote_lagging, _rebuild, _DATABASE),
    Fault(
        "standby promoted after commits waited for it in vain",
        "promotion",
        _promote_after_cut_wait,
        _rebuild,
        _DATABASE,
    ),
)

PARTITIONS = (
    Fault(
        "web | pooler",
        "partition",
        partial(_cut, one=_one_web, other=_named(POOL_NAME)),
        harms=_DATABASE,
    ),
    Fault("all webs | broker", "partition", partial(_cut, one=_webs, other=_nodes)),
    Fault(
        "web | cache",
        "partition",
        partial(_cut, one=_one_web, other=_named(CACHE_NAME)),
        needs="a cache",
    ),
    Fault(
        "front | web",
        "partition",
        partial(_cut, one=_named(FRONT_NAME), other=_one_web),
        harms=_ANSWERS,
    ),
    Fault("web | everybody", "partition", partial(_cut, one=_one_web, other=_all), harms=_DATABASE),
    Fault("workers | broker", "partition", partial(_cut, one=_workers, other=_nodes)),
    Fault("worker | pooler", "partition", partial(_cut, one=_one_worker, other=_named(POOL_NAME))),
    Fault("workers | everybody", "partition", partial(_cut, one=_workers, other=_all)),
    Fault(
        "pooler | primary",
        "partition",
        partial(_cut, one=_named(POOL_NAME), other=_primary),
        harms=_DATABASE,
    ),
    Fault("primary | standby", "partition", partial(_cut, one=_primary, other=_standby)),
    Fault(
        "a node of the broker | the others",
        "partition",
        partial(_cut, one=_one_node, other=_nodes),
        needs="three nodes",
    ),
    Fault(
        "a node of the broker | everybody",
        "partition",
        partial(_cut, one=_one_node, other=_all),
        needs="three nodes",
    ),
)

OTHERS = (
    Fault(
        "web loses packets",
        "loss",
        partial(_cut, one=_one_web, other=_all, percent=LOSSY),
        harms=_DATABASE,
    ),
    Fault(
        "primary loses packets",
        "loss",
        partial(_cut, one=_primary, other=_all, percent=LOSSY),
        harms=_DATABASE,
    ),
    Fault("broker loses packets", "loss", partial(_cut, one=_nodes, other=_all, percent=LOSSY)),
    Fault(
        "packets to the primary delayed", "delay", partial(_slow, which=_primary), harms=_DATABASE
    ),
    Fault(
        "packets to a web host delayed", "delay", partial(_slow, which=_one_web), harms=_DATABASE
    ),
    Fault(
        "web host dies, its disk comes back", "host", partial(_die, which=_one_web), harms=_ANSWERS
    ),
    Fault(
        "all web hosts die, their disks come back",
        "host",
        partial(_die, which=_webs),
        harms=_ANSWERS,
    ),
    Fault(
        "web host dies with its disk, drained",
        "host",
        _web_dies_with_disk,
        _come_back,
        needs="two webs",
    ),
    Fault("worker host dies with its disk", "host", _worker_dies_with_disk),
    Fault("standby dies with its disk", "host", _standby_dies_with_disk, _rebuild),
    Fault("a node of the broker dies, its disk comes back", "host", partial(_die, which=_one_node)),
    Fault("pooler dies", "host", partial(_die, which=_named(POOL_NAME)), harms=_DATABASE),
    Fault(
        "cache dies with all it has",
        "host",
        partial(_die, which=_named(CACHE_NAME)),
        needs="a cache",
    ),
    Fault("front dies", "host", partial(_die, which=_named(FRONT_NAME)), harms=_ANSWERS),
    Fault("rolling upgrade", "upgrade", _upgrade, needs="two webs"),
    Fault("database restored from an older backup", "restore", _restore, _rebuild, _DATABASE),
)

FAULTS = (*PROMOTIONS, *PARTITIONS, *OTHERS)


def possible_faults(site: Site) -> tuple[Fault, ...]:
    """The faults that this many hosts can have."""
    has = {
        "nothing": True,
        "two webs": len(site.webs) > 1,
        "three nodes": len(site.broker.hosts) > 2,
        "a cache": CACHE_NAME in site.hosts,
    }
    return tuple(fault for fault in FAULTS if has[fault.needs])
