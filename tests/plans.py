"""The plans of the statements that a function runs, and the rows that PostgreSQL reads for them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event

from webapp.extensions import db

Plan = dict[str, Any]


@dataclass(frozen=True)
class Scan:
    """What one step of a plan read of a table or one of its partitions."""

    kind: str
    index: str | None
    rows: int
    """Those that it read, whether it returned or discarded them."""
    times: int
    """How often it was begun."""
    blocks: int
    """Those of the index and of the table. Walking past an index's entries reads no row."""


def scans_of(table: str, run: Callable[[], object]) -> list[Scan]:
    """Run a function, then its statements again, and return what they read of a table.

    The statements run in the session's scope, and so under its policies.
    """
    statements = _statements_of(run)
    connection = db.session.connection()
    scans = []
    for statement, parameters in statements:
        explain = f"explain (analyze, buffers, format json) {statement}"
        [plan] = connection.exec_driver_sql(explain, parameters).scalar_one()
        scans += [_scan(node) for node in _nodes(plan["Plan"]) if _reads(node, table)]
    return scans


def _statements_of(run: Callable[[], object]) -> list[tuple[str, Any]]:
    statements: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if "set_config" not in statement:
            statements.append((statement, parameters))

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        run()
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    return statements


def _nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _reads(node: Plan, table: str) -> bool:
    """Whether a node reads the table. A partition has the table's name and a month."""
    return node.get("Relation Name", "").startswith(table) or (
        node["Node Type"] == "Bitmap Index Scan" and f"{table}_" in node["Index Name"]
    )


def _scan(node: Plan) -> Scan:
    discarded = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
    rows = (node["Actual Rows"] + discarded) * node["Actual Loops"]
    blocks = sum(node.get(f"Shared {how} Blocks", 0) for how in ("Hit", "Read"))
    times = round(node["Actual Loops"])
    return Scan(node["Node Type"], node.get("Index Name"), round(rows), times, blocks)
