"""`flask rules`: show, check and try rules, and move them to files and back."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
import orjson

from webapp.audit.event import EventScope
from webapp.audit.operation import operator, tenant_scope
from webapp.commands import Commands, as_json, print_json, print_rows, say
from webapp.db.scopes import Scope
from webapp.extensions import db
from webapp.http.pagination import MAX_LIMIT
from webapp.rules import service
from webapp.rules.checks.findings import RuleFinding
from webapp.rules.checks.service import check_rules
from webapp.rules.engine.cedar import SCHEMA_TEXT
from webapp.rules.engine.templates import Unreadable
from webapp.rules.files import cedar_text, transfer
from webapp.rules.files.format import MAX_FILE, BadFile, read_draft, read_file, write_file
from webapp.rules.files.transfer import Plan, Step
from webapp.rules.rule import Rule, RuleQuery
from webapp.rules.rule_sets import load
from webapp.rules.schemas import RuleSchema
from webapp.rules.simulation.replay import Affected, Changed, Replay, Shift
from webapp.rules.simulation.schemas import MAX_DAYS, ReplaySchema
from webapp.rules.simulation.service import BEYOND_REQUEST, propose, simulate_history
from webapp.scope.command_access import command_access, reason_option
from webapp.scope.headers import MAX_NOTE, Reason
from webapp.text import LINE, escaped_json, is_line

T = TypeVar("T")

group = Commands(
    "rules",
    help="Show, check, try, export and import the rules that decide elevations:"
    " accesses beyond somebody's own tenant.",
)
file_argument = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)


@dataclass(frozen=True)
class RuleEntry:
    """One line of the table of rules."""

    name: str
    tenant: str | None
    effect: str
    surfaces: tuple[str, ...]
    enabled: bool
    version: int


@group.command("list")
@click.option("--tenant", metavar="SLUG", help="Only rules of the tenant with this slug.")
@click.option("--q", metavar="TEXT", help="Only rules with this text in their name or description.")
@reason_option
@as_json
def list_command(*, tenant: str | None, q: str | None, reason: Reason, as_json: bool) -> None:
    """Show rules by name: the platform's, which have no tenant, and every tenant's."""
    terms = {"tenant": tenant, "q": q}
    with command_access("rules list", reason, terms, tenant=tenant) as access:
        rules = list(_rules(access.scope, RuleQuery(limit=MAX_LIMIT, tenant=tenant, q=q)))
        access.rows = len(rules)
    if as_json:
        print_json({"items": RuleSchema(many=True).dump(rules)})
    else:
        print_rows(RuleEntry, [_entry(rule) for rule in rules], as_json=False)


def _rules(scope: Scope, query: RuleQuery) -> Iterator[Rule]:
    """Every rule of every page of the list, read from the database and not from the cache."""
    while True:
        page = service.list_rules.uncached(scope, query)
        yield from page.items
        if page.next_cursor is None:
            return
        query = replace(query, cursor=page.next_cursor)


def _entry(rule: Rule) -> RuleEntry:
    return RuleEntry(rule.name, rule.tenant, rule.effect, rule.surfaces, rule.enabled, rule.version)


@group.command("export")
@click.option("--tenant", metavar="SLUG", help="Only rules of the tenant with this slug.")
@click.option("--platform", is_flag=True, help="Only rules of the platform.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["yaml", "cedar"]),
    default="yaml",
    show_default=True,
    help="The language to print the rules in.",
)
@click.option(
    "--part",
    type=click.Choice(["policies", "schema", "entities"]),
    help="The part of Cedar to print: the policies, unless another is named.",
)
@reason_option
def export_command(
    *, tenant: str | None, platform: bool, form: str, part: str | None, reason: Reason
) -> None:
    """Print rules as YAML, which `import` reads, or the enabled ones as Cedar.

    A tenant's policies only narrow what the platform's allow, so evaluate each set alone in Cedar.
    """
    if tenant is not None and platform:
        raise click.UsageError(
            "--tenant and --platform name two owners; leave both out for all rules."
        )
    if part is not None and form != "cedar":
        raise click.UsageError("--part is for --format cedar.")
    owners = {tenant} if tenant is not None or platform else None
    terms = {"tenant": tenant, "platform": platform, "format": form, "part": part}
    with command_access("rules export", reason, terms, tenant=tenant) as access:
        rules = transfer.find_rules(owners)
        access.rows = len(rules)
        if form == "yaml":
            exported = write_file(rules, owners or ())
        else:
            exported = _cedar(part or "policies", rules)
    click.echo(exported, nl=False)


def _cedar(part: str, rules: Sequence[Rule]) -> str:
    if part == "schema":
        return SCHEMA_TEXT
    write = cedar_text.policies_text if part == "policies" else cedar_text.entities_text
    try:
        return write(rules)
    except Unreadable as error:
        raise click.ClickException(f"{error}: see `flask rules check`.") from error


@group.command("import")
@file_argument
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option(
    "--prune",
    is_flag=True,
    help="Delete the rules that the file lacks, of each owner that it names.",
)
@click.option("--by", metavar="NOTE", help="Who asked for it: the note of the reason.")
@reason_option
@as_json
def import_command(
    *,
    file: Path,
    dry_run: bool,
    prune: bool,
    by: str | None,
    reason: Reason,
    as_json: bool,
) -> None:
    """Change the rules to those of a FILE (`-`: standard input): all of them, or none.

    An entry of the file stands for the rule with the same owner and name. A rule that is the same
    already stays as it is. The reason is recorded with the changes, or with the access where
    nothing is changed; the author of the changes is whoever runs the command.
    """
    rule_file, noted = _read(read_file, file), _noted(reason, by)
    terms = {"dry_run": dry_run, "prune": prune}
    try:
        with command_access("rules import", noted, terms) as access:
            plan = transfer.plan_import(rule_file, prune=prune)
            transfer.carry_out(access.scope, plan, operator().email)
            if dry_run:
                db.session.rollback()
                access.rows = len(plan.steps)
            else:
                access.changed = _changed(plan)
    except BadFile as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print_json({"steps": plan.steps, "unchanged": plan.unchanged, "dry_run": dry_run})
    else:
        _print_plan(plan, dry_run=dry_run)


def _noted(reason: Reason, by: str | None) -> Reason:
    """The reason with the note that `--by` gives."""
    if by is None:
        return reason
    if reason.note is not None:
        raise click.UsageError("Give a note in --reason or by --by, not both.")
    if not (is_line(by) and len(by) <= MAX_NOTE):
        raise click.BadParameter(f"must be {LINE}, {MAX_NOTE} at most", param_hint="--by")
    return replace(reason, note=by)


def _changed(plan: Plan) -> dict[EventScope, int]:
    """The number of changed rules of each owner."""
    ids = {slug: tenant_id for tenant_id, slug in transfer.find_tenants(plan)}
    counts = Counter(step.tenant for step in plan.steps)
    return {
        tenant_scope(ids[slug] if slug else None, slug): count for slug, count in counts.items()
    }


def _read(read: Callable[[str], T], file: Path) -> T:
    try:
        with click.open_file(str(file), encoding="utf-8") as opened:
            return read(opened.read(MAX_FILE + 1))
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file} is not UTF-8.") from error
    except BadFile as error:
        raise click.ClickException(str(error)) from error


_SIGNS = {"created": ("+", "green"), "changed": ("~", "yellow"), "deleted": ("-", "red")}


def _print_plan(plan: Plan, *, dry_run: bool) -> None:
    for step in plan.steps:
        _print_step(step)
    counts = (len(plan.creations), len(plan.amendments), len(plan.deletions), plan.unchanged)
    say("{} created, {} changed, {} deleted, {} unchanged.".format(*counts))
    if dry_run:
        say("This was a dry run: nothing was changed.")


def _print_step(step: Step) -> None:
    sign, colour = _SIGNS[step.kind]
    say(f"{sign} {step.tenant or 'the platform'}: {_quoted(step.name)}", fg=colour)
    for difference in step.differences:
        say(f"    {difference.field}: ", nl=False)
        say(_quoted(difference.before), fg="red", nl=False)
        say(" → ", nl=False)
        say(_quoted(difference.after), fg="green")


def _quoted(value: Any) -> str:
    """A value as JSON on one line, without characters that a terminal would obey."""
    return escaped_json(orjson.dumps(value).decode())


@group.command("check")
@click.option(
    "--days",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Find rules that applied to no access of this many days.",
)
@reason_option
@as_json
def check_command(*, days: int, reason: Reason, as_json: bool) -> None:
    """Find rules that do nothing or cannot work; exit 1 when there are any.

    It finds rules that cannot be read, can never apply, contradict each other, or applied to no
    access of the last days. It also warns if networks are not compared with clients' addresses.
    """
    with command_access("rules check", reason, {"days": days}) as access:
        found = check_rules(load(), days)
        access.rows = len(found)
    print_rows(RuleFinding, found, as_json=as_json)
    sys.exit(1 if found else 0)


@group.command("simulate")
@file_argument
@click.option(
    "--days",
    type=click.IntRange(1, MAX_DAYS),
    default=30,
    show_default=True,
    help="Try the draft on the accesses of this many days.",
)
@click.option(
    "--replaces", metavar="ID", type=click.UUID, help="The rule that the draft would replace."
)
@reason_option
@as_json
def simulate_command(
    *, file: Path, days: int, replaces: UUID | None, reason: Reason, as_json: bool
) -> None:
    """Show which of the last days' accesses the draft rule in a FILE would have changed.

    The file has one rule, in YAML. Its `tenant` names the owner; without one the rule belongs to
    the platform.
    """
    draft = _read(read_draft, file)
    terms = {"days": days, "replaces": replaces}
    with command_access("rules simulate", reason, terms) as access:
        proposal = propose(access.scope, draft, replaces)
        found = simulate_history(proposal, days, BEYOND_REQUEST)
        access.rows = len(found.accesses)
    if as_json:
        print_json(ReplaySchema().dump(found))
    else:
        _print_replay(found)


def _print_replay(found: Replay) -> None:
    newest = "the newest " if found.truncated else ""
    say(f"{found.changed} of {newest}{found.examined} accesses would have changed.")
    if found.truncated:
        say(f"Accesses before {found.covered_from.isoformat()} were not tried.")
    for kind, rows in ((Shift, found.shifts), (Affected, found.actors), (Changed, found.accesses)):
        if rows:
            print_rows(kind, rows, as_json=False)
