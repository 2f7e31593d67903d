"""Exemptions: the few files that may do what the rules on source refuse, and why.

An exemption stands for good. A breach that ought to go away belongs in
`scope-lint-exceptions.toml`.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from webapp.scope.lint import source
from webapp.scope.lint.finding import LintFinding


@dataclass(frozen=True)
class Exemption:
    """Permission for some files to break one rule.

    `files` is a path from the project's root, or a pattern with a `*`.
    """

    files: str
    rule: str
    reason: str

    def admits(self, finding: LintFinding) -> bool:
        return finding.rule == self.rule and fnmatchcase(finding.subject, self.files)


EXEMPTIONS: tuple[Exemption, ...] = (
    Exemption(
        "webapp/scope/surface.py", source.COMMIT, "commits what a surface's view has changed"
    ),
    Exemption(
        "webapp/scope/command_access.py",
        source.COMMIT,
        "commits the record of what a command reads, before it is printed",
    ),
    Exemption(
        "webapp/scope/command_access.py",
        source.SCOPE_ENTRY,
        "the way of commands to tenants' rows: no rule is asked, and each is recorded",
    ),
    Exemption(
        "webapp/scope/answers.py",
        source.SCOPE_ENTRY,
        "enters a surface's scope again for an answer that goes on after its view",
    ),
    Exemption("webapp/*cli.py", source.COMMIT, "a command is a unit of work"),
    Exemption(
        "webapp/*cli.py", source.SCOPE_ENTRY, "an operator at the machine is not subject to rules"
    ),
    Exemption("tasks/*", source.COMMIT, "a task is a unit of work"),
    Exemption(
        "tasks/*", source.SCOPE_ENTRY, "a task has no principal whom rules could decide about"
    ),
    Exemption(
        "webapp/*models.py", source.RAW_SQL, "defaults and conditions of indexes, which are not run"
    ),
    Exemption(
        "webapp/audit/append.py", source.TENANT_DML, "appends, in a scope that may do nothing else"
    ),
    Exemption(
        "webapp/elevations/service.py",
        source.TENANT_DML,
        "claims a key with one insert, on which an equal request waits",
    ),
    Exemption(
        "webapp/rules/simulation/queue.py",
        source.TENANT_DML,
        "deletes simulations that are over, of the scope's own or all of them in a task",
    ),
    Exemption(
        "webapp/identity/tokens.py",
        source.TENANT_DML,
        "notes when a token was last used, in a task whose role may change nothing else",
    ),
    Exemption(
        "webapp/audit/journal/ends.py", source.RAW_SQL, "SQL of SQLite, for a file on this host"
    ),
    Exemption("webapp/audit/journal/file.py", source.RAW_SQL, "SQL of SQLite, as above"),
    Exemption("webapp/audit/journal/reader.py", source.RAW_SQL, "SQL of SQLite, as above"),
    Exemption(
        "webapp/audit/relay/pipeline.py", source.SCOPE_ENTRY, "asks which events are committed"
    ),
    *(
        Exemption("webapp/ledger/sealing/following.py", rule, "compares a copy, beside the tasks")
        for rule in (source.SCOPE_ENTRY, source.COMMIT)
    ),
    Exemption("webapp/ledger/sealing/state.py", source.SCOPE_ENTRY, "counts what is in the log"),
    Exemption(
        "webapp/ledger/sealing/store.py",
        source.TENANT_DML,
        "writes entries and numbers, in a scope that may change no event",
    ),
    Exemption("webapp/db/session.py", source.RAW_SQL, "the statement that enters a scope"),
    Exemption("webapp/db/limits.py", source.CONNECTION, "limits a connection before its first use"),
    Exemption("webapp/db/limits.py", source.RAW_SQL, "sets limits, and asks who answers"),
    Exemption("webapp/db/limits.py", source.SESSION_SET, "limits hold for all transactions"),
    Exemption("webapp/db/base.py", source.RAW_SQL, "a default, which is not run"),
    Exemption(
        "webapp/db/tenant_tables.py", source.RAW_SQL, "closes tables in migrations, as their owner"
    ),
    Exemption(
        "webapp/db/tenant_tables.py", source.CONNECTION, "asks a migration's database what is there"
    ),
    Exemption("webapp/db/roles.py", source.CONNECTION, "reads what the login role may do"),
    Exemption("webapp/db/roles.py", source.RAW_SQL, "reads the settings of roles"),
    Exemption("webapp/db/privileges.py", source.RAW_SQL, "reads the catalog"),
    Exemption(
        "webapp/doctor.py", source.SCOPE_ENTRY, "counts what is in the ledger and in quarantine"
    ),
    Exemption("webapp/db/deadline.py", source.CONNECTION, "lifts the limit to statements' time"),
    Exemption("webapp/extensions.py", source.CONNECTION, "asks whether the database answers"),
    Exemption(
        "webapp/extensions.py", source.SCOPE_ENTRY, "moves the session into the entered scope"
    ),
    Exemption(
        "webapp/caching/generations.py",
        source.RAW_SQL,
        "reads generations, which belong to no tenant",
    ),
    Exemption(
        "webapp/caching/generations.py",
        source.SCOPE_ENTRY,
        "reads generations before a scope is entered",
    ),
    Exemption("webapp/caching/invalidation.py", source.RAW_SQL, "raises generations"),
    Exemption("webapp/grants/active.py", source.SCOPE_ENTRY, "reads what decisions are made of"),
    Exemption(
        "webapp/ledger/sealing/views.py",
        source.SCOPE_ENTRY,
        "shows the log to anybody: it holds hashes, and nothing of a tenant or a person",
    ),
    Exemption("webapp/rules/rule_sets.py", source.SCOPE_ENTRY, "reads what decisions are made of"),
    Exemption(
        "webapp/decisions/break_glass.py",
        source.COMMIT,
        "commits an incident before the access begins",
    ),
    Exemption(
        "webapp/decisions/break_glass.py",
        source.SCOPE_ENTRY,
        "opens an incident in the scope of its holder",
    ),
    *(
        Exemption(file, source.SCOPE_ENTRY, "authenticates, before a scope is entered")
        for file in ("webapp/identity/lookup.py", "webapp/identity/tokens.py")
    ),
    Exemption("webapp/observability/health.py", source.SCOPE_ENTRY, "reads the schema's revision"),
    Exemption("webapp/observability/last_seen.py", source.SCOPE_ENTRY, "reads signs of life"),
    *(
        Exemption("webapp/key_uses/service.py", rule, "notes which keys this process signs with")
        for rule in (source.SCOPE_ENTRY, source.COMMIT)
    ),
    *(
        Exemption("webapp/worker/alive.py", rule, "notes that this process is at work")
        for rule in (source.SCOPE_ENTRY, source.COMMIT)
    ),
    Exemption(
        "webapp/scope/enter.py", source.SCOPE_ENTRY, "the only way of a request into a scope"
    ),
    Exemption("webapp/scope/lint/__init__.py", source.CONNECTION, "reads the catalog"),
    Exemption("webapp/scope/lint/catalog.py", source.RAW_SQL, "reads the catalog"),
    *(
        Exemption("webapp/db/migrate.py", rule, "works as the tables' owner, on the schema")
        for rule in (source.RAW_SQL, source.CONNECTION, source.COMMIT)
    ),
    *(
        Exemption("webapp/stack/servers.py", rule, "makes the development database")
        for rule in (source.RAW_SQL, source.CONNECTION)
    ),
    Exemption(
        "webapp/stack/signing_keys.py", source.CONNECTION, "registers the development stack's keys"
    ),
)


def keep_refused(
    findings: Iterable[LintFinding], exemptions: Collection[Exemption] = EXEMPTIONS
) -> tuple[list[LintFinding], set[Exemption]]:
    """The findings that no exemption admits, and the exemptions that admitted any."""
    refused, used = [], set()
    for finding in findings:
        admitting = {exemption for exemption in exemptions if exemption.admits(finding)}
        used |= admitting
        if not admitting:
            refused.append(finding)
    return refused, used


def check_allowlist(
    exemptions: Collection[Exemption], used: Collection[Exemption]
) -> list[LintFinding]:
    """Find exemptions of single files that admit nothing any more."""
    return [
        LintFinding(
            exemption.files,
            None,
            "unused-exemption",
            f"needs no exemption for {exemption.rule} any more",
        )
        for exemption in exemptions
        if "*" not in exemption.files and exemption not in used
    ]
