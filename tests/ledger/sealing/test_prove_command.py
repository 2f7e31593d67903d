"""`flask ledger prove`, `checkpoint` and `policy`: what an operator hands to whoever checks."""

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from tests.factories import MadeTenant, add_tenant
from tests.ledger.sealing.logs import Ledger, access, accesses
from tests.processes import ROOT
from webapp.ledger.sealing.checkpoint import decode_base64
from webapp.ledger.sealing.leaf import Unit, commitment, event_leaf, unit_digest
from webapp.ledger.sealing.merkle import verify_consistency
from webapp.ledger.sealing.proof import InclusionProof, parse_policy, parse_proof

WHY = ("--reason", 'legal;ticket="AUDIT"')


def entry_of(proof: InclusionProof) -> bytes:
    """The entry, made from what the proof shows."""
    shown = orjson.loads(proof.extra)
    digests = {
        name: unit["digest"] if "digest" in unit else unit_digest(name, Unit(**unit))
        for name, unit in shown["units"].items()
    }
    assert commitment(digests) == shown["commitment"]
    return event_leaf(shown["commitment"], shown["series"])


@pytest.fixture
def tenant(ledger: Ledger) -> MadeTenant:
    return add_tenant(ledger.app)


def test_proof_proves_the_event_under_the_policy_and_is_recorded(
    ledger: Ledger, tenant: MadeTenant, tmp_path: Path
) -> None:
    (event,) = ledger.commit(access(tenant.id))
    size = ledger.seal_all()
    file = tmp_path / "event.tlog-proof"
    done = ledger.flask("ledger", "prove", str(event), "--output", str(file), *WHY)
    assert (done.exit_code, done.stdout) == (0, "")
    policy = parse_policy(ledger.flask("ledger", "policy").stdout)
    proof = parse_proof(file.read_bytes())
    assert proof.verify(entry_of(proof), policy).size == size
    printed = ledger.flask("ledger", "prove", str(event), "--tenant", tenant.slug, *WHY)
    shown = parse_proof(printed.stdout.encode())
    assert shown.verify(entry_of(shown), policy).size == size
    whole = orjson.loads(proof.extra)
    assert "value" in whole["units"]["excluded"]
    assert (len(whole["salt"]), "origin_signature" in orjson.loads(shown.extra)) == (22, False)
    assert "digest" in orjson.loads(shown.extra)["units"]["excluded"]
    recorded = ledger.run(
        "select scope_kind, event -> 'terms' ->> 'event' from audit_events"
        " where surface = 'ledger.prove' order by id"
    )
    assert recorded == [("global", str(event)), ("tenant", str(event))]


def test_file_that_knows_nothing_of_sightline_believes_the_proof(
    ledger: Ledger, tenant: MadeTenant, tmp_path: Path
) -> None:
    (event,) = ledger.commit(access(tenant.id))
    ledger.seal_all()
    policy, file = tmp_path / "policy", tmp_path / "event.tlog-proof"
    policy.write_text(ledger.flask("ledger", "policy").stdout)
    for of in ((), ("--tenant", tenant.slug)):
        ledger.flask("ledger", "prove", str(event), *of, "--output", str(file), *WHY)
        good = checked_elsewhere(file, policy)
        assert good.returncode == 0, good.stdout + good.stderr
        assert f"in the log of size {ledger.log.size}" in good.stdout
        data = file.read_bytes()
        file.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
        assert checked_elsewhere(file, policy).returncode == 1


def checked_elsewhere(file: Path, policy: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "verifier/sightline_verify.py", "proof", file, "--policy", policy],
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_nothing_is_proven_of_what_is_not_there_not_sealed_or_not_this_tenants(
    ledger: Ledger, tenant: MadeTenant
) -> None:
    (waiting,) = ledger.commit(access(tenant.id))
    other = add_tenant(ledger.app)
    for arguments, problem in (
        ((str(uuid4()),), "There is no such event"),
        ((str(waiting),), "not sealed yet"),
        ((str(waiting), "--tenant", other.slug), "There is no such event"),
    ):
        done = ledger.flask("ledger", "prove", *arguments, *WHY)
        assert (done.exit_code, done.stdout) == (1, "")
        assert problem in done.stderr
    assert ledger.flask("ledger", "prove", str(waiting)).exit_code == 2
    assert ledger.flask("ledger", "prove", "x", *WHY).exit_code == 2


def test_checkpoint_is_proven_to_go_on_from_an_older_one(ledger: Ledger) -> None:
    ledger.commit(*accesses(300))
    ledger.seal_all()
    policy = parse_policy(ledger.flask("ledger", "policy").stdout)
    old = policy.open(ledger.flask("ledger", "checkpoint").stdout.encode()).checkpoint
    ledger.commit(*accesses(5))
    ledger.seal_all()
    text = ledger.flask("ledger", "checkpoint", "--since", str(old.size)).stdout
    proof, _, note = text.partition("\n\n")
    first, *hashes = proof.split("\n")
    assert first == f"old {old.size}"
    new = policy.open(note.encode()).checkpoint
    verify_consistency(old.size, new.size, [*map(decode_base64, hashes)], old.root, new.root)
    assert ledger.flask("ledger", "checkpoint", "--since", str(new.size + 1)).exit_code == 2
    assert ledger.flask("ledger", "checkpoint", "--log", "2").exit_code == 1


def test_log_in_which_nothing_is_sealed_has_no_checkpoint(ledger: Ledger) -> None:
    done = ledger.flask("ledger", "checkpoint")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Nothing is sealed" in done.stderr
