"""The declared doors: the few files that may do what the rules on source refuse, and why.

A door stands for good. What ought to go away one day belongs in `scope-lint-exceptions.toml`.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from webapp.scope.lint import source
from webapp.scope.lint.finding import Finding


@dataclass(frozen=True)
class Door:
    """`files` is a path from the project's root, or a pattern with a `*` in it."""

    files: str
    rule: str
    reason: str

    def admits(self, finding: Finding) -> bool:
        return finding.rule == self.rule and fnmatchcase(finding.subject, self.files)


DOORS: tuple[Door, ...] = (
    Door("webapp/*views.py", source.COMMIT, "a request's work ends in its view"),
    Door("webapp/*cli.py", source.COMMIT, "a command is a unit of work"),
    Door("webapp/*cli.py", source.SCOPE_DOOR, "an operator at the machine is past the policy"),
    Door("tasks/*", source.COMMIT, "a task is a unit of work"),
    Door("tasks/*", source.SCOPE_DOOR, "a task has no principal whom a policy could judge"),
    Door("webapp/*models.py", source.RAW_SQL, "defaults and partial indexes, which nobody runs"),
    Door("webapp/audit/append.py", source.TENANT_DML, "appends, in the scope that may do no more"),
    Door("webapp/audit/journal/file.py", source.RAW_SQL, "SQLite's, of a file on this host"),
    Door("webapp/audit/journal/reader.py", source.RAW_SQL, "the same"),
    Door("webapp/audit/relay/pipeline.py", source.SCOPE_DOOR, "asks which events are committed"),
    Door("webapp/db/session.py", source.RAW_SQL, "the statement that enters a scope"),
    Door("webapp/db/session.py", source.CONNECTION, "asks the catalog what the login role may do"),
    Door("webapp/doctor.py", source.SCOPE_DOOR, "counts what is in the ledger and in quarantine"),
    Door("webapp/extensions.py", source.CONNECTION, "asks whether the database answers"),
    Door("webapp/caching/generations.py", source.RAW_SQL, "reads generations, which no tenant has"),
    Door("webapp/caching/generations.py", source.SCOPE_DOOR, "reads them where no scope is yet"),
    Door("webapp/caching/invalidation.py", source.RAW_SQL, "raises generations"),
    Door("webapp/grants/active.py", source.SCOPE_DOOR, "reads what decisions are made of"),
    Door("webapp/rules/rule_sets.py", source.SCOPE_DOOR, "reads what decisions are made of"),
    Door(
        "webapp/decisions/break_glass.py",
        source.COMMIT,
        "an incident is open before the look begins",
    ),
    Door(
        "webapp/decisions/break_glass.py", source.SCOPE_DOOR, "opens it in what concerns its holder"
    ),
    Door(
        "webapp/identity/authentication.py",
        source.SCOPE_DOOR,
        "finds out who asks, before any scope",
    ),
    Door("webapp/observability/health.py", source.SCOPE_DOOR, "reads the schema's revision"),
    Door("webapp/scope/enter.py", source.SCOPE_DOOR, "the door that a decision opens"),
    Door("webapp/scope/lint/__init__.py", source.CONNECTION, "reads the catalog"),
    Door("webapp/scope/lint/catalog.py", source.RAW_SQL, "reads the catalog"),
    *(
        Door("webapp/db/migrate.py", rule, "works as the tables' owner, on the schema")
        for rule in (source.RAW_SQL, source.CONNECTION, source.COMMIT)
    ),
    *(
        Door("webapp/stack/servers.py", rule, "makes the development database")
        for rule in (source.RAW_SQL, source.CONNECTION)
    ),
)


def keep_refused(
    findings: Iterable[Finding], doors: Collection[Door] = DOORS
) -> tuple[list[Finding], set[Door]]:
    """The findings that no door admits, and the doors that admitted any."""
    refused, used = [], set()
    for finding in findings:
        admitting = {door for door in doors if door.admits(finding)}
        used |= admitting
        if not admitting:
            refused.append(finding)
    return refused, used


def check_doors(doors: Collection[Door], used: Collection[Door]) -> list[Finding]:
    """A door of a single file that nothing goes through any more is to be closed."""
    return [
        Finding(door.files, None, "unused-door", f"needs no door for {door.rule} any more")
        for door in doors
        if "*" not in door.files and door not in used
    ]
