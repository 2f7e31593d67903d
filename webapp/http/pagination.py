"""Pages of lists, sorted by a column and then the id, and continued from a signed cursor.

A page costs the same whatever the list holds: it is read from where the last one ended, and the
rows are counted up to COUNTED only.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

import marshmallow as ma
import orjson
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    Select,
    and_,
    false,
    func,
    literal,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.orm import Session

from webapp.db.scopes import Scope
from webapp.http.errors import Invalid
from webapp.http.schema import PAGE_FIELDS, Digits, Fields, Schema
from webapp.key_ring import KeyRing
from webapp.settings import current_settings

MAX_LIMIT = 200
COUNTED = 1000
"""The number of rows up to which a list is counted."""
_MAC_BYTES = 16


class PageQuerySchema(Schema):
    """The parameters of every list. Each list adds its sort keys and filters."""

    descriptions: ClassVar[Fields] = {
        "limit": "How many to show at most.",
        "cursor": "A `next_cursor` of the same list, filters, sort and scope.",
    }

    limit = Digits(load_default=50, validate=ma.validate.Range(1, MAX_LIMIT))
    cursor = ma.fields.String(load_default=None, validate=ma.validate.Length(1, 4096))


class PageSchema(Schema):
    """A page of a list. Each list says what its `items` are."""

    descriptions: ClassVar[Fields] = {
        **PAGE_FIELDS,
        "total": f"How many there are on all pages; null for more than {COUNTED:,}, and where not"
        " all rows were looked at.",
        "total_is_at_least": "How many there are at least. Present only where `total` is null.",
    }

    items = ma.fields.List(ma.fields.Raw(), required=True)
    next_cursor = ma.fields.String(required=True, allow_none=True)
    total = ma.fields.Integer(required=True, allow_none=True)
    total_is_at_least = ma.fields.Integer()

    @ma.post_dump
    def _omit_bound_of_exact_total(self, page: dict[str, Any], **_: Any) -> dict[str, Any]:
        if page["total"] is not None:
            page.pop("total_is_at_least", None)
        return page


@dataclass(frozen=True)
class Page:
    rows: Sequence[Row[*tuple[Any, ...]]]
    """The columns that the statement selects, and the number of rows counted as the last column."""
    next_cursor: str | None
    total: int | None
    """`None` where there are more rows than COUNTED."""
    total_is_at_least: int | None = None
    """What is known of the total where it is not exact."""
    truncated: bool = False
    """Whether further rows may match that were not looked at: the page may have fewer than asked
    for, and the cursor leads on to them."""


Key = tuple[Any, Any]
"""A column and its value."""


@dataclass(frozen=True)
class Run:
    """A part of a list that one index holds in the list's order.

    Where no index holds the whole list in order, the list is the merge of its runs. No two of them
    share a row.
    """

    conditions: tuple[ColumnElement[bool], ...] = ()
    key: tuple[Key, ...] = ()
    """The columns before the sorted ones in the index that is to be read, and their values."""
    each: FromClause | None = None
    """Rows that the others refer to: each of these rows makes a run of its own."""


WHOLE_LIST = (Run(),)

Window = tuple[Any | None, Any | None]
"""The first value of the sorted column, and the one after the last; `None` where there is none."""

UNBOUNDED: Window = (None, None)


def listing_of(kind: str, scope: Scope | None, query: object) -> str:
    """Name a list for its cursors, by its query and by the rows that its scope sees."""
    return orjson.dumps([kind, scope.visibility if scope else None, query]).decode()


def encode_cursor(position: Sequence[Any], listing: str) -> str:
    """An opaque cursor for the row at `position` (its sort values, its id last).

    `listing` names the list, sort, filters and visibility that it continues: a cursor is refused
    anywhere else.
    """
    payload = orjson.dumps(list(position), option=orjson.OPT_UTC_Z)
    mac = _cursor_keys().mac(*_signed(payload, listing))
    return base64.urlsafe_b64encode(mac + payload).decode().rstrip("=")


def decode_cursor(cursor: str, listing: str) -> tuple[Any, ...]:
    """The position inside a cursor; raises `Invalid` unless it was made here for this list."""
    try:
        raw = base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
    except (ValueError, binascii.Error):
        raw = b""
    mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not _cursor_keys().has_made(mac, *_signed(payload, listing)):
        problem = "is not a cursor of this list"
        raise Invalid(f"The cursor {problem}.", {"cursor": [problem]})
    return tuple(orjson.loads(payload))


def _cursor_keys() -> KeyRing:
    return current_settings().secret_keys.derive("cursor", _MAC_BYTES)


def _signed(payload: bytes, listing: str) -> tuple[bytes, ...]:
    return len(payload).to_bytes(4, "big"), payload, listing.encode()


def read_page(
    session: Session,
    statement: Select[*tuple[Any, ...]],
    model: Any,
    filters: Iterable[ColumnElement[bool]],
    *,
    sort: str,
    limit: int,
    cursor: str | None,
    listing: str,
    runs: Sequence[Run] = WHOLE_LIST,
    window: Window = UNBOUNDED,
    counts: bool = True,
) -> Page:
    """Read a page of `statement`, whose first column is the `model`.

    Raises `Invalid` for a cursor of another list. Its total is 0 unless it `counts`.

    `sort` is a column of the model's, with `-` before it for descending.
    """
    order = _Order.of(model, sort)
    column = order.columns[0]
    matching = tuple(filters)
    position = None if cursor is None else order.position(decode_cursor(cursor, listing))
    # The rows are counted in the same statement, and so in the same snapshot.
    counted = _count(runs, matching, order, window) if counts else literal(0)
    page = statement.add_columns(counted).order_by(*order.by(*order.columns)).limit(limit + 1)
    if runs == WHOLE_LIST:
        page = page.where(*matching, *order.bounds(window, position))
    else:
        merged = _merge(runs, matching, order, limit + 1, window, position)
        keys = select(merged).order_by(*order.by(*merged.c)).limit(limit + 1).subquery()
        page = page.join(keys, (column == keys.c.value) & (model.id == keys.c.id))
    read_in_index_order(session, runs)
    rows = session.execute(page).all()
    shown = rows[:limit]
    next_cursor = None
    if len(rows) > len(shown):
        last_row = shown[-1][0]
        next_cursor = encode_cursor([getattr(last_row, column.key), last_row.id], listing)
    total = rows[0][-1] if rows else session.scalars(select(counted)).one()
    is_exact = total <= COUNTED
    return Page(shown, next_cursor, total if is_exact else None, None if is_exact else COUNTED)


def look_through(
    session: Session,
    model: Any,
    filters: Sequence[ColumnElement[bool]],
    *,
    sort: str,
    limit: int,
    cursor: str | None,
    listing: str,
    runs: Sequence[Run],
    window: Window = UNBOUNDED,
    counts: bool = True,
) -> Page:
    """Read a page of the model's rows, of those in the runs that match filters without an index.

    It looks at COUNTED rows in order, whatever matches, and counts among as many from the list's
    beginning. Raises `Invalid` for a cursor of another list.
    """
    order = _Order.of(model, sort)
    position = None if cursor is None else order.position(decode_cursor(cursor, listing))
    read_in_index_order(session, runs)
    looked_at = _look_at(session, runs, filters, order, window, position)
    found = [key for *key, matches in looked_at if matches]
    is_whole = len(looked_at) < COUNTED
    shown, last = found[:limit], None
    if len(found) > limit:
        last = shown[-1]
    elif not is_whole:
        *last, _ = looked_at[-1]
    total, is_exact = len(found), is_whole
    if counts and position is not None:
        first = _look_at(session, runs, filters, order, window)
        total, is_exact = sum(matches for *_, matches in first), len(first) < COUNTED
    return Page(
        rows=_rows_of(session, model, order, shown),
        next_cursor=None if last is None else encode_cursor(last, listing),
        total=total if is_exact else None,
        total_is_at_least=None if is_exact else total,
        truncated=not is_whole and len(found) <= limit,
    )


def count_rows(
    session: Session, model: Any, runs: Sequence[Run], most: int, *, sort: str, window: Window
) -> int:
    """The number of rows in runs and a window, up to `most`."""
    order = _Order.of(model, sort)
    found = select(_merge(runs, (), order, most, window)).limit(most).subquery()
    read_in_index_order(session, runs)
    return session.scalars(select(func.count()).select_from(found)).one()


def _look_at(
    session: Session,
    runs: Sequence[Run],
    filters: Sequence[ColumnElement[bool]],
    order: "_Order",
    window: Window,
    position: "_Position | None" = None,
) -> Sequence[Any]:
    """The sort values and the ids of COUNTED rows, and whether each matches."""
    matches = func.coalesce(and_(*filters), false()).label("matches")
    merged = _merge(runs, (), order, COUNTED, window, position, (matches,))
    keys = order.by(merged.c.value, merged.c.id)
    return session.execute(select(merged).order_by(*keys).limit(COUNTED)).all()


def _rows_of(
    session: Session, model: Any, order: "_Order", keys: Sequence[Sequence[Any]]
) -> Sequence[Row[*tuple[Any, ...]]]:
    """The rows with these sort values and ids, in their order."""
    if not keys:
        return []
    column, row_id = order.columns
    values, ids = zip(*keys, strict=True)
    within = column.between(min(values), max(values)), row_id.in_(ids)
    found = select(model, literal(0)).where(*within).order_by(*order.by(*order.columns))
    return session.execute(found).all()


def _count(
    runs: Sequence[Run],
    matching: Sequence[ColumnElement[bool]],
    order: "_Order",
    window: Window,
) -> ColumnElement[int]:
    """The number of rows in the list, up to one more than COUNTED."""
    found = select(_merge(runs, matching, order, COUNTED + 1, window)).limit(COUNTED + 1).subquery()
    return select(func.count()).select_from(found).scalar_subquery()


def read_in_index_order(session: Session, runs: Sequence[Run] = ()) -> None:
    """Have PostgreSQL read runs in their index's order, and rows by their keys, until the
    transaction ends.

    It underestimates what the policies let through, and so would rather read a run as a whole and
    sort it. What no index has in order it still sorts.
    """
    session.execute(_IN_ORDER_OF_KEYS if any(run.key for run in runs) else _IN_INDEX_ORDER)


def _without(*ways: str) -> Select[*tuple[Any, ...]]:
    return select(*(func.set_config(f"enable_{way}", "off", True) for way in ways))


_WAYS = ("sort", "bitmapscan", "mergejoin")
_IN_INDEX_ORDER = _without(*_WAYS)
_IN_ORDER_OF_KEYS = _without(*_WAYS, "incremental_sort")
"""Else it would take an index of a part of the key, and sort that part."""


_Position = tuple[ColumnElement[Any], ColumnElement[Any]]


@dataclass(frozen=True)
class _Order:
    columns: tuple[Any, Any]
    """The column that the list is sorted by, and the id."""
    descending: bool

    @classmethod
    def of(cls, model: Any, sort: str) -> "_Order":
        column = getattr(model, sort.removeprefix("-"))
        return cls((column, model.id), descending=sort.startswith("-"))

    def by(self, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        """What to order a statement by that has the columns under these names."""
        return [column.desc() if self.descending else column for column in columns]

    def position(self, values: tuple[Any, ...]) -> _Position:
        """The values of a cursor, typed like the columns."""
        column, row_id = self.columns
        value, last_id = values
        if column.type.python_type is datetime:
            value = datetime.fromisoformat(value)
        return literal(value, column.type), literal(UUID(last_id), row_id.type)

    def bounds(
        self, window: Window, position: _Position | None, key: Sequence[Key] = ()
    ) -> Iterator[ColumnElement[bool]]:
        """The conditions for the rows of a window that follow a position, in a run with this key.

        They are one comparison of rows for each end: PostgreSQL begins and ends to read an index at
        a single one. And they are not `==`: PostgreSQL could then take another index that has the
        same order, and walk past all rows with other values, however rare this one is.
        """
        columns = tuple(column for column, _ in key)
        values = tuple(_typed(column, value) for column, value in key)
        sorted_by = self.columns[0]
        begins, ends = (None if m is None else _typed(sorted_by, m) for m in window)
        if key:
            # Of the sorted column alone, these leave out the partitions of other times.
            yield from () if begins is None else (sorted_by >= begins,)
            yield from () if ends is None else (sorted_by < ends,)
        following = None
        if position is not None:
            following = tuple_(*columns, *self.columns), tuple_(*values, *position)
        if following is not None and not self.descending:
            yield following[0] > following[1]
        elif begins is not None:
            yield tuple_(*columns, sorted_by) >= tuple_(*values, begins)
        elif key:
            yield tuple_(*columns) >= tuple_(*values)
        if following is not None and self.descending:
            yield following[0] < following[1]
        elif ends is not None:
            yield tuple_(*columns, sorted_by) < tuple_(*values, ends)
        elif key:
            yield tuple_(*columns) <= tuple_(*values)


def _typed(column: Any, value: Any) -> ColumnElement[Any]:
    return value if isinstance(value, ColumnElement) else literal(value, column.type)


def _merge(
    runs: Sequence[Run],
    conditions: Sequence[ColumnElement[bool]],
    order: _Order,
    most: int,
    window: Window,
    position: _Position | None = None,
    beside: Sequence[ColumnElement[Any]] = (),
) -> FromClause:
    """The sort values and ids of the first `most` rows of each run, and what is selected beside
    them, not merged yet."""
    column, row_id = order.columns
    parts = []
    for run in runs:
        part = select(column.label("value"), row_id.label("id"), *beside)
        bounds = order.bounds(window, position, run.key)
        part = part.where(*conditions, *run.conditions, *bounds)
        of_key = (column for column, _ in run.key)
        part = part.order_by(*order.by(*of_key, *order.columns)).limit(most)
        if run.each is not None:
            of_each = part.correlate(run.each).lateral()
            part = select(*of_each.c).join_from(run.each, of_each, true())
        parts.append(part)
    return (parts[0] if len(parts) == 1 else union_all(*parts)).subquery()
