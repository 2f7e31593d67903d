"""`flask ledger verify`: all is well, or which crime was done, beside a log that grows."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.ledger.sealing.logs import Ledger, access, accesses
from webapp.ledger.sealing.leaf import encode_bytes, event_leaf
from webapp.ledger.sealing.merkle import hash_leaf

TENANTS = [uuid4(), uuid4()]
FORGED = event_leaf(encode_bytes(bytes(32)), [("all", 1)])
STANDS_FOR = {
    "FIRST": "(select event_id from log_entries where event_id is not null order by index limit 1)",
    "FIRST_SIGNED": "(select id from audit_events where origin_signature is not null order by id"
    " limit 1)",
    "NEWEST": "(select event_id from log_entries order by index desc limit 1)",
    "ANOTHER": f"'{uuid4()}'",
    "LEAF": f"'\\x{FORGED.hex()}'",
    "HASH": f"'\\x{hash_leaf(FORGED).hex()}'",
}
"""What words in capitals mean in the statements of this file."""


def verify(ledger: Ledger, *options: str) -> tuple[int, dict[str, Any]]:
    done = ledger.flask("ledger", "verify", "--json", *options)
    assert done.exit_code in (0, 1), done.output
    return done.exit_code, json.loads(done.stdout)


def as_superuser(ledger: Ledger, *statements: str) -> None:
    """Do what no trigger and no constraint of the tables can prevent."""
    meant = (re.sub(r"\b[A-Z_]{4,}\b", _meaning, statement) for statement in statements)
    ledger.run("set session_replication_role = replica", *meant)


def _meaning(word: re.Match[str]) -> str:
    return STANDS_FOR[word[0]]


def words(found: dict[str, Any]) -> set[str]:
    return set(found["found"])


@pytest.fixture
def sealed(ledger: Ledger) -> Ledger:
    """A ledger with 300 accesses of two tenants and 20 of all, which are verified once."""
    ledger.commit(*accesses(300, TENANTS), *accesses(20))
    ledger.seal_all()
    code, found = verify(ledger)
    assert (code, found["found"]) == (0, {})
    return ledger


def test_whole_log_is_good_and_what_came_since_is_read_next_time(sealed: Ledger) -> None:
    size = sealed.log.size
    sealed.commit(*accesses(7, TENANTS))
    sealed.seal_all()
    code, found = verify(sealed)
    assert (code, found["verdict"], found["read"]) == (0, "good", sealed.log.size - size)
    code, found = verify(sealed, "--full")
    assert (code, found["read"]) == (0, sealed.log.size)
    (log,) = found["logs"]
    assert log["size"] == sealed.log.size
    assert len(log["series"]) >= 3


def test_committed_event_that_is_not_sealed_yet_is_no_fault(sealed: Ledger) -> None:
    sealed.commit(access())
    code, found = verify(sealed)
    assert (code, words(found), found["pending"]) == (0, {"pending"}, 1)


def test_people_read_words_and_a_sentence(sealed: Ledger) -> None:
    done = sealed.flask("ledger", "verify", "--full")
    assert done.exit_code == 0
    assert f"size {sealed.log.size}, root" in done.stdout
    as_superuser(sealed, "delete from audit_events where id = FIRST")
    done = sealed.flask("ledger", "verify", "--full")
    assert done.exit_code == 1
    assert "is not in the ledger" in done.stdout
    assert "The check fails: deleted" in done.stdout


CRIMES: dict[str, tuple[str, set[str]]] = {
    "an event is rewritten": (
        "update audit_events set event = replace(event::text, 'engineer@', 'somebody@')::json,"
        " actor_email = replace(actor_email, 'engineer@', 'somebody@')"
        " where id = FIRST_SIGNED",
        {"edited", "bad signature"},
    ),
    "the signature of an event is taken away": (
        "update audit_events set origin_signature = null where id = NEWEST",
        {"bad signature"},
    ),
    "the signature of an event is another's": (
        "update audit_events set origin_signature = (select origin_signature from audit_events"
        " where id = NEWEST) where id = FIRST_SIGNED",
        {"bad signature"},
    ),
    "the key that has signed events is taken away": (
        "delete from signing_keys where process = 'commands'",
        {"bad signature"},
    ),
    "an event is hidden from its tenant by a column": (
        "update audit_events set tenant_id = ANOTHER where id = FIRST",
        {"edited"},
    ),
    "an event is hidden from a list by a column": (
        "update audit_events set actor_email = 'nobody@example.org' where id = FIRST",
        {"edited"},
    ),
    "an event is deleted": ("delete from audit_events where id = FIRST", {"deleted", "incomplete"}),
    "an event is inserted, and nothing of it queued": (
        "insert into audit_events (id, tenant_id, tenant, occurred_at, kind, actor_id,"
        " actor_email, surface, reason_code, ticket, scope_kind, effect, outcome, request_id,"
        " origin_journal, origin_seq, excluded_digest, event) select overlay(id::text placing"
        " 'aaaaaaaa' from 29)::uuid, tenant_id, tenant, occurred_at, kind, actor_id, actor_email,"
        " surface, reason_code, ticket, scope_kind, effect, outcome, request_id,"
        " gen_random_uuid(), 1, excluded_digest, event from audit_events"
        " where id = FIRST",
        {"inserted"},
    ),
    "an entry is rewritten": (
        "update log_entries set leaf = LEAF where index = 9",
        {"edited", "incomplete", "duplicated"},
    ),
    "an entry and its hash are rewritten": (
        "update log_entries set leaf = LEAF where index = 9;"
        " update log_tiles set hashes = overlay(hashes placing HASH from 9 * 32 + 1)"
        " where level = 0 and n = 0",
        {"edited", "incomplete", "duplicated"},
    ),
    "an entry is deleted": (
        "delete from log_entries where index = 9",
        {"deleted", "incomplete", "inserted"},
    ),
    "two entries change places": (
        "update log_entries set index = -1 where index = 9;"
        " update log_entries set index = 9 where index = 11;"
        " update log_entries set index = 11 where index = -1",
        {"edited", "reordered", "incomplete"},
    ),
    "a hash of a tile is rewritten": (
        "update log_tiles set hashes = overlay(hashes placing HASH from 1)"
        " where level = 0 and n = 0",
        {"edited"},
    ),
    "a hash of a higher tile is rewritten": (
        "update log_tiles set hashes = overlay(hashes placing HASH from 1) where level = 1",
        {"edited", "forked"},
    ),
    "the last entries are cut off": (
        "delete from log_entries where index >= 300; update logs set size = 300",
        {"truncated", "edited", "inserted"},
    ),
    "a number is given twice": (
        "update log_series set last = last - 1 where label = 'all'",
        {"edited"},
    ),
    "the checkpoint is signed by another key": (
        "update logs set checkpoint = regexp_replace(checkpoint, '(— \\S+ \\S{20}).', '\\1x', 'g')",
        {"bad signature"},
    ),
    "the checkpoint is of an older tree": (
        "update logs set size = size - 1",
        {"edited", "truncated"},
    ),
}


@pytest.mark.parametrize("crime", CRIMES)
def test_crime_is_named(sealed: Ledger, crime: str) -> None:
    statement, expected = CRIMES[crime]
    as_superuser(sealed, *statement.split("; "))
    code, found = verify(sealed, "--full")
    assert code == 1
    assert words(found) == expected


def test_whole_log_that_is_made_anew_contradicts_the_copy(sealed: Ledger) -> None:
    """Whoever has the log's key and the database makes another log of the same size."""
    copy = sealed.directory / "1" / "checkpoint"
    kept = copy.read_bytes()
    as_superuser(
        sealed,
        *(f"truncate {name}" for name in ("log_entries", "log_tiles", "log_keys")),
        "truncate logs, log_series, log_cosignatures, log_keys",
        "insert into log_queue (event_id, occurred_at) select id, occurred_at from audit_events"
        " order by id desc",
    )
    copy.unlink()
    sealed.seal_all()
    copy.write_bytes(kept)
    code, found = verify(sealed, "--full")
    assert code == 1
    assert "forked" in words(found)
    code, found = verify(sealed)
    assert (code, "forked" in words(found)) == (1, True)


