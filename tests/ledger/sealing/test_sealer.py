"""Committed events become entries of one tree, without a gap, whatever happens meanwhile."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from threading import Barrier
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from sqlalchemy import event

from tests.audit.events import make_event
from tests.audit.ledgers import NO_SIGNATURE
from tests.ledger.sealing.logs import Ledger, access, accesses, check_log, ledger_on, sealed_ids
from webapp.audit.event import dump_event
from webapp.db.scopes import SealingScope
from webapp.extensions import db
from webapp.ledger.sealing import sealer, store
from webapp.ledger.sealing.checkpoint import Checkpoint
from webapp.ledger.sealing.leaf import HeartbeatLeaf, heartbeat_leaf
from webapp.ledger.sealing.merkle import hash_leaf, root_at
from webapp.ledger.sealing.note import sign_note
from webapp.ledger.sealing.sealer import UnfitEvents
from webapp.ledger.sealing.store import Entry, Tiles
from webapp.ledger.sealing.tiles import grow

pytestmark = pytest.mark.slow(seconds=40)


def test_committed_events_are_sealed_in_order_once(ledger: Ledger) -> None:
    before = ledger.seal_all()
    tenants = [uuid4(), uuid4()]
    first = ledger.commit(*accesses(3, tenants), *accesses(2))
    second = ledger.commit(*accesses(300, tenants))
    assert ledger.seal_all() == before + 305
    assert ledger.seal() is None
    assert sealed_ids(ledger)[before:] == first + second
    assert len(check_log(ledger)) == before + 305
    assert ledger.waiting() == 0


@pytest.mark.parametrize("sizes", [(0, 1, 2), (255, 256, 257), (65_535, 65_536, 65_537)], ids=str)
def test_tree_grows_over_the_edges_of_tiles(ledger: Ledger, sizes: tuple[int, ...]) -> None:
    ledger.run("delete from log_queue")
    _fill(ledger, sizes[0])
    for size in sizes[1:]:
        ledger.commit(access())
        assert ledger.seal_all() == size
    check_log(ledger)


def test_batches_make_the_tree_that_one_batch_makes(ledger: Ledger) -> None:
    ledger.commit(*accesses(300))
    assert ledger.seal_all(limit=29) == len(check_log(ledger))


def test_event_that_commits_late_is_sealed_behind_those_before_it(ledger: Ledger) -> None:
    ledger.seal_all()
    late = make_event()
    with ledger.server.connected(ledger.name) as slow, slow.cursor() as cursor:
        values = [f"[{dump_event(late).decode()}]", [NO_SIGNATURE]]
        cursor.execute("select append_events(%s, %s)", values)
        (first,) = ledger.commit(access())
        size = ledger.seal_all()
        slow.commit()
    assert ledger.seal_all() == size + 1
    assert sealed_ids(ledger)[-2:] == [first, late.id]
    check_log(ledger)


def test_two_sealers_at_once_make_one_tree(ledger: Ledger) -> None:
    ledger.commit(*accesses(400))
    start = Barrier(4)

    def seal(_: int) -> int:
        start.wait()
        sealed = 0
        while ledger.waiting():
            done = ledger.seal(limit=20)
            sealed += done.entries if done else 0
        return sealed

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(seal, range(4)))
    assert sum(counts) == len(check_log(ledger))


def test_sealer_waits_for_no_other_one(ledger: Ledger) -> None:
    ledger.seal_all()
    ledger.commit(access())
    with ledger.app.app_context(), db.scoped(SealingScope()):
        assert store.lock_open(db.session)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(ledger.seal).result() is None
    assert ledger.seal() is not None


def test_sealer_killed_before_any_statement_leaves_no_fork_and_no_gap(ledger: Ledger) -> None:
    ledger.commit(access())
    ledger.seal_all()
    for die_at in range(1, 100):
        ledger.commit(*accesses(3))
        if not _dies(ledger, die_at):
            break
        check_log(ledger)
    else:
        pytest.fail("it never came to its end")
    assert die_at > 15
    assert ledger.seal_all() == len(check_log(ledger))
    assert ledger.waiting() == 0


def test_event_that_no_entry_can_be_made_of_holds_up_no_other(ledger: Ledger) -> None:
    ledger.seal_all()
    ledger.run("insert into log_queue (event_id, occurred_at) values (gen_random_uuid(), now())")
    (good,) = ledger.commit(access())
    with pytest.raises(UnfitEvents) as raised:
        ledger.seal()
    with ledger.app.app_context(), db.scoped(SealingScope()):
        store.refuse(db.session, raised.value.problems)
        db.session.commit()
    ledger.seal_all()
    assert sealed_ids(ledger)[-1] == good
    assert ledger.run("select problem from log_queue") == [("the ledger has no such event",)]
    check_log(ledger)


def test_silent_log_has_a_heartbeat_each_hour(ledger: Ledger) -> None:
    ledger.commit(access())
    size = ledger.seal_all()
    assert ledger.seal() is None
    ledger.run(
        "alter table logs disable trigger all",
        "update logs set signed_at = signed_at - interval '61 minutes'",
        "alter table logs enable trigger all",
    )
    sealed = ledger.seal()
    assert sealed is not None
    assert sealed.size == size + 1
    assert ledger.seal() is None
    *_, last = check_log(ledger)
    assert isinstance(last, HeartbeatLeaf)
    assert last.number == 1


def test_nobody_changes_or_removes_what_is_sealed(ledger: Ledger) -> None:
    ledger.commit(*accesses(3))
    ledger.seal_all()
    for statement in (
        "update log_entries set leaf = 'x'",
        "delete from log_entries",
        "truncate log_entries",
        "delete from log_tiles",
        "update log_tiles set hashes = sha256('x')",
        "delete from logs",
        "update logs set size = 0",
        "update log_series set last = last - 1",
        "delete from log_series",
    ):
        with pytest.raises(Exception, match="only|append-only"):
            ledger.run(statement)


def _fill(ledger: Ledger, size: int) -> None:
    """Seal as many heartbeats as make a tree of this size."""
    if not size:
        return
    with ledger.app.app_context(), db.scoped(SealingScope()):
        host = ledger.host()
        store.open_log(db.session, 1, host.keys.origin, sealer.series_secret(host.keys, 1))
        log = store.lock_open(db.session)
        assert log is not None
        at = datetime.now(UTC)
        leaves = [heartbeat_leaf(at, number) for number in range(1, size + 1)]
        tiles = Tiles(db.session, 1)
        tiles.write(grow(0, [hash_leaf(leaf) for leaf in leaves], tiles.read))
        for first in range(0, size, 5_000):
            part = leaves[first : first + 5_000]
            entries = [Entry(n, None, None, leaf) for n, leaf in enumerate(part, first)]
            store.write_entries(db.session, 1, entries)
        numbering = store.read_numbering(db.session, 1, [])
        numbering.last["heartbeat"] = size - 1
        numbering.number("heartbeat")
        store.write_numbering(db.session, 1, numbering)
        root = root_at(size, tiles.hash_at(size))
        store.write_tree(db.session, 1, size, root)
        note = sign_note(Checkpoint(log.origin, size, root).text, host.keys.signers(log.origin, 1))
        store.write_checkpoint(db.session, 1, note.decode(), at)
        db.session.commit()


def _dies(ledger: Ledger, die_at: int) -> bool:
    """Seal in a process that is killed at its n-th step; false if it comes to its end.

    A step is a statement, a commit, or a write to the copy's disk.
    """
    child = os.fork()
    if child == 0:
        try:
            with ledger_on(ledger.server, ledger.name, ledger.app.extensions["settings"]) as own:
                _kill_at(own, die_at)
                own.seal()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _kill_at(ledger: Ledger, die_at: int) -> None:
    steps = count(1)
    fsync = os.fsync

    def step(*_: Any) -> None:
        if next(steps) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def step_to_disk(descriptor: int) -> None:
        step()
        fsync(descriptor)

    with ledger.app.app_context():
        event.listen(db.engine, "before_cursor_execute", step)
        event.listen(db.engine, "commit", step)
    mock.patch.object(os, "fsync", step_to_disk).start()
