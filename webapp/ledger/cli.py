"""`flask audit`: commands that search, follow, drain and verify audit events."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

import click
import marshmallow as ma
import orjson
from flask import current_app
from rich.console import Console
from rich.progress import Progress

from webapp.audit import append
from webapp.audit.event import by_way_of
from webapp.audit.journal.file import JournalFile
from webapp.audit.journal.reader import Row
from webapp.audit.operation import OPERATOR, SIGHTLINE, operator
from webapp.audit.relay import drain
from webapp.audit.relay.outbox import sets_named_by
from webapp.audit.relay.relay import delivery_of
from webapp.commands import Commands, print_json, print_rows, say
from webapp.db.scopes import LedgerScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.http.errors import NotFound
from webapp.http.pagination import MAX_LIMIT
from webapp.http.schema import FlagText
from webapp.identity.lookup import has_tenant, has_user
from webapp.ledger import completeness, search
from webapp.ledger.schemas import AuditLineSchema, AuditQuerySchema, AuditSchema
from webapp.ledger.search import AuditQuery, LedgerEntry, SortKey
from webapp.scope.command_access import CommandAccess, command_access, reason_option
from webapp.scope.decision import Surface
from webapp.scope.headers import REASON_CODES, Reason
from webapp.settings import current_settings
from webapp.text import escaped, escaped_json

POLL = 0.5
MOST = 10_000
"""The most events that a command shows. It holds them all until its access is recorded."""
FILTERS = tuple(
    name for name in AuditQuerySchema().fields if name not in ("limit", "cursor", "sort")
)
SORTS = get_args(SortKey)
METAVARS = {
    "actor": "EMAIL",
    "surface": "SURFACE",
    "tenant": "SLUG",
    "ticket": "TICKET",
    "request_id": "ID",
    "begins": "TIME",
    "ends": "TIME",
}

group = Commands(
    "audit",
    help="Search the audit events, follow them, and check that none is missing."
    " An event says who used a surface or changed something, why, and what was decided.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print an event a line, as JSON.")


@dataclass(frozen=True)
class Line:
    """An event as one row of a table for people."""

    occurred_at: str | None
    actor: str | None
    surface: str | None
    scope: str | None
    reason: str | None
    ticket: str | None
    outcome: str | None
    rows: int | None
    repeats: int | None
    id: UUID


@dataclass(frozen=True)
class GroupedLine(Line):
    """A row of a table in which rows stand for several attempts."""

    attempts: int | None
    first_at: datetime | None


def filter_options(
    command: Callable[..., None], names: Sequence[str] = FILTERS
) -> Callable[..., None]:
    """Add the filters that the list over HTTP has, by the same names but for one."""
    fields = AuditQuerySchema().fields
    for name in reversed(names):
        values = _values(name, fields[name])
        command = click.option(
            f"--{_option(fields[name].data_key or name)}",
            f"filter_{name}",
            type=click.Choice(values) if values else None,
            metavar=METAVARS.get(name),
            help=fields[name].metadata["description"].replace("`", ""),
        )(command)
    return command


def _values(name: str, field: ma.fields.Field[Any]) -> Sequence[str]:
    """Return the values that a filter can have; none where it takes any value."""
    if name == "reason":
        return REASON_CODES
    if isinstance(field, FlagText):
        return "true", "false"
    choices = (v.choices for v in field.validators if isinstance(v, ma.validate.OneOf))
    return tuple(next(choices, ()))


def _option(filter_name: str) -> str:
    """The option for a filter. `--reason` says why the operator reads."""
    return "reason-code" if filter_name == "reason" else filter_name.replace("_", "-")


@group.command("search")
@filter_options
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    default=50,
    show_default=True,
    help="Show at most this many events.",
)
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default=SORTS[0],
    show_default=True,
    help="Show the newest first, or the oldest.",
)
@reason_option
@as_json
def search_command(
    *, limit: int, sort: SortKey, reason: Reason, as_json: bool, **filters: str | None
) -> None:
    """Find events, with the filters that GET /admin/api/audits has.

    An event has to match all the filters that are given. With --tenant the command runs in the
    tenant's scope, which sees no other tenant's events.
    """
    given = given_filters(filters)
    query: AuditQuery = replace(load_filters(AuditQuerySchema(), given), sort=sort)
    tenant = query.tenant if query.tenant and has_tenant(query.tenant) else None
    with command_access("audit search", reason, given, tenant=tenant) as access:
        read = db.read(lambda session: list(_pages(session, query, limit)))
        entries = read.value
        if not entries:
            _refuse_unknown(query, tenant)
        access.rows = len(entries)
    if read.behind:
        click.echo(f"Read from a replica, which is {read.behind} s behind.", err=True)
    if as_json:
        _print_json(entries, AuditLineSchema)
    elif any(entry.attempts for entry in entries):
        print_rows(GroupedLine, [_grouped_line(entry) for entry in entries], as_json=False)
    else:
        print_rows(Line, [_line(entry) for entry in entries], as_json=False)


@group.command("tail")
@click.option(
    "-n",
    "last",
    type=click.IntRange(0, MOST),
    default=10,
    show_default=True,
    help="Show this many of the last events.",
)
@click.option("--follow", "-f", is_flag=True, help="Follow new events until interrupted.")
@reason_option
@as_json
def tail(*, last: int, follow: bool, reason: Reason, as_json: bool) -> None:
    """Show the last events, the newest at the end.

    What follows is recorded once, at its start, without a number of rows.
    """
    show = _print_json if as_json else _print_lines
    with command_access("audit tail", reason, {"follow": follow}) as access:
        moment, seen = _now()
        newest = list(_pages(db.session, AuditQuery(), last))
        access.rows = None if follow else len(newest)
    show(reversed(newest))
    if follow:
        _follow(access, moment, seen | {entry.id for entry in newest}, show)


def given_filters(options: Mapping[str, str | None]) -> dict[str, str]:
    """The filters that are given, by their names over HTTP."""
    fields = AuditQuerySchema().fields
    values = {name: options.get(f"filter_{name}") for name in FILTERS}
    return {
        fields[name].data_key or name: value for name, value in values.items() if value is not None
    }


def load_filters(schema: ma.Schema, given: Mapping[str, str]) -> Any:
    """Load what a query over HTTP would have; raises `UsageError` that names the options."""
    try:
        return schema.load(given)
    except ma.ValidationError as error:
        problems: dict[str, list[str]] = error.normalized_messages()  # type: ignore[no-untyped-call]  # marshmallow left it untyped
        lines = [f"--{_option(name)}: {' '.join(texts)}" for name, texts in problems.items()]
        raise click.UsageError("\n".join(lines)) from error


def _refuse_unknown(query: AuditQuery, tenant: str | None) -> None:
    """Raise `NotFound` for a filter's value that nothing has, and that no event names.

    A typing error must not appear as an empty ledger.
    """
    operators = (OPERATOR, operator().email, SIGHTLINE.email)
    known = {
        "actor": query.actor is None or query.actor in operators or has_user(query.actor),
        "tenant": query.tenant is None or has_tenant(query.tenant),
        "surface": query.surface is None or any(map(_covers(query.surface), _surfaces())),
    }
    for name in (name for name, is_known in known.items() if not is_known):
        # An event may name something that is gone, or something that only another service has.
        value = getattr(query, name)
        if not search.has_events(db.session, AuditQuery(**{name: value})):
            of_tenant = "" if tenant is None else f" of {tenant}"
            raise NotFound(f"There is no {name} {value}, and no event{of_tenant} names one.")


def _covers(pattern: str) -> Callable[[str], bool]:
    prefix = pattern.removesuffix("*")
    return lambda surface: surface == pattern or (prefix != pattern and surface.startswith(prefix))


def _surfaces() -> Iterator[str]:
    """Yield the names of the application's surfaces."""
    for view in current_app.view_functions.values():
        declared: Surface | None = getattr(view, "__surface__", None)
        if declared is not None:
            yield declared.name


