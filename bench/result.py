"""What was measured: ratios by round, plain figures, and every answer that was wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """A figure beside a peer's, round by round of one run."""

    what: str
    against: str
    rounds: tuple[float, ...]
    bar: float | None
    """At least; `None` for what is only reported."""

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def reached(self) -> bool | None:
        return None if self.bar is None else self.median >= self.bar


@dataclass(frozen=True)
class Figure:
    what: str
    value: float
    unit: str
    note: str = ""


@dataclass
class Results:
    """Collected as the run goes on; a wrong answer counts for more than any figure."""

    ratios: list[Ratio] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    return tuple(our / their for our, their in zip(ours, theirs, strict=True))
