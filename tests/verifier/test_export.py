"""The verifier's verdict on exports: of a log as it is, and after each crime on its way."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.audit.events import make_request
from tests.verifier import logs
from tests.verifier.desk import AS_OF, Desk
from tests.verifier.logs import SEALED_AT, Log, access, change, export, pin
from verifier import sightline_verify as verifier


@pytest.fixture(scope="module")
def log() -> Log:
    """Twelve entries: of two tenants, of all tenants, of the platform, and heartbeats."""
    made = Log().beat()
    made.seal(access(), access("globex"), access(None), change(), access("globex")).beat()
    made.seal(access(), access("globex"), access(None), access(), logs.access(None, kind="change"))
    return made


def test_tenants_export_is_complete(desk: Desk, log: Log) -> None:
    verdict = desk.verify(export(log, "acme"), log.policy())
    assert (verdict.code, verdict.text) == (
        0,
        "5 of 5 accesses and 1 of 1 changes of acme, complete, in the log of size 12, witnessed by"
        " nobody.",
    )


def test_auditors_export_is_complete_with_signatures(desk: Desk, log: Log) -> None:
    verdict = desk.verify(export(log, signed=True), log.policy(logs.web_key(), pin(log)))
    assert verdict.code == 0
    assert verdict.text.startswith("8 of 8 accesses and 2 of 2 changes of all tenants, complete")
    assert verdict.words == {}


def test_filtered_export_says_that_it_is_not_all(desk: Desk, log: Log) -> None:
    lines = export(log, filter_={"actor": "engineer@example.org"}, only=[2, 5, 9])
    verdict = desk.verify(lines, log.policy())
    assert verdict.code == 0
    assert "as far as its filter goes" in verdict.text


def test_witnesses_are_named_and_their_quorum_is_asked_for(desk: Desk) -> None:
    log = Log(witnesses={"w1": b"1" * 32, "w2": b"2" * 32}).seal(access())
    groups = "group both all w1 w2"
    policy = log.policy(quorum="none").replace("quorum none", f"{groups}\nquorum both")
    verdict = desk.verify(export(log, "acme"), policy)
    assert verdict.code == 0
    assert verdict.text.endswith("witnessed by w1 and w2.")
    log.witnesses = {"w1": b"1" * 32}
    verdict = desk.verify(export(log, "acme"), policy)
    assert (verdict.code, verdict.faults) == (1, {"bad signature"})


def test_ml_dsa_signature_of_the_log_is_checked(desk: Desk) -> None:
    log = Log(with_ml_dsa=True).seal(access())
    policy = log.policy().replace("quorum", f"log {log.signers[-1].verifier}\nquorum")
    assert desk.verify(export(log), policy).code == 0
    lines = with_other_note(export(log), lambda note: damaged(note, note.rindex("— ")))
    assert desk.verify(lines, policy).faults == {"bad signature"}


def with_other_note(lines: Sequence[bytes], change: Callable[[str], str]) -> list[bytes]:
    value = json.loads(lines[-2])
    value["log"]["checkpoint"] = change(value["log"]["checkpoint"])
    return with_right_trailer([*lines[:-2], verifier.encode(value).encode() + b"\n", lines[-1]])


def damaged(note: str, signature: int) -> str:
    """A note with another letter in the middle of the signature whose line begins there."""
    place = note.index(" ", signature + 2) + 40
    return note[:place] + ("A" if note[place] != "A" else "B") + note[place + 1 :]


def test_export_anchors_to_the_checkpoint_that_is_pinned(desk: Desk, log: Log) -> None:
    for size in range(1, len(log.entries)):
        earlier = log.copy()
        del earlier.entries[size:], earlier.events[size:]
        lines = export(log, "acme", anchor=size)
        assert desk.verify(lines, log.policy(pin(earlier))).words.get("unanchored") == 1
        unanchored = desk.verify(export(log, "acme"), log.policy(pin(earlier)))
        assert (unanchored.code, unanchored.words["unanchored"]) == (0, 2)


def test_good_checkpoint_is_pinned_for_the_next_time(desk: Desk, log: Log) -> None:
    desk.verify(export(log, "acme"), log.policy(), "--remember")
    policy = (desk.directory / "policy").read_text()
    assert pin(log) in policy.splitlines()
    grown = log.copy().seal(access())
    assert desk.verify(export(grown, "acme", anchor=12), policy, "--remember").code == 0
    assert pin(log) not in (desk.directory / "policy").read_text()


def test_pending_events_are_said_and_no_fault_before_their_deadline(desk: Desk, log: Log) -> None:
    lines = export(log, "acme", pending=[(SEALED_AT, access())])
    verdict = desk.verify(lines, log.policy())
    assert (verdict.code, verdict.words["pending"]) == (0, 1)
    assert verdict.text.startswith("5 of 6 accesses")
    late = (SEALED_AT + timedelta(hours=2)).isoformat()
    verdict = desk.verify(lines, log.policy(), "--as-of", late)
    assert (verdict.code, verdict.faults) == (1, {"frozen"})


def test_pending_event_that_a_later_checkpoint_leaves_out_is_inserted(desk: Desk, log: Log) -> None:
    lines = export(log, "acme", pending=[(SEALED_AT - timedelta(hours=2), access())])
    assert desk.verify(lines, log.policy()).faults == {"inserted"}


def test_access_under_the_key_of_a_worker_is_a_bad_signature(desk: Desk) -> None:
    log = Log().seal(access())
    lines = export(log, signed=True)
    of_commands = Log().seal(access(request=replace(make_request("1"), method="CLI")))
    key = logs.web_key()
    assert desk.verify(lines, log.policy(key)).code == 0
    verdict = desk.verify(lines, log.policy(key.replace("key web", "key worker")))
    assert verdict.faults == {"bad signature"}
    policy = log.policy(key.replace("key web", "key commands"))
    assert desk.verify(lines, policy).faults == {"bad signature"}
    assert desk.verify(export(of_commands, signed=True), policy).code == 0


# --- Crimes on an export -------------------------------------------------------------------------


def spoil(lines: Sequence[bytes], index: int, old: bytes, new: bytes) -> list[bytes]:
    assert old in lines[index]
    return [*lines[:index], lines[index].replace(old, new), *lines[index + 1 :]]


def with_right_trailer(lines: Sequence[bytes], **counts: int) -> list[bytes]:
    """The lines with a trailer that fits them: whoever changes a file can do that too."""
    import hashlib

    trailer = json.loads(lines[-1])["trailer"]
    trailer["counts"] |= counts
    trailer["digest"] = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    return [*lines[:-1], verifier.encode({"trailer": trailer}).encode() + b"\n"]


CRIMES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], set[str]]] = {
    "edited payload": (
        lambda lines: with_right_trailer(spoil(lines, 2, b"INC-1", b"INC-2")),
        {"edited"},
    ),
    "edited leaf": (
        lambda lines: with_right_trailer(
            spoil(lines, 2, b'"series":[["all",1]]', b'"series":[["all",7]]')
        ),
        {"edited", "incomplete", "reordered"},
    ),
    "edited without a right trailer": (
        lambda lines: spoil(lines, 2, b"INC-1", b"INC-2"),
        {"edited"},
    ),
    "deleted": (
        lambda lines: with_right_trailer([*lines[:3], *lines[4:]], changes=0),
        {"deleted", "incomplete"},
    ),
    "inserted": (
        lambda lines: with_right_trailer([*lines[:3], lines[2], *lines[3:]], accesses=6),
        {"inserted", "duplicated"},
    ),
    "edited header": (
        lambda lines: spoil(lines, 0, b'"exported_at":"2026', b'"exported_at":"2025'),
        {"edited"},
    ),
    "reordered": (
        lambda lines: with_right_trailer([*lines[:3], lines[4], lines[3], *lines[5:]]),
        {"reordered"},
    ),
    "truncated": (lambda lines: lines[:5], {"truncated"}),
    "truncated in a line": (lambda lines: [*lines[:5], lines[5][:40]], {"truncated"}),
    "more after the end": (lambda lines: [*lines, lines[2]], {"inserted"}),
    "marked as withheld": (
        lambda lines: with_right_trailer(
            [*lines[:2], _bereft(lines[2], "withheld"), *lines[3:]], accesses=4, withheld=1
        ),
        set(),
    ),
    "payload taken away": (
        lambda lines: with_right_trailer([*lines[:2], _bereft(lines[2]), *lines[3:]], accesses=4),
        {"deleted"},
    ),
}


def _bereft(line: bytes, mark: str = "") -> bytes:
    value = json.loads(line)
    del value["units"]
    return verifier.encode(value | ({mark: True} if mark else {})).encode() + b"\n"


@pytest.mark.parametrize("crime", CRIMES)
def test_crime_on_an_export_is_named(desk: Desk, log: Log, crime: str) -> None:
    commit, words = CRIMES[crime]
    verdict = desk.verify(commit(export(log, "acme")), log.policy())
    assert (verdict.faults, verdict.code) == (words, 1 if words else 0)


def test_entry_withheld_from_a_tenant_leaves_a_hole_in_its_numbers(desk: Desk, log: Log) -> None:
    shown = [1, 3, 6, 7, 9, 10]  # without the change of acme, entry 4
    verdict = desk.verify(export(log, "acme", only=shown), log.policy())
    assert verdict.faults == {"incomplete"}


def test_last_entry_withheld_is_known_to_who_monitors(desk: Desk, log: Log) -> None:
    lines = export(log, "acme", only=[1, 3, 4, 7, 9])
    seen = verifier.Range()
    for each in log.hashes:
        seen.append(0, each)
    label = logs.label_of(logs.TENANTS["acme"])
    snapshot = verifier.Snapshot(0, seen, log.checkpoint, {label: 4, "all": 2})
    verifier.write_snapshots(desk.directory / "seen", [snapshot], 0)
    assert desk.verify(lines, log.policy()).code == 0
    verdict = desk.verify(lines, log.policy(), "--monitored", str(desk.directory / "seen"))
    assert verdict.faults == {"incomplete"}


def test_directory_without_what_a_monitor_has_seen_is_refused(desk: Desk, log: Log) -> None:
    policy = desk.put("policy", log.policy().encode())
    file = desk.put("export.jsonl", b"".join(export(log)))
    args = ["export", file, "--policy", policy, "--monitored", str(desk.directory / "none")]
    assert verifier.main(args) == 2


def test_event_sealed_in_another_tenants_series_is_found_by_an_auditor(desk: Desk) -> None:
    log = Log().seal(access(), access("globex"))
    log.append(access(), [(logs.label_of(logs.TENANTS["globex"]), 2)])
    log.append(access(None), [("platform", 1)])
    verdict = desk.verify(export(log), log.policy())
    assert (verdict.faults, verdict.words["incomplete"]) == ({"incomplete"}, 2)


def test_number_given_twice_is_duplicated(desk: Desk) -> None:
    log = Log().seal(access(), access())
    log.append(access(), [(logs.label_of(logs.TENANTS["acme"]), 2)])
    assert desk.verify(export(log, "acme"), log.policy()).faults == {"duplicated"}


def test_two_histories_of_one_size_are_forked_and_kept(desk: Desk, log: Log) -> None:
    other = log.copy()
    other.entries[5], other.events[5] = other.entries[7], other.events[7]
    verdict = desk.verify(export(log), log.policy(pin(other)))
    assert verdict.faults == {"forked"}
    [kept] = (desk.directory / "evidence").iterdir()
    assert {each.name: each.read_text() for each in kept.iterdir()} == {
        "earlier.checkpoint": other.checkpoint,
        "later.checkpoint": log.checkpoint,
    }


def test_history_that_does_not_go_on_from_the_pinned_one_is_forked(desk: Desk, log: Log) -> None:
    other = Log().seal(*[access() for _ in range(7)])
    verdict = desk.verify(export(log, "acme", anchor=7), log.policy(pin(other)))
    assert verdict.faults == {"forked"}
    [kept] = (desk.directory / "evidence").iterdir()
    proof = json.loads((kept / "proof.json").read_text())
    before = verifier.Range.of(proof["size"], proof["before"])
    assert before.root() != verifier.policy_from(log.policy().encode()).open(other.checkpoint).root
    for level, subtree in zip(verifier.cover(7, 12), proof["after"], strict=True):
        before.append(level, verifier.from_unpadded(subtree, 32))
    assert before.root() == verifier.policy_from(log.policy().encode()).open(log.checkpoint).root


def test_edited_entry_below_the_pinned_size_is_no_fork(desk: Desk, log: Log) -> None:
    earlier = log.copy()
    del earlier.entries[7:], earlier.events[7:]
    lines = export(log, anchor=7)
    spoiled = spoil(lines, 2, json.loads(lines[2])["commitment"].encode(), b"A" * 43)
    verdict = desk.verify(with_right_trailer(spoiled), log.policy(pin(earlier)))
    assert verdict.faults == {"edited"}


def test_smaller_log_than_the_pinned_one_is_truncated(desk: Desk, log: Log) -> None:
    grown = log.copy().seal(access())
    assert desk.verify(export(log), log.policy(pin(grown))).faults == {"truncated"}


def test_checkpoint_under_another_key_is_a_bad_signature(desk: Desk, log: Log) -> None:
    other = log.copy()
    other.seed = b"x" * 32
    verdict = desk.verify(export(other), log.policy())
    assert (verdict.code, verdict.faults) == (1, {"bad signature"})


def test_damaged_signature_under_a_known_key_is_a_bad_signature(desk: Desk, log: Log) -> None:
    lines = with_other_note(export(log), lambda note: damaged(note, note.index("— ")))
    assert desk.verify(lines, log.policy()).faults == {"bad signature"}


def test_access_that_no_web_host_has_signed_is_a_bad_signature(desk: Desk, log: Log) -> None:
    policy = log.policy(logs.web_key())
    verdict = desk.verify(export(log), policy)
    assert (verdict.faults, verdict.words["bad signature"]) == ({"bad signature"}, 8)
    forged = spoil(
        export(log, signed=True), 2, b'"origin_signature":"0011', b'"origin_signature":"9911'
    )
    assert desk.verify(with_right_trailer(forged), policy).faults == {"bad signature"}


def test_log_that_stands_still_is_frozen(desk: Desk, log: Log) -> None:
    later = (SEALED_AT + timedelta(days=3)).isoformat()
    assert desk.verify(export(log), log.policy(), "--as-of", later).faults == {"frozen"}


# --- Hostile files -------------------------------------------------------------------------------

HOSTILE = {
    "doubled key": (b'"index":1,', b'"index":1,"index":1,'),
    "number with a fraction": (b'"rows":3', b'"rows":3.0'),
    "number beyond all readers": (b'"rows":3', b'"rows":' + b"9" * 30),
    "infinite number": (b'"rows":3', b'"rows":Infinity'),
    "space": (b'"rows":3', b'"rows": 3'),
    "escaped letter": (b"INC-1", b"\\u0049NC-1"),
    "half of a character": (b"INC-1", b"\\ud800"),
    "not UTF-8": (b"INC-1", b"\xff\xfe"),
    "other order of keys": (b'"rows":3,"scope"', b'"scope":3,"rows"'),
    "deep value": (b'"rows":3', b'"rows":' + b"[" * 100_000),
    "text with a NUL": (b"INC-1", b"\\u0000"),
    "gap after the entry": (b'"from":0', b'"from":7'),
    "index as text": (b'"index":1,', b'"index":"1",'),
    "index below zero": (b'"index":1,', b'"index":-1,'),
    "number of a series as truth": (b",1]]", b",true]]"),
    "units as a list": (b'"units":{', b'"units":[{'),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_line_in_another_form_is_edited_and_stops_nothing(desk: Desk, log: Log, how: str) -> None:
    old, new = HOSTILE[how]
    lines = export(log, "acme")
    spoiled = with_right_trailer([lines[0], lines[1].replace(old, new, 1), *lines[2:]])
    assert spoiled[1] != lines[1]
    verdict = desk.verify(spoiled, log.policy())
    assert (verdict.code, "edited" in verdict.faults) == (1, True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[]\n",
        b'{"export":{}}\n',
        b"\0" * 99,
        b'{"log":{}}\n',
        b'{"trailer":{"digest":1}}\n',
        b'{"commitment":1}\n',
    ],
)
def test_file_that_is_no_export_proves_nothing(desk: Desk, log: Log, data: bytes) -> None:
    assert desk.verify([data], log.policy()).code == 1


def test_line_without_an_end_is_not_kept_in_memory(
    desk: Desk, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "MAX_LINE", 1000)
    assert desk.verify([b"x" * 2000], log.policy()).code == 3


def test_texts_of_an_export_cannot_move_the_cursor(desk: Desk) -> None:
    log = Log().seal(access(surface="\x1b[2Jall is well\u202e"))
    lines = spoil(export(log), 1, b"INC-1", b"INC-2")
    assert all("\x1b" not in str(line) for line in desk.verify(lines, log.policy()).lines)


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "quorum none\n",
        "log x+00000000+AAAA\nquorum none\n",
        "{log}\nquorum w\n",
        "{log}\n",
        "{log}\nquorum none\nquorum none\n",
        "{log}\nquorum none\nsurprise\n",
        "{log}\nquorum none\n#sightline checkpoint AAAA\n",
        "{log}\nquorum none\n#sightline what\n",
        "{log}\ngroup g 2 g\nquorum g\n",
    ],
)
def test_policy_that_says_something_else_is_refused(desk: Desk, log: Log, policy: str) -> None:
    first = log.policy().splitlines()[0]
    (desk.directory / "policy").write_text(policy.replace("{log}", first))
    (desk.directory / "export.jsonl").write_bytes(b"".join(export(log)))
    args = [
        "export",
        str(desk.directory / "export.jsonl"),
        "--policy",
        str(desk.directory / "policy"),
    ]
    assert verifier.main(args) == 2


def test_many_processes_say_what_one_says(
    desk: Desk, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "PAYS", 0)
    monkeypatch.setattr(verifier, "BATCH", 2000)
    policy = log.policy(logs.web_key())
    lines = spoil(export(log, signed=True), 4, b"INC-1", b"INC-2")
    several = desk.verify(lines, policy, "--jobs", "2")
    assert several == desk.verify(lines, policy, "--jobs", "1")
    assert several.code == 1


def test_verifier_imports_the_standard_library_and_cryptography_only() -> None:
    tree = ast.parse(Path(verifier.__file__).read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names == {"cryptography"}


def test_verifier_needs_nothing_of_sightline(tmp_path: Path, log: Log) -> None:
    (tmp_path / "sightline_verify.py").write_bytes(Path(verifier.__file__).read_bytes())
    (tmp_path / "export.jsonl").write_bytes(b"".join(export(log, "acme")))
    (tmp_path / "policy").write_text(log.policy())
    command = [sys.executable, "-I", "sightline_verify.py", "export", "export.jsonl"]
    run = subprocess.run(
        [*command, "--policy", "policy", "--as-of", AS_OF],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[-1].startswith("5 of 5 accesses and 1 of 1 changes of acme")
