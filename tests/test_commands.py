"""Every `flask` command changes something, reads tenants' data, or neither: the first two leave
events, and whoever reads says why."""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import click
import orjson
import pytest
import yaml
from flask import Flask
from sqlalchemy import inspect, select, text

from tests.audit.ledgers import owner_connection
from tests.audit.receipts import second_connection
from tests.conftest import Run
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.grants.notices.channels import add_grant, end
from tests.operators import ACCOUNT, OPERATOR
from webapp.audit.append import OWN_JOURNAL
from webapp.audit.models import AuditEventRow, SigningKeyRow
from webapp.commands import LazyCommand
from webapp.db.base import Base
from webapp.db.scopes import IdentityScope, PolicyScope, Scope
from webapp.extensions import db
from webapp.grants.models import GrantApprovalRow, GrantRow
from webapp.identity.models import ApiToken, MembershipRow, PlatformRoleRow, PrincipalRow, Tenant
from webapp.rules.models import RuleRow
from webapp.signing_key import signing_key

pytestmark = pytest.mark.slow(seconds=0.5)

OTHERWISE_RECORDED = {
    "audit drain": "what it commits are the events themselves",
    "cache clear": "no row changes, and what was cached is loaded anew",
    "cache warm": "the same",
    "db upgrade": "the schema's, by its owner, who has no scope",
    "demo access": "of development: its access is an event like any other",
    "ledger resume": "its event is its first entry: the log's own tests restore a database for it",
    "demo seed": "of development: it makes the demo's tenants as their people would",
    "ledger keys register": "tests/ledger/test_signing_keys.py: it needs a key that is not ours",
}
"""Commands that change something without an event of their own, or that others try, and why."""

STATE: Mapping[Scope, Sequence[type[Base]]] = {
    IdentityScope(): (
        *(Tenant, PrincipalRow, PlatformRoleRow, MembershipRow, ApiToken),
        SigningKeyRow,
    ),
    PolicyScope(): (RuleRow, GrantRow, GrantApprovalRow),
}
"""The rows that operators change, and the scopes that see all of them."""

WHY = ("--reason", 'support_case;ticket="C-17";note="a customer asks"')
RECORDED_REASON = {"code": "support_case", "note": "a customer asks", "ticket": "C-17"}

CHANGES_AND_READS = {"rules import", "users rename"}
"""Commands that change something, and show tenants' rows too. So they ask for a reason."""

SAYS_WHY = {"ledger resume"}
"""Commands that read no tenant's data, and ask for a reason all the same."""

VOLATILE = {"last_used_at", "token_hash"}
"""Columns that a worker may change meanwhile, for requests of other tests; and the digests of
tokens, which no role may read."""


class Prepared(NamedTuple):
    """A command whose objects exist, ready to run."""

    arguments: Sequence[str]
    recorded: Sequence[str]
    """The paths of its events: one for each row that it changes of identity, else for the whole."""
    rows: int = 1
    """The number of rows in each of its events."""


@pytest.fixture
def tenant(app: Flask) -> MadeTenant:
    return add_tenant(app)


@pytest.fixture
def somebody(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "member"})


class Setting:
    """A tenant, a member of it, and a directory for files."""

    def __init__(self, app: Flask, run: Run, tenant: MadeTenant, somebody: Account, home: Path):
        self.app, self.run = app, run
        self.tenant, self.somebody = tenant, somebody
        self._home = home

    def rules_file(self, *names: str) -> str:
        """Make a file with rules of the tenant."""
        rules = [{"name": name, "effect": "deny", "surfaces": ["shop.*"]} for name in names]
        path = self._home / f"{uuid4().hex}.yaml"
        path.write_text(yaml.safe_dump({"tenants": {self.tenant.slug: rules}}))
        return str(path)

    def grant(self) -> str:
        state = {"state": "approved"}
        return str(add_grant(self.app, self.somebody, self.tenant, **state).id)


@pytest.fixture
def setting(app: Flask, run: Run, tenant: MadeTenant, somebody: Account, tmp_path: Path) -> Setting:
    return Setting(app, run, tenant, somebody, tmp_path)


