"""What happened, counted by all threads together, with examples of each fault."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, get_args
from uuid import UUID

from reliability.stress.people import Effect

Fault = Literal[
    "5xx",
    "lost",
    "doubled",
    "unrequested",
    "wrong records",
    "wrong types",
    "wrong tenants",
    "stale",
    "wrong answers",
    "transport errors",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
EXAMPLES = 5


@dataclass
class Attempt:
    """One request, and the event that the ledger must have of it."""

    request_id: str
    actor_id: UUID | None
    surface: str
    effect: Effect | None
    """`None` for a request that leaves no event."""
    status: int | None
    """`None` if the client saw no answer."""
    receipts: tuple[str, ...] = ()
    seconds: float = 0.0
    """Seconds until the answer began."""
    rows: int | None = None
    """How many rows the answer shows, once the client has counted them."""


@dataclass
class Counts:
    attempts: list[Attempt] = field(default_factory=list)
    faults: Counter[Fault] = field(default_factory=Counter)
    examples: defaultdict[Fault, list[str]] = field(default_factory=lambda: defaultdict(list))
    sabotage: Counter[str] = field(default_factory=Counter)
    accesses: int = 0
    events: int = 0
    _lock: Lock = field(default_factory=Lock)

    def attempt(self, attempt: Attempt) -> None:
        with self._lock:
            self.attempts.append(attempt)

    def fault(self, fault: Fault, example: str, times: int = 1) -> None:
        with self._lock:
            self.faults[fault] += times
            if len(self.examples[fault]) < EXAMPLES:
                self.examples[fault].append(example)

    def harm(self, kind: str, times: int = 1) -> None:
        with self._lock:
            self.sabotage[kind] += times

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong, and there were accesses at all."""
        return not self.faults.total() and self.accesses == self.events > 0
