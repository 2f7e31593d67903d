"""When a token was last used, told to the worker without holding a request up.

A request leaves a note and goes on; a thread of the process carries the notes. It is worth no
trouble: a note that cannot be sent is dropped, and a broker that failed is left alone for a while.
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
"""Seconds between two notes of one token, and after a failure until the next attempt."""

KNOWN = 10_000
WAITING = 1_000

log = structlog.get_logger()

Send = Callable[[UUID, datetime], None]


class LastUse:
    """The notes of one process; `send` may block and raise as it likes."""

    def __init__(self, send: Send, clock: Callable[[], float] = monotonic) -> None:
        self._send = send
        self._clock = clock
        self._due: dict[int, float] = {}
        """By the integers of the tokens' ids, which are much faster to find than the ids."""
        self._resume = clock()
        self._lock = Lock()
        self._waiting: Queue[tuple[UUID, datetime]] = Queue(WAITING)
        self._thread: Thread | None = None

    def note(self, token_id: UUID) -> None:
        """Have it known that the token is used now, unless that was said within the INTERVAL."""
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
            self._waiting.put_nowait((token_id, datetime.now(UTC)))
            self._ensure_thread()
        except (Full, RuntimeError) as error:  # no room, or no thread to be had
            self._give_up(error)

    def _ensure_thread(self) -> None:
        """At the first note: a process that forks after it made the application has none yet."""
        with self._lock:
            if self._thread is None:
                thread = Thread(target=self._carry, name="last-use", daemon=True)
                thread.start()
                self._thread = thread

    def _carry(self) -> None:
        while True:
            token_id, used_at = self._waiting.get()
            if self._clock() < self._resume:
                continue
            try:
                self._send(token_id, used_at)
            except Exception as error:  # whatever a broker does, requests do not feel it
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._resume = self._clock() + INTERVAL
        log.warning("token_last_use_not_sent", problem=type(error).__name__, pause=INTERVAL)
