"""The installation that faults break: PostgreSQL, Redis, and the processes of the Procfile."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from flask import Flask
from redis import Redis

from reliability.faults.clock import WallClock, find_wall_clock
from reliability.faults.disk import Disk, journal_disk
from reliability.parts import Part, ProcessPart, ServerPart, await_until, is_ok, is_wholly_ready
from tests.applications import let_staff_access
from tests.processes import command_of, no_settings_of_the_caller
from webapp.application import create_app
from webapp.db import migrate
from webapp.extensions import db
from webapp.settings import read_settings
from webapp.stack import signing_keys
from webapp.stack.home import SIGNING_KEYS, environment_of, open_stack, running
from webapp.stack.servers import free_port

WEB_CONCURRENCY = "2"
ANSWERS = 8
"""Requests in a row that have to be answered well, by whichever web process takes them."""


@dataclass(frozen=True)
class Installation:
    app: Flask
    """Reads the product's database, and takes no requests. It signs as a web process does, for the
    files of journals that attacks leave."""
    environment: Mapping[str, str]
    url: str
    postgres: ServerPart
    redis: ServerPart
    broker: Redis
    web: ProcessPart
    worker: ProcessPart
    beat: ProcessPart
    journal: Disk
    clock: WallClock | None
    """`None` if libfaketime is not installed, or not wanted."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.postgres, self.redis, self.web, self.worker, self.beat)

    def restore(self) -> None:
        """Repair everything, so that all parts run again."""
        if self.clock is not None:
            self.clock.set(0)
        self.journal.free()
        for part in self.parts:
            part.restart()

    def is_well(self) -> bool:
        """Ask often enough that each of the web processes has answered, or one that still suffers
        would be taken for well."""
        return all(is_wholly_ready(f"{self.url}/readyz") for _ in range(ANSWERS))

    def await_well(self) -> None:
        await_until(f"{self.url}/readyz is not ok", self.is_well)


@contextmanager
def running_installation(home: Path, *, as_deployed: bool = False) -> Iterator[Installation]:
    """Run an installation on servers of its own, and leave nothing of it behind.

    `as_deployed` it has its rate limits, and a clock that nobody can move: libfaketime takes time.
    """
    stack = open_stack(home, durable=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **stack.environment,
        "SIGHTLINE_HOME": str(home),
        "JOURNAL_DIR": str(home / "journal"),
        "WEB_CONCURRENCY": WEB_CONCURRENCY,
        "PORT": str(port),
        "PROMETHEUS_MULTIPROC_DIR": str(home / "metrics"),
        "TMPDIR": str(home),  # killed processes clear nothing away
        "RATE_LIMIT_DENIED": "0",  # the load is refused all the time, to see that recorded
    }
    (home / "metrics").mkdir()
    clock = None if as_deployed else find_wall_clock(home / "clock")
    with (
        ExitStack() as cleaning,
        no_settings_of_the_caller(limited=as_deployed),
        running(stack),
        journal_disk(home / "journal") as journal,
    ):
        web_key = {"JOURNAL_SIGNING_KEY": environment[SIGNING_KEYS["web"]]}
        with mock.patch.dict(os.environ, {**environment, **web_key}):
            settings = read_settings()
        migrate.upgrade(settings)
        signing_keys.register(environment)
        app = create_app(settings)
        let_staff_access(app)
        web_environment = {**environment, **(clock.environment if clock else {})}
        web = _part("web", web_environment, home, lambda: is_ok(f"{url}/healthz"))
        worker = _part("worker", environment, home)
        beat = _part("beat", environment, home)
        for part in (worker, beat, web):
            cleaning.callback(part.kill)
            part.start()
        installation = Installation(
            app=app,
            environment=environment,
            url=url,
            postgres=ServerPart(stack.postgres),
            redis=ServerPart(stack.redis),
            broker=stack.redis.client,
            web=web,
            worker=worker,
            beat=beat,
            journal=journal,
            clock=clock,
        )
        installation.await_well()
        try:
            yield installation
        finally:
            # Stopped servers would not end in order, and killed ones have left no process.
            installation.postgres.resume()
            installation.redis.resume()
            with installation.app.app_context():
                db.engine.dispose()


def _part(
    name: str,
    environment: Mapping[str, str],
    home: Path,
    answers: Callable[[], bool] = lambda: True,
) -> ProcessPart:
    """One of the Procfile's processes."""
    own = environment_of(name, environment)
    return ProcessPart(command_of(name), own, home / f"{name}.log", answers)
