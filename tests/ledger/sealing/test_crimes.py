# ruff: noqa: S608 - the statements are made of constants of this file
"""Each crime on the ledger, done by whoever has the database: what an outsider's verifier says.

`docs/verify.md` has the table. The superuser disables triggers, as an owner can.
"""

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import orjson
import pytest

from tests.factories import MadeTenant, add_tenant
from tests.ledger.sealing.logs import Ledger, Server, access, ledger_on
from tests.operators import WHY
from tests.verifier.desk import Desk, Verdict
from webapp.ledger.sealing.checkpoint import parse_checkpoint
from webapp.ledger.sealing.leaf import (
    EventLeaf,
    commitment_of,
    encode_bytes,
    event_leaf,
    parse_leaf,
)
from webapp.ledger.sealing.note import ed25519_signer, sign_note
from webapp.settings import read_settings
from webapp.stack.servers import DATABASE

DISARMED = "set session_replication_role = replica"
"""No trigger runs for the superuser's statements that follow."""

NOON = datetime.now(UTC)
HONEST = "crimes_honest"
"""The database before the crime."""


@dataclass
class Scene:
    """A ledger with accesses to a tenant, and an auditor who has looked at it before."""

    ledger: Ledger
    tenant: MadeTenant
    policy: str
    """Pins the checkpoint of eight entries; there are eleven."""

    def access(self, count: int = 1) -> None:
        self.ledger.commit(*[access(self.tenant.id) for _ in range(count)])
        self.ledger.seal_all()

    def crime(self, *statements: str) -> None:
        self.ledger.run(DISARMED, *statements)

    def one(self, statement: str) -> str:
        ((value,),) = self.ledger.run(statement)
        return str(value)


@dataclass
class Case:
    """One crime, and the auditor's desk."""

    scene: Scene
    desk: Desk
    later: timedelta = timedelta()
    """How long after that the auditor looks."""

    def export(self, *options: str) -> list[bytes]:
        file = self.desk.directory / "exported.jsonl"
        done = self.scene.ledger.flask("ledger", "export", "-o", str(file), *options, *WHY)
        assert done.exit_code == 0, done.output
        return file.read_bytes().splitlines(keepends=True)

    def verify(self, *options: str) -> Verdict:
        """What the verifier says of an export of the ledger as it is now."""
        at = (datetime.now(UTC) + self.later).isoformat()
        lines = self.export(*options, "--anchor", "8")
        return self.desk.verify(lines, self.scene.policy, "--as-of", at)


