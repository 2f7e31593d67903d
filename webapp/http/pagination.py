"""Pages of lists, sorted by a column and then the id, and continued from a signed cursor.

A page costs the same whatever the list holds: it is read from where the last one ended, and the
rows are counted up to COUNTED only.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, ClassVar
from uuid import UUID

import marshmallow as ma
import orjson
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    Select,
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
        "total": f"How many there are on all pages; null for more than {COUNTED:,}.",
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

    @property
    def total_is_at_least(self) -> int | None:
        """What is known of the total where it is not exact."""
        return COUNTED if self.total is None else None


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
    return base64.urlsafe_b64encode(_cursor_mac(payload, listing) + payload).decode().rstrip("=")


def decode_cursor(cursor: str, listing: str) -> tuple[Any, ...]:
    """The position inside a cursor; raises `Invalid` unless it was made here for this list."""
    try:
        raw = base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
    except (ValueError, binascii.Error):
        raw = b""
    mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _cursor_mac(payload, listing)):
        problem = "is not a cursor of this list"
        raise Invalid(f"The cursor {problem}.", {"cursor": [problem]})
    return tuple(orjson.loads(payload))


def _cursor_mac(payload: bytes, listing: str) -> bytes:
    key = blake2b(current_settings().secret_key.encode(), person=b"sightline-cursor").digest()
    keyed = blake2b(digest_size=_MAC_BYTES, key=key)
    keyed.update(len(payload).to_bytes(4, "big") + payload + listing.encode())
    return keyed.digest()


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
    column = getattr(model, sort.removeprefix("-"))
    order = _Order((column, model.id), descending=sort.startswith("-"))
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
    return Page(shown, next_cursor, total if total <= COUNTED else None)


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
) -> FromClause:
    """The sort values and ids of the first `most` rows of each run, not merged yet."""
    column, row_id = order.columns
    parts = []
    for run in runs:
        part = select(column.label("value"), row_id.label("id"))
        bounds = order.bounds(window, position, run.key)
        part = part.where(*conditions, *run.conditions, *bounds)
        of_key = (column for column, _ in run.key)
        part = part.order_by(*order.by(*of_key, *order.columns)).limit(most)
        if run.each is not None:
            of_each = part.correlate(run.each).lateral()
            part = select(of_each.c.value, of_each.c.id).join_from(run.each, of_each, true())
        parts.append(part)
    return (parts[0] if len(parts) == 1 else union_all(*parts)).subquery()