def test_checkpoint_that_somebody_else_has_kept_is_compared(sealed: Ledger, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text(sealed.flask("ledger", "checkpoint").stdout)
    sealed.commit(access())
    sealed.seal_all()
    assert verify(sealed, "--checkpoint", str(kept))[0] == 0
    for change in (lambda text: text[:-9] + text[-5:], lambda text: "x"):
        kept.write_text(change(kept.read_text()))
        done = sealed.flask("ledger", "verify", "--checkpoint", str(kept))
        assert done.exit_code == 2


def test_log_without_a_copy_is_good_and_unanchored(sealed: Ledger) -> None:
    (sealed.directory / "1" / "checkpoint").unlink()
    code, found = verify(sealed, "--full")
    assert (code, words(found)) == (0, {"unanchored"})


def test_copy_that_is_damaged_is_named(sealed: Ledger) -> None:
    copy = sealed.directory / "1" / "checkpoint"
    copy.write_bytes(copy.read_bytes().replace(b"\n\n", b"\n1\n\n"))
    code, found = verify(sealed)
    assert (code, words(found)) == (1, {"bad signature"})


def test_what_fails_is_not_kept_as_verified(sealed: Ledger) -> None:
    sealed.commit(*accesses(3, TENANTS))
    sealed.seal_all()
    as_superuser(sealed, "delete from audit_events where id = NEWEST")
    for _ in range(2):
        code, found = verify(sealed)
        assert (code, "deleted" in words(found), found["read"]) == (1, True, 3)


def test_state_that_is_no_state_is_a_question_put_wrongly(sealed: Ledger, tmp_path: Path) -> None:
    state = tmp_path / "state"
    for text in ("x", "{}x", '[{"origin": 1}]', "7"):
        state.write_text(text)
        assert sealed.flask("ledger", "verify", "--state", str(state)).exit_code == 2


def test_log_that_grows_meanwhile_is_read_as_it_was_signed_first(
    sealed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from webapp.ledger.sealing import verifying

    monkeypatch.setattr(verifying, "PART", 256)
    original: Callable[..., Any] = verifying.LogCheck._check_tiles

    def grow_first(self: Any, start: int, hashes: Any) -> None:
        self._session.rollback()
        with sealed.app.app_context():
            sealed.commit(*accesses(2, TENANTS))
            sealed.seal_all()
        original(self, start, hashes)

    monkeypatch.setattr(verifying.LogCheck, "_check_tiles", grow_first)
    before = sealed.log.size
    code, found = verify(sealed, "--full")
    assert (code, found["read"]) == (0, before)
    assert sealed.log.size > before


def test_database_that_is_silent_leaves_the_check_unfinished(
    sealed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    from webapp.ledger.sealing import verifying

    def silent(*_: Any) -> Any:
        raise OperationalError("select", {}, Exception("gone"))

    monkeypatch.setattr(verifying, "read_logs", silent)
    done = sealed.flask("ledger", "verify")
    assert done.exit_code == 3
    assert "Not finished: The database does not answer" in done.stderr