@pytest.fixture(scope="module")
def scene(log_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("crimes")
    environment = {"SIGHTLINE_HOME": str(home), **log_server.stack.environment}
    with mock.patch.dict(os.environ, environment):
        settings = read_settings()
    log_server.copy(DATABASE, "crimes")
    with ledger_on(log_server, "crimes", settings) as ledger:
        tenant = add_tenant(ledger.app, "acme")  # which is an event, and the first entry
        made = Scene(ledger, tenant, "")
        ledger.commit(access(None))
        made.access(6)
        made.policy = policy_of(ledger, pin_of(ledger))
        made.access(3)
        ledger.dump(HONEST)
        shutil.copytree(ledger.directory, home / "copies")
        yield made


@pytest.fixture
def case(scene: Scene, desk: Desk) -> Iterator[Case]:
    yield Case(scene, desk)
    restore(scene)


def restore(scene: Scene) -> None:
    """Put back the database, and what the worker's host has of the log."""
    scene.ledger.restore(HONEST)
    shutil.rmtree(scene.ledger.directory, ignore_errors=True)
    shutil.copytree(scene.ledger.directory.parent / "copies", scene.ledger.directory)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def policy_of(ledger: Ledger, *pins: str) -> str:
    with ledger.app.app_context():
        keys = ledger.host().keys.verifiers(ledger.log.origin)
    return "\n".join([f"log {keys[0]}", "quorum none", *pins, ""])


def pin_of(ledger: Ledger) -> str:
    note = ledger.log.checkpoint
    assert note is not None
    return f"#sightline checkpoint {base64.b64encode(note.encode()).decode()}"


def test_honest_ledger_holds_for_the_tenant_and_for_auditors(case: Case) -> None:
    verdict = case.verify("--tenant", "acme")
    assert (verdict.code, verdict.faults) == (0, set())
    assert verdict.text == (
        "10 of 10 accesses and 1 of 1 changes of acme, complete, in the log of size 11, witnessed"
        " by nobody."
    )
    assert "the policy pins" not in str(verdict.lines)
    verdict = case.verify()
    assert (verdict.code, verdict.faults) == (0, set())
    assert verdict.words["pending"] == 1  # the access of the first export


def test_access_under_the_key_of_a_worker_is_no_access_of_a_web_host(case: Case) -> None:
    """Whoever has a worker's key signs with it, and not as a web host or a command."""
    found = case.scene.ledger.run("select fingerprint, encode(public_key, 'hex') from signing_keys")
    keys = {name: encode_bytes(bytes.fromhex(public)) for name, public in found}
    signed = {
        line["origin_signature"].partition(":")[0]
        for line in map(orjson.loads, case.export())
        if "origin_signature" in line
    }
    assert signed
    assert signed <= keys.keys()
    honest = case.scene.policy
    try:
        for process, faults in (("commands", set()), ("worker", {"bad signature"})):
            pins = [f"#sightline key {process} {name} {keys[name]}" for name in sorted(signed)]
            case.scene.policy = "\n".join([honest.rstrip("\n"), *pins, ""])
            assert case.verify().faults == faults
    finally:
        case.scene.policy = honest


# --- The crimes ----------------------------------------------------------------------------------

THIRD = "(select event_id from log_entries where index = 3)"


def edit_payload(case: Case) -> None:
    case.scene.crime(
        "update audit_events set event = replace(event::text, 'INC-1', 'INC-9')::json"
        f" where id = {THIRD}"
    )


def edit_leaf_too(case: Case) -> None:
    """Edit an event, and all that the database has of it."""
    edit_payload(case)
    event = case.scene.one(f"select event::text from audit_events where id = {THIRD}")
    kept = case.scene.one("select encode(leaf, 'hex') from log_entries where index = 3")
    leaf = parse_leaf(bytes.fromhex(kept))
    assert isinstance(leaf, EventLeaf)
    forged = event_leaf(commitment_of(orjson.loads(event)), leaf.series)
    case.scene.crime(f"update log_entries set leaf = '\\x{forged.hex()}' where index = 3")


def delete_event(case: Case) -> None:
    case.scene.crime(f"delete from audit_events where id = {THIRD}")


def delete_event_and_entry(case: Case) -> None:
    delete_event(case)
    case.scene.crime("delete from log_entries where index = 3")


def insert_beside_the_log(case: Case) -> None:
    made = access(case.scene.tenant.id, occurred_at=NOON - timedelta(hours=5))
    case.scene.ledger.commit(made)
    case.scene.crime(
        f"delete from log_queue where event_id = '{made.id}'",
        "update audit_events set committed_at = committed_at - interval '5 hours'"
        f" where id = '{made.id}'",
    )
    case.scene.access()


def reorder(case: Case) -> None:
    swap = (
        "update log_entries a set leaf = b.leaf, event_id = b.event_id, occurred_at = b.occurred_at"
        " from log_entries b where a.index in (3, 5) and b.index = 8 - a.index"
    )
    case.scene.crime(
        "alter table log_entries drop constraint uq_log_entries_event_id",
        swap,
    )


def cut(case: Case) -> None:
    """Take the newest entries away, with an old checkpoint in place of the newest one."""
    earlier = base64.b64decode(case.scene.policy.split()[-1]).decode()
    case.scene.access()
    case.scene.policy = policy_of(case.scene.ledger, pin_of(case.scene.ledger))
    text = earlier.replace("'", "''")
    case.scene.crime(
        "delete from log_entries where index >= 8",
        f"update logs set size = 8, checkpoint = '{text}'",
    )


def fork(case: Case) -> None:
    """Seal another history with the log's own key, where nobody has a copy of the first one."""
    case.scene.crime(
        "delete from audit_numbers where event_id in"
        " (select event_id from log_entries where index > 4)",
        "delete from audit_events where id in (select event_id from log_entries where index > 4)",
        "truncate log_entries, log_tiles, log_series, log_queue, logs cascade",
        "insert into log_queue (event_id, occurred_at) select id, occurred_at from audit_events"
        " order by occurred_at, id",
    )
    shutil.rmtree(case.scene.ledger.directory)
    case.scene.ledger.commit(*[access(case.scene.tenant.id) for _ in range(9)])
    case.scene.ledger.seal_all()


def give_a_number_twice(case: Case) -> None:
    case.scene.crime("update log_series set last = last - 1 where tenant_id is not null")
    case.scene.access()


def hide_from_the_tenant(case: Case) -> None:
    """Have row level security hide an event from its tenant."""
    case.scene.crime(f"update audit_events set tenant_id = gen_random_uuid() where id = {THIRD}")


def stand_still(case: Case) -> None:
    case.later = timedelta(days=3)


def sign_with_another_key(case: Case) -> None:
    """Edit the history, make all trees anew, and sign them with a key of one's own."""
    fork(case)
    note = case.scene.ledger.log.checkpoint
    assert note is not None
    tree = parse_checkpoint(note.partition("\n\n")[0] + "\n")
    other = sign_note(tree.text, [ed25519_signer(tree.origin, b"x" * 32)]).decode()
    quoted = other.replace("'", "''")
    case.scene.crime(f"update logs set checkpoint = '{quoted}'")


def restore_older(case: Case) -> None:
    """Put a database back that is older than what the auditor has seen."""
    case.scene.access()
    case.scene.policy = policy_of(case.scene.ledger, pin_of(case.scene.ledger))
    case.scene.ledger.restore(HONEST)


CRIMES: dict[str, tuple[Callable[[Case], None], set[str]]] = {
    "edited payload": (edit_payload, {"edited"}),
    "edited leaf": (edit_leaf_too, {"edited"}),
    "deleted event": (delete_event, {"deleted"}),
    "deleted entry": (delete_event_and_entry, {"incomplete"}),
    "inserted": (insert_beside_the_log, {"inserted"}),
    "reordered": (reorder, {"edited", "reordered"}),
    "truncated": (cut, {"truncated"}),
    "forked": (fork, {"forked"}),
    "duplicated number": (give_a_number_twice, {"duplicated"}),
    "withheld from a tenant": (hide_from_the_tenant, {"deleted"}),
    "frozen": (stand_still, {"frozen"}),
    "signed with another key": (sign_with_another_key, {"bad signature"}),
    "restored": (restore_older, {"truncated"}),
}


@pytest.mark.parametrize("crime", CRIMES)
def test_crime_has_its_word(case: Case, crime: str) -> None:
    commit, words = CRIMES[crime]
    honest = case.scene.policy
    try:
        commit(case)
        verdict = case.verify("--tenant", "acme")
    finally:
        case.scene.policy = honest
    assert (verdict.faults, verdict.code) == (words, 1)
