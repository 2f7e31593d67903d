"""The verifier's verdict on the proof of one event."""

import pytest

from tests.verifier.desk import Desk
from tests.verifier.logs import Log, access, pin, proof_of


@pytest.fixture(scope="module")
def log() -> Log:
    return Log().beat().seal(*[access() for _ in range(6)])


def test_proof_of_each_entry_holds(desk: Desk, log: Log) -> None:
    for index in range(1, 7):
        verdict = desk.run("proof", log.policy(pin(log)), desk.put("proof", proof_of(log, index)))
        assert (verdict.code, verdict.words) == (0, {})
        assert verdict.text.startswith(f"Entry {index}, number {index} of series label-of-")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (b"index 3", b"index 4", "edited"),
        (b"extra ey", b"extra ez", "edited"),
        (b"c2sp.org/tlog-proof@v1", b"c2sp.org/tlog-proof@v2", "edited"),
        (b"\n7\n", b"\n8\n", "bad signature"),
    ],
)
def test_changed_proof_fails(desk: Desk, log: Log, old: bytes, new: bytes, word: str) -> None:
    proof = proof_of(log, 3)
    assert old in proof
    verdict = desk.run("proof", log.policy(), desk.put("proof", proof.replace(old, new)))
    assert (verdict.code, verdict.faults) == (1, {word})


def test_each_byte_of_a_proof_counts(desk: Desk, log: Log) -> None:
    proof, policy = proof_of(log, 3), log.policy()
    for place in range(0, proof.index(b"\n\n"), 7):
        flipped = proof[:place] + bytes([proof[place] ^ 1]) + proof[place + 1 :]
        assert desk.run("proof", policy, desk.put("proof", flipped)).code == 1


def test_proof_of_another_history_than_the_pinned_one_is_forked(desk: Desk, log: Log) -> None:
    other = Log().beat().seal(*[access() for _ in range(6)])
    verdict = desk.run("proof", log.policy(pin(other)), desk.put("proof", proof_of(log, 2)))
    assert verdict.faults == {"forked"}


def test_event_whose_commitment_is_another_is_edited(desk: Desk, log: Log) -> None:
    other = log.copy()
    other.events[3] = access()
    verdict = desk.run("proof", log.policy(), desk.put("proof", proof_of(other, 3)))
    assert verdict.faults == {"edited"}
