"""Checks of dependencies that may hang: each in its own thread, and nobody waits past the limit."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from threading import Lock, Thread
from time import monotonic

import structlog

LIMIT = 1.0
"""Seconds that one run of all probes may take."""

ABANDONED = 30.0
"""Seconds after which a check that hangs is left to itself and another may start."""

log = structlog.get_logger()


class CheckFailed(Exception):
    """A check's own words for what is wrong, fit to be shown to anybody."""


@dataclass(frozen=True)
class Finding:
    ok: bool
    detail: str


@dataclass(frozen=True)
class _Flight:
    began: float = field(default_factory=monotonic)
    finding: Future[Finding] = field(default_factory=Future)

    @property
    def current(self) -> bool:
        return not self.finding.done() and monotonic() - self.began < ABANDONED


class Probe:
    """One check, never running twice at a time: who asks meanwhile waits for the same answer.

    `check` raises when the dependency is not well.
    """

    def __init__(self, name: str, check: Callable[[], None]) -> None:
        self._name = name
        self._check = check
        self._lock = Lock()
        self._flight: _Flight | None = None

    def start(self) -> Future[Finding]:
        with self._lock:
            if self._flight is None or not self._flight.current:
                self._flight = _Flight()
                # A daemon: a check that hangs must not keep the process from ending.
                Thread(target=self._run, args=(self._flight.finding,), daemon=True).start()
            return self._flight.finding

    def _run(self, finding: Future[Finding]) -> None:
        try:
            self._check()
        except CheckFailed as error:
            finding.set_result(Finding(False, str(error)))
        except Exception as error:
            log.warning("check_failed", check=self._name, error=repr(error))
            finding.set_result(Finding(False, type(error).__name__))
        else:
            finding.set_result(Finding(True, "ok"))


def run_probes(probes: Mapping[str, Probe], limit: float = LIMIT) -> dict[str, Finding]:
    """What each probe finds, all at once, within `limit` seconds."""
    deadline = monotonic() + limit
    flights = {name: probe.start() for name, probe in probes.items()}
    return {name: _wait(flight, deadline, limit) for name, flight in flights.items()}


def _wait(flight: Future[Finding], deadline: float, limit: float) -> Finding:
    try:
        return flight.result(timeout=max(0.0, deadline - monotonic()))
    except NotYet:
        return Finding(False, f"no answer within {limit:g} s")