def create_tenant(_: Setting) -> Prepared:
    slug = f"t-{uuid4().hex}"
    return Prepared(["tenants", "create", slug], [f"flask tenants create {slug}"])


def create_user(_: Setting) -> Prepared:
    email = f"{uuid4().hex}@example.org"
    words = ["users", "create", email]
    return Prepared(
        [*words, "--role", "support"],
        [f"flask users create {email}", f"flask users grant {email} support"],
    )


def by_words(*words: str, given: Sequence[str] = ()) -> Callable[[Setting], Prepared]:
    """Prepare a command that is recorded by its own words. An upper-case word stands for a value of
    the setting."""

    def prepare(setting: Setting) -> Prepared:
        values = {
            "EMAIL": setting.somebody.email,
            "STAFF": add_account(setting.app, "support").email,
            "SLUG": setting.tenant.slug,
            "TOKEN": str(setting.somebody.token_id),
        }
        named = [values.get(word, word) for word in words]
        return Prepared([*named, *given], [" ".join(["flask", *named, *given[1::2]])])

    prepare.__qualname__ = "_".join(words[:2])
    return prepare


def end_tenant(setting: Setting) -> Prepared:
    words = ["tenants", "end", setting.tenant.slug]
    left = f"flask users leave {setting.somebody.email} {setting.tenant.slug}"
    return Prepared([*words, "--yes"], [left, " ".join(["flask", *words])])


def end_user(setting: Setting) -> Prepared:
    """Prepare the end of a user with a token and a membership."""
    email = setting.somebody.email
    words = ["users", "end", email]
    ended = [
        f"flask tokens revoke {setting.somebody.token_id}",
        f"flask users leave {email} {setting.tenant.slug}",
    ]
    return Prepared([*words, "--yes"], [" ".join(["flask", *words]), *ended])


def rename_user(setting: Setting) -> Prepared:
    words = ["users", "rename", setting.somebody.email, f"{uuid4().hex}@example.org"]
    return Prepared([*words, *WHY], [" ".join(["flask", *words])])


def rename_tenant(setting: Setting) -> Prepared:
    words = ["tenants", "rename", setting.tenant.slug, "--slug", f"t-{uuid4().hex}"]
    return Prepared(words, [" ".join(["flask", *words])])


def revoke_grant(setting: Setting) -> Prepared:
    grant_id = setting.grant()
    return Prepared(["grants", "revoke", grant_id], [f"flask grants revoke {grant_id}"])


def expire_grants(setting: Setting) -> Prepared:
    assert setting.run("grants", "expire").exit_code == 0  # those of other tests
    for _ in range(2):
        end(setting.app, add_grant(setting.app, setting.somebody, setting.tenant).id)
    return Prepared(["grants", "expire"], ["flask grants expire"] * 2)


def create_token(setting: Setting) -> Prepared:
    words = ["tokens", "create", setting.somebody.email, "--name", "laptop"]
    return Prepared(words, [f"flask tokens create … for {setting.somebody.email}"])


def bind_token(setting: Setting) -> Prepared:
    token_id = add_account(setting.app, "service").token_id
    words = ["tokens", "bind", str(token_id), "--surface", "shop.*", "--tenant"]
    words.append(setting.tenant.slug)
    return Prepared(words, [" ".join(["flask", *words])])


def import_rules(setting: Setting) -> Prepared:
    return Prepared([*IMPORT, setting.rules_file("new")], [IMPORTED])


def import_changes(setting: Setting) -> Prepared:
    assert setting.run(*IMPORT, setting.rules_file("kept")).exit_code == 0
    file = Path(setting.rules_file("kept"))
    file.write_text(file.read_text().replace("deny", "require_approval"))
    return Prepared([*IMPORT, str(file)], [IMPORTED])


def prune_rules(setting: Setting) -> Prepared:
    assert setting.run(*IMPORT, setting.rules_file("kept", "gone")).exit_code == 0
    return Prepared([*IMPORT, "--prune", setting.rules_file("kept")], [IMPORTED])


