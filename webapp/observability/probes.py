"""Checks of dependencies that may hang: each has its own thread, and nobody waits for long."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock, Thread
from time import monotonic

import structlog

LIMIT = 1.0
"""Seconds that one run of all probes may take."""

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

    def start(self) -> Future[ProbeResult]:
        with self._lock:
            if self._running is None or not self._running.current:
                self._running = _Check()
                # A daemon thread: a hanging check must not keep the process from ending.
                Thread(target=self._run, args=(self._running.future,), daemon=True).start()
            return self._running.future

    def _run(self, future: Future[ProbeResult]) -> None:
        try:
            detail = self._check()
        except CheckFailed as error:
            future.set_result(ProbeResult(False, str(error)))
        except Exception as error:
            log.warning("check_failed", check=self._name, error=repr(error))
            future.set_result(ProbeResult(False, type(error).__name__))
        else:
            future.set_result(ProbeResult(True, detail or "ok"))


def run_probes(probes: Mapping[str, Probe], limit: float = LIMIT) -> dict[str, ProbeResult]:
    """Run all probes at once, and return their results within `limit` seconds."""
    deadline = monotonic() + limit
    running = {name: probe.start() for name, probe in probes.items()}
    return {name: _wait(result, deadline, limit) for name, result in running.items()}


def _wait(result: Future[ProbeResult], deadline: float, limit: float) -> ProbeResult:
    try:
        return result.result(timeout=max(0.0, deadline - monotonic()))
    except TimeoutError:
        return ProbeResult(False, f"no answer within {limit:g} s")
