"""The lines of requests, written a moment later by a thread of their own.

A write gives up the interpreter's lock, and to get it back takes longer than all else that is done
for a line; and who reads our logs may stall, which no request should feel.
"""

import atexit
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from time import sleep
from typing import Any

from prometheus_client import Counter

GATHER = 0.05
"""Seconds that a line may wait for others."""

WAITING_MAX = 10_000
"""Lines that may wait for a reader that stalls; what comes then is not written."""

DROPPED = Counter(
    "sightline_log_lines_dropped_total", "Lines of requests that nobody read in time."
)


class LineWriter:
    """Writes events of known fields that hold no secret: nothing is looked at once more.

    `write` gets several lines at a time, each as `render` makes it of its fields.
    """

    def __init__(
        self, render: Callable[[dict[str, Any]], str], write: Callable[[str], None]
    ) -> None:
        self._render = render
        self._write = write
        self._waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._some_wait = Event()
        self._starting, self._writing = Lock(), Lock()
        self._thread: Thread | None = None

    def __call__(self, event: str, **fields: object) -> None:
        if self._waiting.qsize() >= WAITING_MAX:
            DROPPED.inc()
            return
        fields.update(event=event, level="info", timestamp=datetime.now(UTC))
        self._waiting.put(fields)
        if not self._some_wait.is_set():
            self._some_wait.set()
        if self._thread is None:
            self._start()

    def flush(self) -> None:
        """Write what waits, now."""
        with self._writing:
            lines = [self._render(line) for line in self._take()]
            if lines:
                self._write("\n".join(lines))

    def _take(self) -> Iterator[dict[str, Any]]:
        with suppress(Empty):
            while True:
                yield self._waiting.get_nowait()

    def _start(self) -> None:
        """At the first line: a process that forks after it made the application has none yet."""
        with self._starting:
            if self._thread is not None:
                return
            thread = Thread(target=self._write_all, name="lines", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread to be had
                self.flush()
                return
            atexit.register(self.flush)
            self._thread = thread

    def _write_all(self) -> None:
        while True:
            self._some_wait.wait()
            sleep(GATHER)
            self._some_wait.clear()
            self.flush()