def retire_key(setting: Setting) -> Prepared:
    key = signing_key(secrets.token_urlsafe(32))
    statement = "insert into signing_keys (public_key, process, label) values (:key, 'web', 'away')"
    with owner_connection(setting.app) as owner:
        owner.execute(text(statement), {"key": key.public})
    words = ["ledger", "keys", "retire", key.fingerprint]
    return Prepared(words, [f"flask ledger keys retire web {key.fingerprint} away"])


IMPORT = ("rules", "import", *WHY)
IMPORTED = "flask rules import"

CHANGES: Sequence[Callable[[Setting], Prepared]] = [
    create_tenant,
    rename_tenant,
    end_tenant,
    create_user,
    rename_user,
    end_user,
    by_words("users", "grant", "STAFF", "auditor"),
    by_words("users", "revoke", "STAFF", "support"),
    by_words("users", "join", "EMAIL", "SLUG", given=("--role", "admin")),
    by_words("users", "leave", "EMAIL", "SLUG"),
    create_token,
    bind_token,
    by_words("tokens", "revoke", "TOKEN"),
    revoke_grant,
    expire_grants,
    import_rules,
    import_changes,
    prune_rules,
    retire_key,
]


class Read(NamedTuple):
    """A command that reads tenants' data, without its reason."""

    arguments: Sequence[str]
    of_tenant: bool = False
    """Whether it reads the setting's tenant alone."""
    rows: int | None = None
    """How many rows it shows, if that is known."""
    prints: bool = True
    """Whether it has something to print."""


def dry_run(setting: Setting) -> Read:
    return Read(["rules", "import", "--dry-run", setting.rules_file("new")], rows=1)


def unchanged_import(setting: Setting) -> Read:
    assert setting.run(*IMPORT, setting.rules_file("kept")).exit_code == 0
    return Read(["rules", "import", "--prune", setting.rules_file("kept")], rows=0)


def simulation(setting: Setting) -> Read:
    draft = {"name": "new", "effect": "deny", "surfaces": ["shop.*"]}
    path = Path(setting.rules_file()).with_suffix(".json")
    path.write_bytes(orjson.dumps(draft))
    return Read(["rules", "simulate", str(path)])


def one_tenants_rules(setting: Setting) -> Read:
    assert setting.run(*IMPORT, setting.rules_file("one", "two")).exit_code == 0
    return Read(["rules", "list", "--tenant", setting.tenant.slug], of_tenant=True, rows=2)


def one_tenants_export(setting: Setting) -> Read:
    assert setting.run(*IMPORT, setting.rules_file("one", "two")).exit_code == 0
    return Read(["rules", "export", "--tenant", setting.tenant.slug], of_tenant=True, rows=2)


def one_tenants_grants(setting: Setting) -> Read:
    setting.grant()
    return Read(["grants", "list", "--tenant", setting.tenant.slug], of_tenant=True, rows=1)


def one_tenants_events(setting: Setting) -> Read:
    words = ["audit", "search", "--kind", "change", "--tenant", setting.tenant.slug]
    assert setting.run(*IMPORT, setting.rules_file("one", "two")).exit_code == 0
    return Read([*words, "--surface", "rules.import"], of_tenant=True, rows=1)


def all_grants(setting: Setting) -> Read:
    setting.grant()
    return Read(["grants", "list"])


def checked_rules(setting: Setting) -> Read:
    """Prepare a check that finds something: a rule for a time that is over."""
    rule = {"name": "over", "effect": "deny", "surfaces": ["x"], "ends_at": "2020-01-01T00:00:00Z"}
    file = Path(setting.rules_file())
    file.write_text(yaml.safe_dump({"tenants": {setting.tenant.slug: [rule]}}))
    assert setting.run(*IMPORT, str(file)).exit_code == 0
    return Read(["rules", "check"])


def exported(setting: Setting) -> Read:
    return Read(["ledger", "export", "--output", setting.rules_file() + ".jsonl"])


