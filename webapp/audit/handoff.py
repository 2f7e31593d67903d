"""The hand-off: events leave the request for the worker that commits them.

A task for each event would cost the request more than the look itself. Threads that wait at the
same time share one send: whoever finds the door free carries everything that waits, and the others
find theirs done.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

from webapp.audit.event import AuditEvent, dump_event, event_mac

SealedEvent = tuple[str, str]
"""An event's canonical bytes as text, and their MAC in hex: what travels through the broker."""


class HandOffFailed(Exception):
    """The events were not accepted within the time allowed: nothing may be served on them."""


@dataclass
class _Parcel:
    """One thread's events, and what became of them."""

    events: Sequence[SealedEvent]
    sent: bool = False
    error: Exception | None = field(default=None)


class HandOff:
    """Hands events over in batches; safe to call from many threads.

    `send` delivers a batch and raises when it was not accepted. `timeout` is in seconds and bounds
    the wait for the door; `send` bounds itself.
    """

    def __init__(
        self, send: Callable[[list[SealedEvent]], None], key: bytes, timeout: float
    ) -> None:
        self._send = send
        self._key = key
        self._timeout = timeout
        self._door = Lock()
        self._waiting: list[_Parcel] = []
        self._waiting_lock = Lock()

    def hand_off(self, events: Sequence[AuditEvent]) -> None:
        """Return once every event is accepted; raises `HandOffFailed`."""
        parcel = _Parcel([self._seal(event) for event in events])
        deadline = time.monotonic() + self._timeout
        with self._waiting_lock:
            self._waiting.append(parcel)
        if not self._door.acquire(timeout=max(0.0, deadline - time.monotonic())):
            self._withdraw(parcel)
            raise HandOffFailed("the hand-off is held up")
        try:
            if not parcel.sent and parcel.error is None:
                self._carry_all()
        finally:
            self._door.release()
        if parcel.error is not None:
            raise HandOffFailed("the broker did not accept the events") from parcel.error

    def _seal(self, event: AuditEvent) -> SealedEvent:
        data = dump_event(event)
        return data.decode(), event_mac(data, self._key)

    def _carry_all(self) -> None:
        with self._waiting_lock:
            parcels, self._waiting = self._waiting, []
        try:
            self._send([event for parcel in parcels for event in parcel.events])
        except Exception as error:  # each waiting thread raises it as its own
            for parcel in parcels:
                parcel.error = error
        else:
            for parcel in parcels:
                parcel.sent = True

    def _withdraw(self, parcel: _Parcel) -> None:
        with self._waiting_lock:
            if parcel in self._waiting:
                self._waiting.remove(parcel)
