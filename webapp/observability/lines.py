"""The lines of requests, written a moment later by a thread of their own.

A write gives up the interpreter's lock, and to get it back takes longer than all else that is done
for a line; and who reads our logs may stall, which no request should feel.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

from prometheus_client import Counter

from webapp.soon import Soon

WAITING_MAX = 10_000
"""Lines that may wait for a reader that stalls; what comes then is not written."""

DROPPED = Counter(
    "sightline_log_lines_dropped_total", "Lines of requests that nobody read in time."
)


class LineWriter:
    """Writes events of known fields that hold no secret: nothing is accessed once more.

    `write` gets several lines at a time, each as `render` makes it of its fields.
    """

    def __init__(
        self, render: Callable[[dict[str, Any]], str], write: Callable[[str], None]
    ) -> None:
        self._render = render
        self._write = write
        self._waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._writing = Lock()
        self._flush_soon = Soon(self.flush, "lines")

    def __call__(self, event: str, **fields: object) -> None:
        if self._waiting.qsize() >= WAITING_MAX:
            DROPPED.inc()
            return
        fields.update(event=event, level="info", timestamp=datetime.now(UTC))
        self._waiting.put(fields)
        self._flush_soon()

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