def one_tenants_audits(setting: Setting) -> Read:
    words = ["ledger", "export", "--tenant", setting.tenant.slug, "--kind", "change"]
    assert setting.run(*IMPORT, setting.rules_file("one", "two")).exit_code == 0
    output = ["--output", setting.rules_file() + ".jsonl"]
    return Read([*words, "--surface", "rules.import", *output], of_tenant=True, rows=1)


def refused_search(_: Setting) -> Read:
    return Read(["audit", "search", "--surface", "no.such.surface"], rows=0, prints=False)


def reads(*words: str) -> Callable[[Setting], Read]:
    """Prepare a command about all tenants, one of which has rules and events."""

    def prepare(setting: Setting) -> Read:
        assert setting.run(*IMPORT, setting.rules_file("new")).exit_code == 0
        return Read(words)

    prepare.__qualname__ = "_".join(words[:2])
    return prepare


def refused_proof(_: Setting) -> Read:
    return Read(["ledger", "prove", str(uuid4())], rows=0, prints=False)


READS: Sequence[Callable[[Setting], Read]] = [
    reads("audit", "search"),
    reads("audit", "tail"),
    reads("rules", "export"),
    reads("rules", "list"),
    all_grants,
    checked_rules,
    simulation,
    dry_run,
    unchanged_import,
    one_tenants_rules,
    one_tenants_export,
    one_tenants_grants,
    one_tenants_events,
    exported,
    one_tenants_audits,
    refused_search,
    refused_proof,
]


def tenant_shown(setting: Setting) -> Sequence[str]:
    return ["tenants", "show", setting.tenant.slug]


def user_shown(setting: Setting) -> Sequence[str]:
    return ["users", "show", setting.somebody.email]


def shows(*words: str) -> Callable[[Setting], Sequence[str]]:
    def prepare(_: Setting) -> Sequence[str]:
        return words

    prepare.__qualname__ = "_".join(words[:2])
    return prepare


SHOWS: Sequence[Callable[[Setting], Sequence[str]]] = [
    shows("audit", "verify", "--complete"),
    shows("cache", "stats"),
    shows("db", "check"),
    shows("db", "roles"),
    shows("doctor"),
    shows("ledger", "checkpoint"),
    shows("ledger", "keys", "list"),
    shows("ledger", "policy"),
    shows("ledger", "verify"),
    shows("scope", "lint"),
    shows("tenants", "list"),
    shows("tokens", "list"),
    shows("users", "list"),
    shows("version"),
    tenant_shown,
    user_shown,
]
"""Commands that show nothing of tenants' data: the directory is the platform's own."""


def state(app: Flask) -> dict[str, list[tuple[Any, ...]]]:
    """Read all rows that operators change."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    with app.app_context():
        for scope, models in STATE.items():
            with db.scoped(scope):
                for model in models:
                    columns = [c for c in inspect(model).columns if c.key not in VOLATILE]
                    found = db.session.execute(select(*columns))
                    rows[model.__tablename__] = sorted(tuple(map(str, row)) for row in found)
    return rows


def last_number(app: Flask) -> int:
    """The last number of the events that no request has left."""
    with second_connection(app) as session:
        numbers = select(AuditEventRow.origin_seq).order_by(AuditEventRow.origin_seq.desc())
        own = numbers.where(AuditEventRow.origin_journal == OWN_JOURNAL).limit(1)
        return session.scalar(own) or 0


def recorded_since(app: Flask, number: int) -> list[Mapping[str, Any]]:
    with second_connection(app) as session:
        own = AuditEventRow.origin_journal == OWN_JOURNAL
        since = select(AuditEventRow.event).where(own, AuditEventRow.origin_seq > number)
        return list(session.scalars(since.order_by(AuditEventRow.origin_seq)))


@contextmanager
def no_room_for_events(app: Flask) -> Iterator[None]:
    """Let the database refuse every event, when its transaction commits."""
    refuse = (
        "create constraint trigger refused after insert on audit_events"
        " deferrable initially deferred for each row execute function refuse_rewriting()"
    )
    with owner_connection(app) as owner:
        owner.execute(text(refuse))
    try:
        yield
    finally:
        with owner_connection(app) as owner:
            owner.execute(text("drop trigger refused on audit_events"))


def is_path(found: str, expected: str) -> bool:
    """Whether a path is as expected, where `…` stands for an id that the command has made."""
    before, gap, after = expected.partition("…")
    return found.startswith(before) and found.endswith(after) if gap else found == expected


def commands_of(
    group: click.Group, context: click.Context, *path: str
) -> Iterator[tuple[str, click.Command]]:
    """Each command of a group and of its groups, by its words."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        command = command.loaded if isinstance(command, LazyCommand) else command
        if isinstance(command, click.Group):
            yield from commands_of(command, context, *path, name)
        elif command is not None and not NOT_OURS.intersection((*path, name)):
            yield " ".join((*path, name)), command


