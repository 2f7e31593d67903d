"""Checks of dependencies that may hang: each has its own thread, and nobody waits for long."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import inf
from threading import Lock, Thread
from time import monotonic

import structlog

LIMIT = 1.0
"""Seconds that one run of all probes may take."""

RECENT = 10.0
"""Seconds for which a good answer stands in for one that does not come within the limit.

On a busy host a check takes long though all is well, and a load balancer must not take out one host
after the other then. What is really gone shows by then at the latest.
"""

ABANDONED = 30.0
"""Seconds after which a hanging check is abandoned and another may start."""

log = structlog.get_logger()


class CheckFailed(Exception):
    """A check has failed; the text may be shown to anybody."""


@dataclass(frozen=True)
class ProbeResult:
    ok: bool
    detail: str


@dataclass(frozen=True)
class _Answer:
    result: ProbeResult
    at: float = field(default_factory=monotonic)


@dataclass(frozen=True)
class _Check:
    began: float = field(default_factory=monotonic)
    future: Future[ProbeResult] = field(default_factory=Future)

    @property
    def current(self) -> bool:
        return not self.future.done() and monotonic() - self.began < ABANDONED


class Probe:
    """A check that never runs twice at a time: all who start it meanwhile wait for one result.

    `check` raises when the dependency is not well, and may return what there is to say of it.
    Without an `essential` one no request is served.
    """

    def __init__(
        self, name: str, check: Callable[[], str | None], *, essential: bool = True
    ) -> None:
        self.essential = essential
        self._name = name
        self._check = check
        self._lock = Lock()
        self._running: _Check | None = None
        self._last: _Answer | None = None

    def start(self) -> Future[ProbeResult]:
        with self._lock:
            if self._running is None or not self._running.current:
                self._running = _Check()
                # A daemon thread: a hanging check must not keep the process from ending.
                Thread(target=self._run, args=(self._running,), daemon=True).start()
            return self._running.future

    def stand_in(self, missing: str) -> ProbeResult:
        """What counts where the check has not answered in time, which `missing` says.

        It is the last answer, if that was good and is recent.
        """
        last = self._last
        age = inf if last is None else monotonic() - last.at
        if last is None or not last.result.ok or age > RECENT:
            return ProbeResult(False, missing)
        return ProbeResult(True, f"{last.result.detail} {age:.0f} s ago; {missing}")

    def _run(self, check: _Check) -> None:
        result = self._ask()
        with self._lock:
            if check is self._running:  # and was not abandoned meanwhile
                self._last = _Answer(result)
        check.future.set_result(result)

    def _ask(self) -> ProbeResult:
        try:
            return ProbeResult(True, self._check() or "ok")
        except CheckFailed as error:
            return ProbeResult(False, str(error))
        except Exception as error:
            log.warning("check_failed", check=self._name, error=repr(error))
            return ProbeResult(False, type(error).__name__)


def run_probes(probes: Mapping[str, Probe], limit: float = LIMIT) -> dict[str, ProbeResult]:
    """Run all probes at once, and return their results within `limit` seconds.

    A probe that has not answered by then counts by its last answer, if that was good and recent.
    """
    deadline = monotonic() + limit
    running = {name: (probe, probe.start()) for name, probe in probes.items()}
    missing = f"no answer within {limit:g} s"
    return {name: _wait(*each, deadline, missing) for name, each in running.items()}


def _wait(probe: Probe, result: Future[ProbeResult], deadline: float, missing: str) -> ProbeResult:
    try:
        return result.result(timeout=max(0.0, deadline - monotonic()))
    except TimeoutError:
        return probe.stand_in(missing)
