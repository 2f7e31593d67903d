"""What requests count, added to Prometheus' own numbers a moment later, much of it at once.

Where several processes share their numbers, each addition takes a lock and writes to a file: five
of them took longer than to find a request's route.
"""

from collections import Counter as Counts
from collections import deque
from threading import Lock

from prometheus_client import Counter, Histogram

from webapp.soon import Soon


class MetricsBuffer:
    """One process's; for many threads."""

    def __init__(self) -> None:
        self._counted: deque[Counter] = deque()
        self._observed: deque[tuple[Histogram, float]] = deque()
        self._adding = Lock()
        self._flush_soon = Soon(self.flush, "tally")

    def count(self, counter: Counter) -> None:
        self._counted.append(counter)
        self._flush_soon()

    def observe(self, histogram: Histogram, value: float) -> None:
        self._observed.append((histogram, value))
        self._flush_soon()

    def flush(self) -> None:
        """Add what was counted until now."""
        with self._adding:
            counts = Counts(self._counted.popleft() for _ in range(len(self._counted)))
            for counter, times in counts.items():
                counter.inc(times)
            for _ in range(len(self._observed)):
                histogram, value = self._observed.popleft()
                histogram.observe(value)


tally = MetricsBuffer()
