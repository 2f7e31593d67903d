"""A database that is restored from an older dump is noticed, and signs no second history."""

import re
from uuid import uuid4

import pytest

from tests.audit.events import make_event
from tests.audit.ledgers import NO_SIGNATURE
from tests.ledger.sealing.logs import Ledger, access, accesses, check_log, sealed_ids
from webapp.audit.event import AuditEvent, dump_event
from webapp.doctor import diagnose
from webapp.ledger.sealing.guard import RefusesToSign

pytestmark = pytest.mark.slow(seconds=40)


def commit_again(ledger: Ledger, events: list[AuditEvent]) -> None:
    """Append events as journals do that still have them: each under its own number."""
    document = b",".join(map(dump_event, events)).decode()
    with ledger.server.connected(ledger.name) as connection, connection.cursor() as cursor:
        signatures = [NO_SIGNATURE] * len(events)
        cursor.execute("select append_events(%s, %s)", [f"[{document}]", signatures])
        connection.commit()


def seal_and_dump(ledger: Ledger, dump: str) -> list[AuditEvent]:
    """Seal three events, keep a dump, and seal five more, which are returned."""
    ledger.commit(*accesses(3, [uuid4()]))
    ledger.seal_all()
    ledger.dump(dump)
    lost = [make_event() for _ in range(5)]
    commit_again(ledger, lost)
    ledger.seal_all()
    return lost


def test_restored_database_is_noticed_and_nothing_is_signed(ledger: Ledger) -> None:
    seal_and_dump(ledger, "dump_noticed")
    signed = ledger.log
    ledger.restore("dump_noticed")
    before = ledger.log.checkpoint
    ledger.commit(access())
    for _ in range(2):
        with pytest.raises(
            RefusesToSign, match=f"has {ledger.log.size} entries.*size {signed.size}"
        ):
            ledger.seal()
    assert ledger.log.checkpoint == before
    (problem,) = ledger.problems
    assert str(ledger.directory) in problem
    with ledger.app.app_context():
        found = {each.check: each for each in diagnose(ledger.app)}
    for check in ("no host contradicts the log", "the log continues its copy"):
        assert found[check].ok is False
        assert "flask audit drain" in found[check].detail
        assert "flask ledger resume --after-restore" in found[check].detail


def test_journals_bring_the_same_tree_back(ledger: Ledger) -> None:
    lost = seal_and_dump(ledger, "dump_back")
    signed = ledger.log
    ledger.restore("dump_back")
    new = ledger.commit(access())
    commit_again(ledger, lost[::-2])
    with pytest.raises(RefusesToSign, match="2 of the 5 events between are not back yet"):
        ledger.seal()
    commit_again(ledger, lost[1::2])
    assert ledger.seal() is not None
    again = ledger.log
    assert (again.size, again.root, again.checkpoint) == (
        signed.size,
        signed.root,
        signed.checkpoint,
    )
    assert ledger.problems == []
    ledger.seal_all()
    assert sealed_ids(ledger)[-6:] == [*(event.id for event in lost), *new]
    check_log(ledger)


def test_empty_database_gets_the_same_tree_back(ledger: Ledger) -> None:
    ledger.dump("dump_empty")
    events = [make_event() for _ in range(4)]
    commit_again(ledger, events)
    ledger.seal_all()
    signed = ledger.log
    ledger.restore("dump_empty")
    commit_again(ledger, events[::-1])
    ledger.seal_all()
    assert (ledger.log.size, ledger.log.root) == (signed.size, signed.root)


def test_other_events_in_the_place_of_lost_ones_are_not_signed(ledger: Ledger) -> None:
    lost = seal_and_dump(ledger, "dump_others")
    ledger.restore("dump_others")
    forged = [make_event(id=event.id, origin=event.origin) for event in lost]
    commit_again(ledger, forged)
    with pytest.raises(RefusesToSign, match="are others now"):
        ledger.seal()


def test_host_that_seals_nothing_notices_and_holds_others_up(ledger: Ledger) -> None:
    ledger.commit(access())
    ledger.seal_all()
    ledger.dump("dump_hosts")
    ledger.commit(access())
    ledger.seal(host="b")
    ledger.follow("c")
    ledger.restore("dump_hosts")
    ledger.follow("c")
    with pytest.raises(RefusesToSign, match="c has found: the database has"):
        ledger.seal(host="new")


def test_host_with_less_waits_for_the_one_that_has_more(ledger: Ledger) -> None:
    ledger.commit(access())
    ledger.seal(host="b")
    ledger.seal(host="a")
    ledger.follow("a")
    ledger.follow("b")
    ledger.dump("dump_more")
    lost = [make_event() for _ in range(3)]
    commit_again(ledger, lost[:1])
    ledger.seal(host="a")
    commit_again(ledger, lost[1:])
    ledger.seal(host="b")
    signed = ledger.log
    ledger.restore("dump_more")
    commit_again(ledger, lost)
    with pytest.raises(RefusesToSign, match="b have not compared yet"):
        ledger.seal(host="a")
    ledger.follow("b")
    with pytest.raises(RefusesToSign, match="b has found"):
        ledger.seal(host="a")
    with pytest.raises(RefusesToSign, match="a have not compared yet"):
        ledger.seal(host="b")
    ledger.follow("a")
    assert ledger.seal(host="b") is not None
    assert (ledger.log.size, ledger.log.root) == (signed.size, signed.root)
    ledger.follow("a")
    ledger.commit(access())
    assert ledger.seal(host="a") is not None
    check_log(ledger)


