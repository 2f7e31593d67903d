"""Checkpoints and proofs as Go's own libraries see them, where Debian's packages of them are."""

import json
import os
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from webapp.ledger.sealing.checkpoint import Checkpoint
from webapp.ledger.sealing.leaf import encode_bytes, event_leaf
from webapp.ledger.sealing.merkle import (
    consistency_proof,
    hash_leaf,
    inclusion_proof,
    root_from_hashes,
)
from webapp.ledger.sealing.note import cosigner, ed25519_signer, ml_dsa_44_cosigner, sign_note

GOPATH = Path("/usr/share/gocode")
LIBRARY = GOPATH / "src/golang.org/x/mod/sumdb/tlog"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("go") is None or not LIBRARY.exists(),
        reason="needs Debian's golang-go and golang-golang-x-mod-dev",
    ),
]

ORIGIN = "log.example/one"
SIGNERS = [
    ed25519_signer(ORIGIN, bytes(range(32))),
    cosigner(ORIGIN, bytes([4] * 32), 1_000),
    ml_dsa_44_cosigner(ORIGIN, bytes([6] * 32), 1_000),
]
ENTRIES = [event_leaf(encode_bytes(bytes(32)), [("all", number + 1)]) for number in range(700)]
HASHES = [hash_leaf(entry) for entry in ENTRIES]
INDEX, OLD = 300, 257


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("go") / "check"
    source = Path(__file__).parent / "golang" / "check.go"
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOCACHE": str(made.with_name("cache")),
    }
    subprocess.run(["go", "build", "-o", made, source], env=environment, check=True, timeout=500)
    return made


def question() -> dict[str, Any]:
    root = root_from_hashes(HASHES)
    return {
        "Key": str(SIGNERS[0].verifier),
        "Checkpoint": sign_note(Checkpoint(ORIGIN, len(HASHES), root).text, SIGNERS).decode(),
        "Size": len(HASHES),
        "Root": root,
        "Index": INDEX,
        "Entry": ENTRIES[INDEX],
        "Inclusion": inclusion_proof(INDEX, HASHES),
        "OldSize": OLD,
        "OldRoot": root_from_hashes(HASHES[:OLD]),
        "Consistent": consistency_proof(OLD, HASHES),
    }


def ask(program: Path, asked: dict[str, Any]) -> tuple[int, str]:
    text = json.dumps(asked, default=lambda data: b64encode(data).decode())
    done = subprocess.run(
        [program], input=text, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout


def flipped(data: bytes) -> bytes:
    return data[:5] + bytes([data[5] ^ 1]) + data[6:]


def test_go_opens_our_checkpoint_and_accepts_our_proofs(program: Path) -> None:
    assert ask(program, question()) == (0, "good\n")


@pytest.mark.parametrize("name", ["Root", "Entry", "OldRoot"])
def test_go_refuses_a_flipped_byte(program: Path, name: str) -> None:
    asked = question()
    assert ask(program, asked | {name: flipped(asked[name])})[0] == 1


@pytest.mark.parametrize("name", ["Inclusion", "Consistent"])
def test_go_refuses_a_flipped_byte_of_each_hash_of_a_proof(program: Path, name: str) -> None:
    asked = question()
    for at, each in enumerate(asked[name]):
        broken = [*asked[name][:at], flipped(each), *asked[name][at + 1 :]]
        assert ask(program, asked | {name: broken})[0] == 1


def test_go_refuses_a_flipped_byte_of_the_checkpoint(program: Path) -> None:
    asked = question()
    for at in (3, 18, 30, 90):
        broken = asked["Checkpoint"]
        broken = broken[:at] + ("A" if broken[at] != "A" else "B") + broken[at + 1 :]
        assert ask(program, asked | {"Checkpoint": broken})[0] == 1