NOT_OURS = {"openapi", "routes", "run", "shell"}
"""Commands of Flask and its extensions, which read and change no rows."""


def test_every_command_changes_something_or_reads_tenants_data_or_neither(
    app: Flask, setting: Setting
) -> None:
    """Add a new command to CHANGES, READS or SHOWS, where it is tested."""
    with app.app_context():
        commands = dict(commands_of(app.cli, click.Context(app.cli)))
    assert commands

    def named_by(tried: Iterable[Sequence[str]]) -> set[str]:
        calls = {f"{' '.join(arguments)} " for arguments in tried}
        return {name for name in commands if any(call.startswith(f"{name} ") for call in calls)}

    changing = named_by(prepare(setting).arguments for prepare in CHANGES)
    reading = named_by(prepare(setting).arguments for prepare in READS) - CHANGES_AND_READS
    showing = named_by(prepare(setting) for prepare in SHOWS)
    places = Counter([*changing, *reading, *showing, *OTHERWISE_RECORDED])
    assert places == Counter(list(commands))
    asking = {name for name, c in commands.items() if any(p.name == "reason" for p in c.params)}
    assert asking == reading | CHANGES_AND_READS | SAYS_WHY


@pytest.mark.parametrize("prepare", CHANGES, ids=lambda prepare: prepare.__qualname__)
def test_change_by_a_command_leaves_its_event(
    app: Flask, setting: Setting, prepare: Callable[[Setting], Prepared]
) -> None:
    arguments, expected, rows = prepare(setting)
    before, number = state(app), last_number(app)
    result = setting.run(*arguments)
    assert result.exit_code == 0, result.output
    assert state(app) != before
    events = [event for event in recorded_since(app, number) if event["kind"] == "change"]
    paths = [event["request"]["path"] for event in events]
    assert len(paths) == len(expected), paths
    assert all(map(is_path, sorted(paths), sorted(expected))), paths
    assert len({event["request"]["id"] for event in events}) == 1
    for event in events:
        assert event["outcome"] == "served"
        words = event["request"]["path"].split()[1:]
        assert event["surface"] == ".".join(words[: 3 if words[0] == "ledger" else 2])
        assert event["request"]["method"] == "CLI"
        assert event["rows"] == rows


@pytest.mark.parametrize("prepare", CHANGES, ids=lambda prepare: prepare.__qualname__)
def test_change_by_a_command_that_cannot_be_recorded_is_not_made(
    app: Flask, setting: Setting, prepare: Callable[[Setting], Prepared]
) -> None:
    arguments, *_ = prepare(setting)
    before, number = state(app), last_number(app)
    with no_room_for_events(app):
        assert setting.run(*arguments).exit_code != 0
    assert state(app) == before
    assert recorded_since(app, number) == []


