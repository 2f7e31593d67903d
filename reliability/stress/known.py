"""What is known to be committed: the floor below which an answer is stale."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from threading import Lock
from uuid import UUID


@dataclass(frozen=True)
class Stand:
    """The last that a writer was told of a rule."""

    id: UUID
    tenant: str | None
    name: str
    version: int
    deleted: bool = False

    @property
    def etag(self) -> str:
        return f'"{self.id.hex}.{self.version}"'


Floor = Mapping[UUID, Stand]


class Known:
    """Shared by all clients. A rule has one writer at a time, who borrows it, or is contested."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._stands: dict[UUID, Stand] = {}
        self._leaving: set[UUID] = set()
        self._idle: defaultdict[str | None, list[UUID]] = defaultdict(list)
        self._contested: defaultdict[str | None, list[UUID]] = defaultdict(list)
        self._told: set[tuple[UUID, int]] = set()

    def floor(self) -> Floor:
        """To be taken before a request is sent: no answer to it may show less."""
        with self._lock:
            return dict(self._stands)

    def tell(self, stand: Stand) -> bool:
        """Note what a write was answered; False when another one was told the same version."""
        with self._lock:
            self._raise(stand)
            is_news = (stand.id, stand.version) not in self._told
            self._told.add((stand.id, stand.version))
            return is_news

    def see(self, stand: Stand) -> None:
        """Note what a reader was shown of a rule: nobody may be shown less afterwards."""
        with self._lock:
            self._raise(stand)

    def shelve(self, stand: Stand, *, contested: bool = False) -> None:
        """Leave a rule to whoever borrows it next, or to everybody at once."""
        with self._lock:
            (self._contested if contested else self._idle)[stand.tenant].append(stand.id)

    def borrow(self, tenant: str | None, dice: Random) -> Stand | None:
        """A rule that nobody else writes until it is shelved again."""
        with self._lock:
            idle = self._idle[tenant]
            return self._stands[idle.pop(dice.randrange(len(idle)))] if idle else None

    def contested(self, tenant: str | None, dice: Random) -> Stand | None:
        with self._lock:
            ids = self._contested[tenant]
            return self._stands[dice.choice(ids)] if ids else None

    def some(self, tenant: str | None, dice: Random) -> Stand | None:
        """Any rule of a tenant, whoever writes it now."""
        with self._lock:
            stands = [
                stand
                for stand in self._stands.values()
                if stand.tenant == tenant and not stand.deleted
            ]
            return dice.choice(stands) if stands else None

    def idle(self, tenant: str | None) -> int:
        with self._lock:
            return len(self._idle[tenant])

    def leaves(self, rule_id: UUID) -> None:
        """To be said before its deletion is asked for: from here on it may be missing."""
        with self._lock:
            self._leaving.add(rule_id)

    def is_leaving(self, rule_id: UUID) -> bool:
        with self._lock:
            return rule_id in self._leaving

    def _raise(self, stand: Stand) -> None:
        before = self._stands.get(stand.id)
        if before is None or before.version < stand.version:
            self._stands[stand.id] = stand
