"""What a request leaves to be done a moment later, with what others leave: by a thread, since each
time it would cost the request more than all of them together cost the thread."""

import atexit
from collections.abc import Callable
from threading import Event, Lock, Thread
from time import sleep

import structlog

from webapp.forking import after_fork

GATHER = 0.05
"""Seconds in which more may come."""

log = structlog.get_logger()


class Soon:
    """Calls `do` on a thread of its own, GATHER after it was called itself; and at the end of the
    process. Cheap to call, as often as one likes."""

    def __init__(self, do: Callable[[], None], name: str) -> None:
        self._do = do
        self._name = name
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a process that has just begun: a fork leaves the thread behind."""
        self._runs = False
        self._starting = Lock()
        self._called = Event()
        self._is_called = False
        """What the event says, at a fifth of the price of asking it."""

    def __call__(self) -> None:
        if not self._is_called:
            self._is_called = True
            self._called.set()
        if not self._runs:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._runs:
                return
            thread = Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread to be had
                self._do()
                return
            atexit.register(self._do)
            self._runs = True

    def _run(self) -> None:
        while True:
            self._called.wait()
            sleep(GATHER)
            self._called.clear()
            self._is_called = False  # last, so that no call can go between the two unheard
            try:
                self._do()
            except Exception as error:  # what comes later shall not wait for ever
                log.error("left_undone", by=self._name, exc_info=error)