@pytest.mark.parametrize("prepare", READS, ids=lambda prepare: prepare.__qualname__)
def test_command_that_reads_tenants_data_is_recorded_where_it_reads(
    app: Flask, setting: Setting, prepare: Callable[[Setting], Read]
) -> None:
    arguments, of_tenant, rows, prints = prepare(setting)
    before, number = state(app), last_number(app)
    result = setting.run(*arguments, *WHY)
    assert bool(result.stdout) == prints, result.output
    assert state(app) == before
    [event] = recorded_since(app, number)
    assert (event["kind"], event["actor"]["email"]) == ("access", OPERATOR)
    assert event["surface"] == ".".join(arguments[:2])
    assert event["request"]["path"] == " ".join(["flask", *arguments[:2]])
    assert (event["request"]["method"], event["request"]["user_agent"]) == ("CLI", ACCOUNT)
    assert event["reason"] == RECORDED_REASON
    assert event["outcome"] == ("served" if prints else "failed")
    tenant = setting.tenant.slug if of_tenant else None
    assert event["scope"]["kind"] == ("tenant" if of_tenant else "global")
    assert event["scope"]["tenant"] == tenant
    assert (event["terms"] or {}).get("tenant") == tenant
    assert event["rows"] is not None
    assert event["rows"] == (event["rows"] if rows is None else rows)


@pytest.mark.parametrize("prepare", READS, ids=lambda prepare: prepare.__qualname__)
def test_command_that_reads_tenants_data_without_a_reason_shows_nothing(
    app: Flask, setting: Setting, prepare: Callable[[Setting], Read]
) -> None:
    arguments, number = prepare(setting).arguments, last_number(app)
    for reason, problem in (
        ((), "Say why you read tenants' data, which is recorded: --reason 'incident;ticket="),
        (("--reason", "curiosity"), "must begin with one of incident, support_case,"),
        (("--reason", 'legal;note="café"'), 'as in `note=%"caf%c3%a9"`'),
        (("--reason", "legal;ticket=x"), "ticket must be a string"),
        (("--reason", "break_glass"), "a command opens no incident"),
    ):
        result = setting.run(*arguments, *reason)
        assert (result.exit_code, result.stdout) == (2, "")
        assert problem in " ".join(result.stderr.split())
    assert recorded_since(app, number) == []


@pytest.mark.parametrize("prepare", READS, ids=lambda prepare: prepare.__qualname__)
def test_command_that_cannot_be_recorded_shows_nothing_of_tenants(
    app: Flask, setting: Setting, prepare: Callable[[Setting], Read]
) -> None:
    arguments, number = prepare(setting).arguments, last_number(app)
    with no_room_for_events(app):
        result = setting.run(*arguments, *WHY)
    assert (result.exit_code, result.stdout) == (1, "")
    assert recorded_since(app, number) == []


def test_json_of_a_command_that_reads_tenants_data_is_recorded_likewise(
    app: Flask, setting: Setting
) -> None:
    arguments = one_tenants_rules(setting).arguments
    number = last_number(app)
    items = orjson.loads(setting.run(*arguments, "--json", *WHY).stdout)["items"]
    [event] = recorded_since(app, number)
    assert event["rows"] == len(items) == 2
    assert event["terms"] == {"tenant": setting.tenant.slug}


def test_note_of_an_import_is_that_of_its_reason_or_of_by(app: Flask, setting: Setting) -> None:
    by = ("--by", "deploy@example.org")
    number = last_number(app)
    file = setting.rules_file("new")
    assert setting.run("rules", "import", "--reason", "maintenance", *by, file).exit_code == 0
    [event] = recorded_since(app, number)
    assert event["reason"] == {"code": "maintenance", "note": by[1], "ticket": None}
    assert event["actor"]["email"] == OPERATOR
    refused = setting.run(*IMPORT, *by, file)
    assert "Give a note in --reason or by --by, not both." in refused.stderr


@pytest.mark.parametrize("prepare", SHOWS, ids=lambda prepare: prepare.__qualname__)
def test_command_that_shows_something_changes_nothing_and_leaves_no_event(
    app: Flask, setting: Setting, prepare: Callable[[Setting], Sequence[str]]
) -> None:
    arguments = prepare(setting)
    before, number = state(app), last_number(app)
    setting.run(*arguments)
    assert state(app) == before
    assert recorded_since(app, number) == []
