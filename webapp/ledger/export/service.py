"""Write an export of the ledger: what a scope sees, so that somebody else can check it."""

from collections.abc import Iterator, Mapping

from webapp.db.scopes import TenantScope
from webapp.db.session import ScopedSession
from webapp.ledger.disclosure import withheld_in
from webapp.ledger.export.lines import Counts, Header, Lines, Tree, disclose
from webapp.ledger.export.reading import (
    SealedLog,
    Snapshot,
    StoredEntry,
    read_entries,
    read_labels,
    read_pending,
    take_snapshot,
)
from webapp.ledger.export.schemas import ExportRequest
from webapp.ledger.sealing.numbering import ALL
from webapp.ledger.sealing.published import tile_reader
from webapp.ledger.search import conditions_of

PART = 2**16
"""Bytes that leave at once."""


class Export:
    """One export, as its lines, in the scope that the session is in when they are taken."""

    def __init__(self, session: ScopedSession, asked: ExportRequest, tenant: str | None) -> None:
        """`tenant`: the slug of the tenant in whose scope it is; `None` for all of them."""
        self._session = session
        self._asked = asked
        self._tenant = tenant
        self._lines = Lines()
        self._conditions = conditions_of(asked.filters)

    @property
    def counts(self) -> Counts:
        """What the lines have shown so far."""
        return self._lines.counts

    @property
    def parts(self) -> Iterator[bytes]:
        """The lines, many at a time."""
        part = bytearray()
        for line in self:
            part += line
            if len(part) >= PART:
                yield bytes(part)
                part.clear()
        yield bytes(part)

    def __iter__(self) -> Iterator[bytes]:
        snapshot = take_snapshot(self._session)
        yield self._lines.header(self._header(snapshot))
        for log in snapshot.logs:
            yield from self._log(log)
        scope = self._session.scope
        for event in read_pending(self._session, snapshot, self._conditions):
            shown = disclose(event.event, withheld_in(scope, event.event), event.signature)
            yield self._lines.pending(event.committed_at, shown)
        yield self._lines.trailer()

    def _header(self, snapshot: Snapshot) -> Header:
        is_tenants = isinstance(self._session.scope, TenantScope)
        return Header(
            exported_at=snapshot.at.isoformat(),
            scope="tenant" if is_tenants else "global",
            tenant=self._tenant,
            label=self._own_label(snapshot.logs[-1].number) if snapshot.logs else None,
            filter=self._asked.given,
            anchor=self._asked.anchor,
        )

    def _own_label(self, log: int) -> str | None:
        """The label of the tenant in whose scope this is; `None` before it has an entry."""
        if not isinstance(self._session.scope, TenantScope):
            return None
        return next(iter(read_labels(self._session, log)), None)

    def _log(self, log: SealedLog) -> Iterator[bytes]:
        tree = Tree(tile_reader(self._session, log.number, log.size), self._asked.anchor)
        labels = read_labels(self._session, log.number)
        wanted = None
        if isinstance(self._session.scope, TenantScope) and not self._conditions:
            wanted = [*labels, ALL]
        for entry in read_entries(self._session, log, self._conditions, wanted):
            yield self._entry(tree, entry, labels)
        yield self._lines.end_of_log(tree, log.size, log.checkpoint)

    def _entry(self, tree: Tree, entry: StoredEntry, labels: Mapping[str, object]) -> bytes:
        if entry.event is not None:
            withheld = withheld_in(self._session.scope, entry.event)
            shown = disclose(entry.event, withheld, entry.signature)
            return self._lines.entry(tree, entry.index, entry.leaf, shown)
        if any(label in labels for label, _ in entry.leaf.series):
            return self._lines.bereft(tree, entry.index, entry.leaf)
        # Row level security hides the event: of a tenant that this access leaves out, or of an
        # access that left this tenant out.
        return self._lines.withheld(tree, entry.index, entry.leaf)
