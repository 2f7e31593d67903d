"""Witnesses cosign what continues what they have seen; each fails by itself."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from threading import Event

import pytest

import tasks.ledger
from tests.ledger.sealing.logs import Ledger, access, accesses, check_log
from tests.ledger.sealing.witness_servers import Witness, serving
from webapp.db.scopes import LogScope, SealingScope
from webapp.doctor import diagnose
from webapp.extensions import db
from webapp.ledger.sealing import published
from webapp.ledger.sealing.note import open_checkpoint, parse_verifier
from webapp.ledger.sealing.witnesses import find_due

pytestmark = pytest.mark.slow(seconds=25)

Witnesses = list[Witness]


@pytest.fixture
def witnesses(ledger: Ledger) -> Iterator[Witnesses]:
    """Two witnesses over HTTP that know the log, and that the ledger's settings name."""
    settings = ledger.app.extensions["settings"]
    with ledger.app.app_context():
        keys = ledger.host().keys.verifiers(settings.log_origin)
    with ExitStack() as running:
        made = [Witness(f"{name}.example", keys) for name in ("one", "two")]
        for witness in made:
            running.enter_context(serving(witness))
        named = tuple(witness.setting for witness in made)
        ledger.app.extensions["settings"] = replace(settings, witnesses=named)
        yield made


def ask(ledger: Ledger, witness: Witness) -> None:
    with ledger.app.app_context():
        tasks.ledger.ask_witness(witness.name)


def cosigned(ledger: Ledger) -> tuple[int, set[str]]:
    """The size of the checkpoint that is served, and whose cosignatures it has."""
    settings = ledger.app.extensions["settings"]
    verifiers = [parse_verifier(witness.key) for witness in settings.witnesses]
    with ledger.app.app_context(), db.scoped(LogScope()):
        note = published.read_checkpoint(db.session, 1)
        keys = ledger.host().keys.verifiers(settings.log_origin)
    checkpoint, opened = open_checkpoint(note, [*keys, *verifiers])
    return checkpoint.size, {v.name for v in verifiers if opened.signed_by(v)}


def seal(ledger: Ledger, count: int = 1) -> int:
    ledger.commit(*accesses(count))
    return ledger.seal_all()


def due(ledger: Ledger) -> list[str]:
    with ledger.app.app_context(), db.scoped(SealingScope()):
        return find_due(db.session, ledger.app.extensions["settings"].witnesses)


def test_witnesses_cosign_what_continues_what_they_have(
    ledger: Ledger, witnesses: Witnesses
) -> None:
    for count in (1, 3, 300):
        size = seal(ledger, count)
        assert due(ledger) == [witness.name for witness in witnesses]
        for witness in witnesses:
            ask(ledger, witness)
        assert cosigned(ledger) == (size, {"one.example", "two.example"})
        assert due(ledger) == []
    assert [len(witness.asked) for witness in witnesses] == [3, 3]
    ((kept,),) = ledger.run("select count(*) from log_cosignatures")
    assert kept == 2


def test_witness_with_another_size_is_asked_again_from_there(
    ledger: Ledger, witnesses: Witnesses
) -> None:
    one, _ = witnesses
    seal(ledger, 5)
    ask(ledger, one)
    size = seal(ledger, 20)
    ledger.run("update log_witnesses set size = 0, log = 0")
    ask(ledger, one)
    assert [body.split(b"\n", 1)[0] for body in one.asked] == [b"old 0", b"old 0", b"old 5"]
    assert cosigned(ledger) == (size, {"one.example"})


def test_dead_and_hanging_witnesses_hold_up_neither_the_log_nor_another(
    ledger: Ledger, witnesses: Witnesses
) -> None:
    one, two = witnesses
    one.hangs = Event()
    size = seal(ledger)
    ask(ledger, one)
    ask(ledger, two)
    assert cosigned(ledger) == (size, {"two.example"})
    assert due(ledger) == []
    size = seal(ledger, 2)
    assert due(ledger) == ["two.example"]
    ask(ledger, two)
    assert cosigned(ledger) == (size, {"two.example"})
    check_log(ledger)
    with ledger.app.app_context():
        found = {each.check: each for each in diagnose(ledger.app)}
    assert found["witnesses cosign"].ok is False
    assert "one.example: it does not answer" in found["witnesses cosign"].detail
    one.hangs.set()
    one.hangs = None
    ledger.run("update log_witnesses set asked_at = asked_at - interval '10 seconds'")
    ask(ledger, one)
    assert cosigned(ledger) == (size, {"one.example", "two.example"})


def test_signature_that_is_wrong_is_not_kept(ledger: Ledger, witnesses: Witnesses) -> None:
    one, _ = witnesses
    one.forges = True
    seal(ledger)
    ask(ledger, one)
    assert cosigned(ledger)[1] == set()
    assert ledger.run("select problem from log_witnesses") == [("its signature is wrong",)]


def test_witness_that_has_seen_another_tree_does_not_cosign(
    ledger: Ledger, witnesses: Witnesses
) -> None:
    one, _ = witnesses
    seal(ledger)
    ledger.dump("dump_witness")
    seal(ledger)
    ask(ledger, one)
    ledger.restore("dump_witness")
    ledger.commit(access())
    ledger.seal_all_as("another")
    ask(ledger, one)
    assert cosigned(ledger)[1] == set()
    ((problem,),) = ledger.run("select problem from log_witnesses where name = 'one.example'")
    assert "another tree" in problem


def test_process_that_died_while_it_asked_holds_the_witness_for_a_moment_only(
    ledger: Ledger, witnesses: Witnesses
) -> None:
    one, _ = witnesses
    seal(ledger)
    ledger.run(
        "insert into log_witnesses (name, log, size, failures, asked_at)"
        " values ('one.example', 0, 0, 0, now())"
    )
    assert due(ledger) == ["two.example"]
    ask(ledger, one)
    assert one.asked == []
    ledger.run("update log_witnesses set asked_at = now() - interval '31 seconds'")
    ask(ledger, one)
    assert len(one.asked) == 1
