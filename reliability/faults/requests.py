"""What was asked, what came of it, and which faults there were meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from reliability.faults.faults import Fault, Harm

Effect = Literal["allowed", "denied"]

NOTHING = "no fault yet"


@dataclass(frozen=True)
class ElevationRequest:
    """One request as its client saw it."""

    request_id: str
    effect: Effect | None
    """What the ledger has to say of it; `None` for a plain one, of which it says nothing."""
    began: float
    ended: float
    """By the monotonic clock."""
    status: int | None
    """`None` where there was no answer, or not all of it."""
    code: str | None = None
    """The error's, where the answer is one."""
    receipts: tuple[str, ...] = ()
    wrong: str | None = None
    """What is wrong with the answer's body."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def is_access(self) -> bool:
        return self.effect is not None

    @property
    def is_acknowledged(self) -> bool:
        """Whether somebody was told that this is on record."""
        return bool(self.receipts)


@dataclass(frozen=True)
class Struck:
    fault: Fault
    began: float
    calm: float
    """When everything was seen to be well again."""


class History:
    """The faults of a run in their order."""

    def __init__(self) -> None:
        self._struck: list[Struck] = []

    def __len__(self) -> int:
        return len(self._struck)

    def __iter__(self) -> Iterator[Struck]:
        return iter(self._struck)

    def add(self, struck: Struck) -> None:
        self._struck.append(struck)

    def last_before(self, moment: float) -> str:
        """The fault that struck last: what happens until the next one is set down to it."""
        names = [struck.fault.name for struck in self._struck if struck.began <= moment]
        return names[-1] if names else NOTHING

    def excuses(self, asked: ElevationRequest, harm: Harm) -> bool:
        """Whether a fault that does such harm was there during the request."""
        return any(harm in struck.fault.harms for struck in self._during(asked))

    def stopped_web(self, asked: ElevationRequest) -> bool:
        return any(struck.fault.stops_web for struck in self._during(asked))

    def _during(self, asked: ElevationRequest) -> Iterator[Struck]:
        for struck in self._struck:
            if struck.began <= asked.ended and asked.began <= struck.calm:
                yield struck
