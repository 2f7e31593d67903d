"""Pages of lists, sorted by a column and then the id, and continued from a signed cursor."""

import base64
import binascii
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, ClassVar
from uuid import UUID

import marshmallow as ma
import orjson
from sqlalchemy import ColumnElement, Row, Select, func, literal, select, tuple_
from sqlalchemy.orm import Session

from webapp.db.scopes import Scope
from webapp.http.errors import Invalid
from webapp.http.schema import Fields, Schema
from webapp.settings import current_settings

MAX_LIMIT = 200
_MAC_BYTES = 16


class PageQuerySchema(Schema):
    """The parameters of every list. Each list adds its sort keys and filters."""

    descriptions: ClassVar[Fields] = {
        "limit": "How many to show at most.",
        "cursor": "A `next_cursor` of the same list, filters, sort and scope.",
    }

    limit = ma.fields.Integer(load_default=50, validate=ma.validate.Range(1, MAX_LIMIT))
    cursor = ma.fields.String(load_default=None, validate=ma.validate.Length(1, 4096))


@dataclass(frozen=True)
class Page:
    rows: Sequence[Row[*tuple[Any, ...]]]
    """The columns that the statement selects, and the total as the last column."""
    next_cursor: str | None
    total: int


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
) -> Page:
    """Read a page of `statement`, whose first column is the `model`.

    Raises `Invalid` for a cursor of another list.

    `sort` is a column of the model's, with `-` before it for descending.
    """
    filters = list(filters)
    column, descending = getattr(model, sort.removeprefix("-")), sort.startswith("-")
    order = (column, model.id)
    # The total is counted in the same statement, and so in the same snapshot.
    total = select(func.count()).select_from(model).where(*filters).scalar_subquery()
    page = (
        statement.add_columns(total)
        .where(*filters)
        .order_by(*(part.desc() if descending else part for part in order))
        .limit(limit + 1)
    )
    if cursor is not None:
        value, last_id = decode_cursor(cursor, listing)
        is_moment = column.type.python_type is datetime
        last = tuple_(
            literal(datetime.fromisoformat(value) if is_moment else value, column.type),
            literal(UUID(last_id), model.id.type),
        )
        page = page.where(tuple_(*order) < last if descending else tuple_(*order) > last)
    rows = session.execute(page).all()
    shown = rows[:limit]
    next_cursor = None
    if len(rows) > len(shown):
        last_row = shown[-1][0]
        next_cursor = encode_cursor([getattr(last_row, column.key), last_row.id], listing)
    counted = rows[0][-1] if rows else session.scalars(select(total)).one()
    return Page(shown, next_cursor, counted)
