"""Lists by the page: in the order of a column and then of the id, from where a cursor left off."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, Row, Select, func, literal, select, tuple_
from sqlalchemy.orm import Session

from webapp.db.scopes import Scope
from webapp.http.schema import decode_cursor, encode_cursor


@dataclass(frozen=True)
class Page:
    rows: Sequence[Row[*tuple[Any, ...]]]
    """What the statement selects, and then how many there are in all."""
    next_cursor: str | None
    total: int


def listing_of(kind: str, scope: Scope | None, asked: object) -> str:
    """Names a list for its cursors: what is asked for, and which rows are seen."""
    return orjson.dumps([kind, scope.visibility if scope else None, asked]).decode()


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
    """The page of `statement`, whose first column is the `model`; raises `Invalid` for a cursor.

    `sort` is a column of the model's, with `-` before it for descending.
    """
    filters = list(filters)
    column, descending = getattr(model, sort.removeprefix("-")), sort.startswith("-")
    order = (column, model.id)
    # Counted in the same statement, and so in the same snapshot.
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
