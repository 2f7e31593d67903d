"""What a request leaves to be done a moment later, with what others leave: by a thread, since each
time it would cost the request more than all of them together cost the thread."""

import atexit
from collections.abc import Callable
from os import getpid
from threading import Event, Lock, Thread
from time import sleep

import structlog

GATHER = 0.05
"""Seconds in which more may come."""

log = structlog.get_logger()


class Soon:
    """Calls `do` on a thread of its own, GATHER after it was called itself; and at the end of the
    process. Cheap to call, as often as one likes."""

    def __init__(self, do: Callable[[], None], name: str) -> None:
        self._do = do
        self._name = name
        self._called = Event()
        self._starting = Lock()
        self._process: int | None = None
        """Where the thread is: a process that forks after it made this has none yet."""

    def __call__(self) -> None:
        if not self._called.is_set():
            self._called.set()
        if self._process != getpid():
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._process == getpid():
                return
            thread = Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread to be had
                self._do()
                return
            atexit.register(self._do)
            self._process = getpid()

    def _run(self) -> None:
        while True:
            self._called.wait()
            sleep(GATHER)
            self._called.clear()
            try:
                self._do()
            except Exception as error:  # what comes later shall not wait for ever
                log.error("left_undone", by=self._name, exc_info=error)
