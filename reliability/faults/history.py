"""The requests that were sent, their answers, and the faults of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Effect = Literal["allowed", "denied"]
Harm = Literal["answers", "database", "journal"]
"""What may happen to requests: they have no answer, or are refused because of the database, or
elevated ones are refused because of the journal."""

NO_FAULT = "no fault yet"


@dataclass(frozen=True)
class SentRequest:
    """One request, as its client saw it."""

    request_id: str
    effect: Effect | None
    """The effect that the ledger must have; `None` for a plain request, which leaves no event."""
    began: float
    ended: float
    """Seconds of the monotonic clock."""
    status: int | None
    """`None` if there was no complete answer."""
    code: str | None = None
    """The error's code, if the answer is an error."""
    receipts: tuple[str, ...] = ()
    wrong: str | None = None
    """What is wrong with the answer's body, if anything is."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def is_access(self) -> bool:
        return self.effect is not None

    @property
    def is_acknowledged(self) -> bool:
        """Whether the client was told that the access is recorded."""
        return bool(self.receipts)


class Cause(Protocol):
    """What is done to the installation, and what clients may legitimately see of it."""

    @property
    def name(self) -> str: ...

    @property
    def harms(self) -> frozenset[Harm]: ...

    @property
    def stops_web(self) -> bool:
        """Whether it stops the web processes, which makes every wait of theirs long."""


@dataclass(frozen=True)
class FaultPeriod:
    fault: Cause
    began: float
    repaired: float
    """When everything was seen to work again."""


class History:
    """The faults of a run, in order."""

    def __init__(self) -> None:
        self._periods: list[FaultPeriod] = []

    def __len__(self) -> int:
        return len(self._periods)

    def __iter__(self) -> Iterator[FaultPeriod]:
        return iter(self._periods)

    def add(self, period: FaultPeriod) -> None:
        self._periods.append(period)

    def last_before(self, moment: float) -> str:
        """The last fault before a moment: what happens until the next fault is attributed to it."""
        names = [period.fault.name for period in self._periods if period.began <= moment]
        return names[-1] if names else NO_FAULT

    def explains(self, request: SentRequest, harm: Harm) -> bool:
        """Whether a fault that may do this harm was there during the request."""
        return any(harm in period.fault.harms for period in self._during(request))

    def stopped_web(self, request: SentRequest) -> bool:
        return any(period.fault.stops_web for period in self._during(request))

    def _during(self, request: SentRequest) -> Iterator[FaultPeriod]:
        for period in self._periods:
            if period.began <= request.ended and request.began <= period.repaired:
                yield period
