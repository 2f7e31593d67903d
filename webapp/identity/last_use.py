"""Reports of a token's last use, sent to the worker without delaying a request.

A request only puts the use into a queue; a thread of the process sends it. The time of the last use
is a convenience: a use that cannot be sent is dropped, and after a failure nothing is sent for a
while.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from queue import Full, Queue
from threading import Lock, Thread
from time import monotonic
from uuid import UUID

import structlog

TOUCH_TASK = "identity.touch_token"
INTERVAL = 60.0
"""Seconds between two messages about one token, and after a failure until the next attempt."""

KNOWN = 10_000
"""The number of tokens whose next report a process keeps the time of."""

WAITING = 1_000
"""The number of uses that may wait to be sent."""

log = structlog.get_logger()

Send = Callable[[UUID, datetime], None]


class LastUse:
    """Sends the uses of tokens in one process. `send` may block, and may raise any exception."""

    def __init__(self, send: Send, clock: Callable[[], float] = monotonic) -> None:
        self._send = send
        self._clock = clock
        self._due: dict[int, float] = {}
        """When a token may be sent again, by the integer of its id, which is quicker to hash."""
        self._resume = clock()
        self._lock = Lock()
        self._queue: Queue[tuple[UUID, datetime]] = Queue(WAITING)
        self._thread: Thread | None = None

    def note(self, token_id: UUID) -> None:
        """Queue the token's use for sending, unless one was queued within the INTERVAL."""
        now, key = self._clock(), token_id.int
        if now < self._due.get(key, now):
            return
        with self._lock:
            if now < self._resume or now < self._due.get(key, now):
                return
            self._due.pop(key, None)
            while len(self._due) >= KNOWN:
                del self._due[next(iter(self._due))]
            self._due[key] = now + INTERVAL
        try:
            self._queue.put_nowait((token_id, datetime.now(UTC)))
            self._ensure_thread()
        except (Full, RuntimeError) as error:  # RuntimeError: no thread can be started
            self._pause(error)

    def _ensure_thread(self) -> None:
        """Start the thread at the first use: threads do not survive the fork of a web process."""
        with self._lock:
            if self._thread is None:
                thread = Thread(target=self._send_queued, name="last-use", daemon=True)
                thread.start()
                self._thread = thread

    def _send_queued(self) -> None:
        while True:
            token_id, used_at = self._queue.get()
            if self._clock() < self._resume:
                continue
            try:
                self._send(token_id, used_at)
            except Exception as error:  # no failure of a broker may end the thread
                self._pause(error)

    def _pause(self, error: Exception) -> None:
        self._resume = self._clock() + INTERVAL
        log.warning("token_last_use_not_sent", problem=type(error).__name__, pause=INTERVAL)
