"""The results: ratios with their spread, plain figures, growth curves and wrong answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles


@dataclass(frozen=True)
class Ratio:
    """A figure divided by a peer's, once for each round of one run."""

    what: str
    against: str
    rounds: tuple[float, ...]
    bar: float | None
    """The least that the median should be; `None` for what is only reported."""
    cpu_us: tuple[float, float] | None = None
    """The CPU time of an answer in microseconds: ours, and the peer's."""

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Half of the rounds lie between them."""
        if len(self.rounds) < 2:
            return (self.median, self.median)
        low, _, high = quantiles(self.rounds, n=4, method="inclusive")
        return (low, high)

    @property
    def reached(self) -> bool | None:
        return None if self.bar is None else self.median >= self.bar


@dataclass(frozen=True)
class Figure:
    what: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """How long something takes as what lies around it grows."""

    what: str
    around: str
    """What grows: rules, tenants, events."""
    unit: str
    points: tuple[tuple[int, float], ...]
    """How many of them there are, and the figure at that size."""


@dataclass
class Results:
    """What a run has measured so far. Only `wrong` makes a run fail."""

    ratios: list[Ratio] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    return tuple(our / their for our, their in zip(ours, theirs, strict=True))
