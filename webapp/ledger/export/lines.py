"""The lines of an export: what each event is, and what proves it, in the order of the log.

Each line is a JSON value in the form of RFC 8785. Between two entries that are shown stand the
hashes of the subtrees between them. So whoever reads the lines once, from the first to the last,
can make the root of the log's tree from them, and needs no proof for each.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from webapp.ledger.sealing.leaf import (
    EventLeaf,
    Unit,
    canonical_json,
    commitment_of,
    encode_bytes,
    unit_digest,
    units_of,
)
from webapp.ledger.sealing.merkle import HashAt, cover

FORMAT = 1
"""The version of the format. A verifier refuses one that it does not know."""

Event = Mapping[str, Any]
"""The JSON object of an event's canonical bytes."""


@dataclass(frozen=True)
class Header:
    """What an export is of; its first line."""

    exported_at: str
    scope: str
    """`tenant` or `global`."""
    tenant: str | None
    """The slug of the tenant in whose scope it is."""
    label: str | None
    """The label of that tenant's series; null until the tenant has an entry."""
    filter: Mapping[str, str]
    anchor: int | None
    """The size of an older tree that the reader has seen the root of."""

    @property
    def complete(self) -> bool:
        """Whether every event that the scope sees is in the export."""
        return not self.filter

    @property
    def line(self) -> Mapping[str, Any]:
        return {
            "anchor": self.anchor,
            "complete": self.complete,
            "exported_at": self.exported_at,
            "filter": dict(self.filter),
            "format": FORMAT,
            "label": self.label,
            "scope": {"kind": self.scope, "tenant": self.tenant},
        }


@dataclass(frozen=True)
class Signed:
    """An event as a web host has signed it, for readers who are shown all of it."""

    salt: str
    signature: str


@dataclass(frozen=True)
class Disclosure:
    """An event as a reader is shown it: some of its units are withheld."""

    event: Event
    units: Mapping[str, Mapping[str, Any]]
    signed: Signed | None = None

    @property
    def line(self) -> dict[str, Any]:
        if self.signed is None:
            return {"units": self.units}
        return {
            "units": self.units,
            "salt": self.signed.salt,
            "origin_signature": self.signed.signature,
        }


def disclose(event: Event, withheld: Set[str], signature: str | None = None) -> Disclosure:
    """Show an event but for the units that are withheld, which leave their digests.

    A signature is of the whole event: it is for those who are shown all of it.
    """
    units = {name: _unit(name, unit, withheld) for name, unit in units_of(event).items()}
    signed = Signed(event["salt"], signature) if signature and not withheld else None
    return Disclosure(event, units, signed)


def _unit(name: str, unit: Unit, withheld: Set[str]) -> Mapping[str, Any]:
    if name in withheld:
        return {"digest": unit_digest(name, unit)}
    return {"salt": unit.salt, "value": unit.value}


@dataclass
class Counts:
    """How many events of each kind the lines show, those included that are not sealed yet."""

    accesses: int = 0
    changes: int = 0
    pending: int = 0
    withheld: int = 0
    """Entries of which the lines show nothing."""

    @property
    def shown(self) -> int:
        """As many as a list with the same filters has in all."""
        return self.accesses + self.changes


class Tree:
    """One log's entries, as far as the lines have come."""

    def __init__(self, hash_at: HashAt, anchor: int | None) -> None:
        self._hash_at = hash_at
        self._anchor = anchor
        self._next = 0
        self._series: dict[str, list[int]] = {}

    def gap(self, end: int) -> dict[str, Any]:
        """The entries from the last one shown up to `end`, as the hashes of their subtrees.

        These part at the anchor, so that the tree of that size can be made from them too.
        """
        first = self._next
        hashes = [
            self._hash_at(*subtree)
            for start, stop in self._parts(end)
            for subtree in cover(start, stop)
        ]
        self._next = end
        return {"from": first, "gap": [encode_bytes(each) for each in hashes]}

    def _parts(self, end: int) -> Iterator[tuple[int, int]]:
        if self._anchor is not None and self._next < self._anchor < end:
            yield self._next, self._anchor
            yield self._anchor, end
        elif self._next < end:
            yield self._next, end

    def place(self, index: int, leaf: EventLeaf) -> dict[str, Any]:
        """The place of an entry, as a line has it."""
        gap = self.gap(index)
        self._next = index + 1
        for label, number in leaf.series:
            self._series.setdefault(label, [number, number])[1] = number
        return {
            "commitment": leaf.commitment,
            "index": index,
            "series": [[*each] for each in leaf.series],
            **gap,
        }

    @property
    def series(self) -> Mapping[str, Sequence[int]]:
        """The first and the last number of each series."""
        return self._series


@dataclass
class Lines:
    """The lines of one export, written one after the other."""

    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._digest = sha256()

    def header(self, header: Header) -> bytes:
        return self._line({"export": header.line})

    def entry(self, tree: Tree, index: int, leaf: EventLeaf, shown: Disclosure) -> bytes:
        self._count(shown.event)
        return self._line({**tree.place(index, leaf), **shown.line})

    def withheld(self, tree: Tree, index: int, leaf: EventLeaf) -> bytes:
        """An entry of which the reader is shown nothing but that it is there."""
        self.counts.withheld += 1
        return self._line({**tree.place(index, leaf), "withheld": True})

    def bereft(self, tree: Tree, index: int, leaf: EventLeaf) -> bytes:
        """An entry whose event is gone, which nothing here may do."""
        return self._line(tree.place(index, leaf))

    def end_of_log(self, tree: Tree, size: int, checkpoint: str) -> bytes:
        gap = tree.gap(size)
        return self._line({"log": {"checkpoint": checkpoint, "series": tree.series, **gap}})

    def pending(self, committed_at: datetime, shown: Disclosure) -> bytes:
        """An event that is committed and not sealed yet."""
        self.counts.pending += 1
        self._count(shown.event)
        return self._line(
            {
                "commitment": commitment_of(shown.event),
                "committed_at": committed_at.isoformat(),
                "pending": True,
                **shown.line,
            }
        )

    def trailer(self) -> bytes:
        """The last line, without which an export was cut."""
        digest = self._digest.hexdigest()
        return self._line({"trailer": {"counts": vars(self.counts), "digest": digest}})

    def _count(self, event: Event) -> None:
        if event["kind"] == "access":
            self.counts.accesses += 1
        else:
            self.counts.changes += 1

    def _line(self, value: Mapping[str, Any]) -> bytes:
        line = canonical_json(value) + b"\n"
        self._digest.update(line)
        return line