def test_rewritten_tile_is_noticed(ledger: Ledger) -> None:
    ledger.commit(*accesses(4))
    ledger.seal_all()
    ledger.run(
        "alter table log_tiles disable trigger all",
        "update log_tiles set hashes = sha256('x') || substr(hashes, 33)",
        "alter table log_tiles enable trigger all",
    )
    ledger.commit(access())
    with pytest.raises(RefusesToSign, match="tiles of the log do not have its root"):
        ledger.seal()


def test_other_tree_of_the_same_size_is_noticed(ledger: Ledger) -> None:
    ledger.commit(access())
    ledger.seal_all()
    ledger.dump("dump_fork")
    ledger.commit(access())
    ledger.seal_all()
    size = ledger.log.size
    ledger.restore("dump_fork")
    ledger.commit(access())
    ledger.seal_all_as("elsewhere")
    assert ledger.log.size == size
    ledger.commit(access())
    with pytest.raises(RefusesToSign, match=f"size {size}, root .* size {size}, root"):
        ledger.seal()


def test_resume_opens_a_log_that_names_the_old_one(ledger: Ledger) -> None:
    seal_and_dump(ledger, "dump_resume")
    signed = ledger.log
    ledger.restore("dump_resume")
    restored = ledger.log
    waiting = ledger.commit(access())
    with pytest.raises(RefusesToSign):
        ledger.seal()
    result = ledger.flask(
        "ledger", "resume", "--after-restore", "--reason", 'incident;ticket="INC-9"'
    )
    assert result.exit_code == 0, result.output
    assert f"{signed.origin} had {signed.size} entries" in result.output
    ledger.seal_all()
    assert ledger.log.origin == f"{signed.origin}#2"
    assert ledger.problems == []
    first, *others = sealed_ids(ledger, number=2)
    assert others == waiting
    ((event,),) = ledger.run(f"select event from audit_events where id = '{first}'")  # noqa: S608 - our own
    assert event["surface"] == "ledger.resume"
    assert event["reason"]["ticket"] == "INC-9"
    assert event["terms"]["old_origin"] == signed.origin
    assert event["terms"]["old_size"] == str(signed.size)
    assert event["terms"]["database_size"] == str(restored.size)
    assert event["terms"]["new_origin"] == f"{signed.origin}#2"
    check_log(ledger, number=2)
    ledger.run("update logs set size = size where number = 2")
    with pytest.raises(Exception, match="a closed one stays"):
        ledger.run("update logs set size = size + 1 where number = 1")
    ledger.commit(access())
    ledger.seal_all()
    check_log(ledger, number=2)


def test_resume_of_a_log_that_goes_on_changes_nothing(ledger: Ledger) -> None:
    ledger.commit(access())
    ledger.seal_all()
    result = ledger.flask("ledger", "resume", "--after-restore", "--reason", "maintenance")
    assert result.exit_code == 1
    assert "nothing has to be resumed" in result.output
    assert ledger.log.number == 1


def test_database_from_before_a_resume_is_noticed(ledger: Ledger) -> None:
    seal_and_dump(ledger, "dump_before")
    ledger.restore("dump_before")
    with pytest.raises(RefusesToSign):
        ledger.seal()
    reason = ("--reason", "incident")
    assert ledger.flask("ledger", "resume", "--after-restore", *reason).exit_code == 0
    ledger.seal_all()
    ledger.restore("dump_before")
    ledger.commit(access())
    with pytest.raises(RefusesToSign, match="#2"):
        ledger.seal()
    assert ledger.flask("ledger", "resume", "--after-restore", *reason).exit_code == 0
    ledger.seal_all()
    assert ledger.log.origin.endswith("#3")
    check_log(ledger, number=3)


def test_damaged_copy_is_no_reason_to_sign(ledger: Ledger) -> None:
    ledger.commit(access())
    ledger.seal_all()
    copy = ledger.directory / "1" / "checkpoint"
    copy.write_text(re.sub(r"\n[0-9]+\n", "\n99\n", copy.read_text(), count=1))
    ledger.commit(access())
    with pytest.raises(RefusesToSign, match="cannot be believed"):
        ledger.seal()


def test_directory_that_cannot_be_written_holds_up_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("webapp.ledger.sealing.copies.Copies.replace", refuse)
    ledger.commit(access())
    assert ledger.seal() is not None
    ledger.commit(access())
    assert ledger.seal() is not None
    check_log(ledger)
