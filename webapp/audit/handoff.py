"""The hand-off: events leave the request for the worker that commits them.

A task for each event would cost the request more than the look itself. So one thread of the process
sends whatever waits at the moment, and the requests await it, none longer than its time: what
hangs is that thread, never a request.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from time import sleep

from webapp.audit.event import AuditEvent, dump_event, event_mac

SealedEvent = tuple[str, str]
"""An event's canonical bytes as text, and their MAC in hex: what travels through the broker."""

LINGER = 0.002
"""Seconds that a batch waits for more, where the one before it was more than one request's: a send
takes as long as a whole cached answer."""


class HandOffFailed(Exception):
    """The events were not known to be accepted in time: nothing may be served on them."""


@dataclass(eq=False)
class _Parcel:
    """One request's events, and what became of them."""

    events: Sequence[SealedEvent]
    outcome: SimpleQueue[Exception | None] = field(default_factory=SimpleQueue)


class HandOff:
    """Hands events over in batches; safe to call from many threads.

    `send` delivers a batch and raises when it was not accepted; it is never called twice at a time.
    `timeout` is in seconds and bounds the wait, whatever `send` does.
    """

    def __init__(
        self, send: Callable[[list[SealedEvent]], None], key: bytes, timeout: float
    ) -> None:
        self._send = send
        self._key = key
        self._timeout = timeout
        self._changed = Condition()
        self._waiting: list[_Parcel] = []
        self._thread: Thread | None = None

    def hand_off(self, events: Sequence[AuditEvent]) -> None:
        """Return once every event is accepted; raises `HandOffFailed`.

        Events that were being sent when the time was over may be committed nevertheless: what was
        refused may stand in the ledger, what was served always does.
        """
        parcel = _Parcel([self._seal(event) for event in events])
        with self._changed:
            self._ensure_thread()
            self._waiting.append(parcel)
            self._changed.notify()
        try:
            error = parcel.outcome.get(timeout=self._timeout)
        except Empty:
            self._withdraw(parcel)
            raise HandOffFailed("the broker did not accept the events in time") from None
        if error is not None:
            raise HandOffFailed("the broker did not accept the events") from error

    def _seal(self, event: AuditEvent) -> SealedEvent:
        data = dump_event(event)
        return data.decode(), event_mac(data, self._key)

    def _ensure_thread(self) -> None:
        """At the first hand-off: a process that forks after it made the application has none."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = Thread(target=self._carry, name="audit-hand-off", daemon=True)
            self._thread.start()

    def _carry(self) -> None:
        together = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
            if together > 1:
                sleep(LINGER)
            with self._changed:
                parcels, self._waiting = self._waiting, []
            if parcels:
                self._deliver(parcels)
            together = len(parcels)

    def _deliver(self, parcels: Sequence[_Parcel]) -> None:
        error: Exception | None = None
        try:
            self._send([event for parcel in parcels for event in parcel.events])
        except Exception as raised:  # each waiting request raises it as its own
            error = raised
        for parcel in parcels:
            parcel.outcome.put(error)

    def _withdraw(self, parcel: _Parcel) -> None:
        with self._changed:
            if parcel in self._waiting:
                self._waiting.remove(parcel)