def _pages(session: ScopedSession, query: AuditQuery, limit: int) -> Iterator[LedgerEntry]:
    """Yield the first `limit` events, and fetch them page by page."""
    cursor: str | None = None
    while limit > 0:
        page_query = replace(query, limit=min(limit, MAX_LIMIT), cursor=cursor)
        page = search.list_events(session, page_query)
        yield from page.items
        limit -= len(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


def _now() -> tuple[datetime, set[UUID]]:
    """Return the moment by the database's clock, and the ids of the latest events before it."""
    moment = search.current_moment(db.session)
    return moment, {entry.id for entry in search.list_committed_since(db.session, moment)}


def _follow(
    access: CommandAccess,
    moment: datetime,
    seen: set[UUID],
    show: Callable[[Iterable[LedgerEntry]], None],
) -> None:
    """Show unseen events that are committed from `moment` on, until interrupted."""
    with suppress(KeyboardInterrupt):
        while True:
            with access.go_on():
                entries = search.list_committed_since(db.session, moment)
            show(entry for entry in entries if entry.id not in seen)
            seen = {entry.id for entry in entries}
            moment = max([moment, *(entry.committed_at for entry in entries)])
            time.sleep(POLL)


def _print_json(entries: Iterable[LedgerEntry], kind: type[AuditSchema] = AuditSchema) -> None:
    schema = kind()
    for entry in entries:
        click.echo(escaped_json(orjson.dumps(schema.dump(entry)).decode()))


def _print_lines(entries: Iterable[LedgerEntry]) -> None:
    for entry in entries:
        shown = astuple(_line(entry))
        click.echo("  ".join("-" if value is None else escaped(str(value)) for value in shown))


def _line(entry: LedgerEntry) -> Line:
    event = entry.event
    return Line(
        occurred_at=_of(event, "occurred_at"),
        actor=by_way_of(_of(event, "actor", "email"), _of(event, "via", "email")),
        surface=_of(event, "surface"),
        scope=_of(event, "scope", "tenant") or _of(event, "scope", "kind"),
        reason=_of(event, "reason", "code"),
        ticket=_of(event, "reason", "ticket"),
        outcome=_of(event, "outcome"),
        rows=_of(event, "rows"),
        repeats=_of(event, "repeats"),
        id=entry.id,
    )


def _grouped_line(entry: LedgerEntry) -> GroupedLine:
    attempts = entry.attempts
    return GroupedLine(
        **vars(_line(entry)),
        attempts=attempts.count if attempts else None,
        first_at=attempts.first_at if attempts else None,
    )


def _of(event: Any, *path: str) -> Any:
    """Return the value at a path, or `None` where something on the way is null."""
    for name in path:
        event = event[name] if event else None
    return event


@group.command("drain")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def drain_command(*, as_json: bool) -> None:
    """Commit what dead processes left in JOURNAL_DIR; exit 1 if anything is left.

    It needs neither a broker nor workers. Processes that run keep their files.
    """
    settings = current_settings()
    adopted = drain.adopt_all(settings.journal_dir, settings.journal_max_mb * 2**20)
    taken, refused, unreadable = 0, 0, list(adopted.unreadable)
    with Progress(console=Console(stderr=True), disable=as_json) as progress:
        task = progress.add_task("draining", total=adopted.events)
        for file in adopted.files:
            try:
                for committed, of in drain.drain(file, _commit, _confirm, settings.journal_keep):
                    taken, refused = taken + committed, refused + of - committed
                    progress.advance(task, of)
            except drain.Unreadable as error:
                unreadable.append(str(error))
    kept = sum(file.kept for file in adopted.files)
    done = Drained(taken, refused, kept, adopted.held_by_living, tuple(unreadable))
    if as_json:
        print_json(done)
    else:
        _print_drained(done)
    sys.exit(1 if refused or unreadable else 0)


@dataclass(frozen=True)
class Drained:
    """The result of draining JOURNAL_DIR, in numbers of events."""

    committed: int
    refused: int
    kept: int
    """That the ledger has, and that stay for JOURNAL_KEEP all the same."""
    running: int
    """In the files of running processes."""
    unreadable: tuple[str, ...]


def _print_drained(done: Drained) -> None:
    say(f"{done.committed} events committed, {done.refused} refused.")
    if done.refused:
        say("Refused events stay in their files, and are in quarantine too.")
    if done.kept:
        say(f"{done.kept} that the ledger has stay for JOURNAL_KEEP, should it lose them.")
    if done.running:
        say(f"{done.running} more are in files of running processes, which send them.")
    for name in done.unreadable:
        say(f"cannot be read: {name}")


def _commit(file: JournalFile, rows: Sequence[Row]) -> append.Confirmation:
    delivery = [list(item) for item in delivery_of(file, rows, sets_named_by(rows))]
    with db.scoped(LedgerScope()):
        received = append.receive(db.session, delivery)
        found = append.confirm(db.session, [row.key for row in rows])
        db.session.commit()
    append.count_received(received)
    return found


def _confirm(keys: Sequence[str]) -> append.Confirmation:
    with db.scoped(LedgerScope()):
        return append.confirm(db.session, keys)


@group.command("verify")
@click.option(
    "--complete", is_flag=True, required=True, help="Find the numbers that have no event."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify_command(*, complete: bool, as_json: bool) -> None:
    """Name every number of every journal that has no event, or several; exit 1 where there is one.

    Each journal numbers its events without a gap, so a number without an event is an event that
    is missing. An event that contradicts one in the ledger is named too. Events that wait in files
    on this host are listed, and are no reason to fail. Events that wait on other hosts count as
    missing: run this where no other host has events. The ends of journals are known on their own
    host only: after a restore, run this on each.
    """
    settings = current_settings()
    with db.scoped(LedgerScope()):
        found = completeness.check_completeness(db.session, settings.journal_dir)
    if as_json:
        print_json(found)
    else:
        _print_completeness(found)
    sys.exit(0 if found.is_complete else 1)


def _print_completeness(found: completeness.Completeness) -> None:
    for missing in found.missing:
        say(_missing_line(missing))
    for doubled in found.doubled:
        say(_doubled_line(doubled))
    for contradiction in found.contradictions:
        say(f"contradicted: event {contradiction.event}, received {contradiction.received_at}")
    for name in found.forged:
        say(f"wrong signature: {name}")
    for name in found.unreadable:
        say(f"cannot be read: {name}")
    if found.waiting:
        print_rows(completeness.Waiting, found.waiting, as_json=False)
    ownerless = f", {found.ownerless} of them in files of dead processes" * bool(found.ownerless)
    say(
        f"{found.events} events of {found.journals} journals:"
        f" {sum(gap.last - gap.first + 1 for gap in found.missing)} missing,"
        f" {len(found.waiting)} waiting in files on this host{ownerless}."
    )


def _doubled_line(doubled: completeness.Doubled) -> str:
    if doubled.id is not None:
        return f"doubled: {doubled.events} rows have the id {doubled.id}"
    return (
        f"doubled: {doubled.events} events have number {doubled.seq} of journal {doubled.journal}"
    )


def _missing_line(gap: completeness.Missing) -> str:
    numbers = f"{gap.first}" if gap.first == gap.last else f"{gap.first} to {gap.last}"
    places = [
        f"after request {gap.after_request}" if gap.after_request else "",
        f"before request {gap.before_request}" if gap.before_request else "up to its end",
    ]
    return f"missing: {numbers} of journal {gap.journal}, {', '.join(filter(None, places))}"
