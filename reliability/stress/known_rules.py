"""The rules that are known to be committed: an answer that shows less is stale."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from threading import Lock
from uuid import UUID


@dataclass(frozen=True)
class KnownRule:
    """The last state of a rule that a client was told."""

    id: UUID
    tenant: str | None
    name: str
    version: int
    deleted: bool = False

    @property
    def etag(self) -> str:
        return f'"{self.id.hex}.{self.version}"'


Floor = Mapping[UUID, KnownRule]


class KnownRules:
    """The rules that clients know, shared by all of them.

    A rule either has one writer at a time, who borrows it, or it is contested: everybody writes it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._rules: dict[UUID, KnownRule] = {}
        self._being_deleted: set[UUID] = set()
        self._idle: defaultdict[str | None, list[UUID]] = defaultdict(list)
        self._contested: defaultdict[str | None, list[UUID]] = defaultdict(list)
        self._versions: set[tuple[UUID, int]] = set()

    def floor(self) -> Floor:
        """What is known now. Taken before a request is sent: its answer may not show less."""
        with self._lock:
            return dict(self._rules)

    def note_write(self, rule: KnownRule) -> bool:
        """Note the answer to a write; return false if another write was answered with the same
        version."""
        with self._lock:
            self._raise(rule)
            is_news = (rule.id, rule.version) not in self._versions
            self._versions.add((rule.id, rule.version))
            return is_news

    def note_read(self, rule: KnownRule) -> None:
        """Note a rule that a reader was shown: nobody may be shown less afterwards."""
        with self._lock:
            self._raise(rule)

    def give_back(self, rule: KnownRule, *, contested: bool = False) -> None:
        """Leave a rule to the next borrower, or to everybody as contested."""
        with self._lock:
            (self._contested if contested else self._idle)[rule.tenant].append(rule.id)

    def borrow(self, tenant: str | None, rng: Random) -> KnownRule | None:
        """Borrow a rule: nobody else writes it until it is returned."""
        with self._lock:
            idle = self._idle[tenant]
            return self._rules[idle.pop(rng.randrange(len(idle)))] if idle else None

    def contested(self, tenant: str | None, rng: Random) -> KnownRule | None:
        with self._lock:
            ids = self._contested[tenant]
            return self._rules[rng.choice(ids)] if ids else None

    def some(self, tenant: str | None, rng: Random) -> KnownRule | None:
        """Any rule of a tenant, whoever writes it now."""
        with self._lock:
            rules = [
                rule for rule in self._rules.values() if rule.tenant == tenant and not rule.deleted
            ]
            return rng.choice(rules) if rules else None

    def idle(self, tenant: str | None) -> int:
        with self._lock:
            return len(self._idle[tenant])

    def begin_deletion(self, rule_id: UUID) -> None:
        """Note that a rule's deletion is about to be sent: from now on the rule may be missing."""
        with self._lock:
            self._being_deleted.add(rule_id)

    def is_being_deleted(self, rule_id: UUID) -> bool:
        with self._lock:
            return rule_id in self._being_deleted

    def _raise(self, rule: KnownRule) -> None:
        before = self._rules.get(rule.id)
        if before is None or before.version < rule.version:
            self._rules[rule.id] = rule
