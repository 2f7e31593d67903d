"""Proofs and policies as files: what they say, what they accept, and what is refused."""

import pytest

from webapp.ledger.sealing.checkpoint import Checkpoint, encode_base64
from webapp.ledger.sealing.merkle import (
    ProofError,
    hash_leaf,
    inclusion_proof,
    root_from_hashes,
)
from webapp.ledger.sealing.note import (
    Signer,
    cosigner,
    ed25519_signer,
    ml_dsa_44_cosigner,
    sign_note,
)
from webapp.ledger.sealing.proof import (
    Group,
    InclusionProof,
    Peer,
    Policy,
    PolicyError,
    parse_policy,
    parse_proof,
)

ENTRIES = [f"entry {number}".encode() for number in range(7)]
HASHES = [hash_leaf(entry) for entry in ENTRIES]
CHECKPOINT = Checkpoint("log.example/one", len(ENTRIES), root_from_hashes(HASHES))
LOG = ed25519_signer("log.example/one", bytes(range(32)))
WITNESSES = [cosigner(f"w{number}.example", bytes([number] * 32), 1_000) for number in range(3)]
POLICY = parse_policy(f"log {LOG.verifier}\nquorum none\n")


def proof_of(index: int, *signers: Signer) -> InclusionProof:
    note = sign_note(CHECKPOINT.text, [LOG, *signers])
    return InclusionProof(index, tuple(inclusion_proof(index, HASHES)), note)


@pytest.mark.parametrize("index", range(len(ENTRIES)))
def test_proof_as_a_file_proves_its_entry_and_no_other(index: int) -> None:
    proof = parse_proof(proof_of(index).text)
    assert proof == proof_of(index)
    assert proof.verify(ENTRIES[index], POLICY) == CHECKPOINT
    with pytest.raises(ProofError, match="another root"):
        proof.verify(ENTRIES[index - 1], POLICY)


def test_proof_has_the_specified_form() -> None:
    proof = proof_of(3)
    lines = proof.text.decode().split("\n")
    assert lines[:5] == [
        "c2sp.org/tlog-proof@v1",
        "index 3",
        *(encode_base64(each) for each in proof.hashes),
    ]
    assert lines[5] == ""
    assert "\n".join(lines[6:]).encode() == proof.checkpoint


def test_extra_data_is_kept_and_proves_nothing() -> None:
    proof = InclusionProof(3, proof_of(3).hashes, proof_of(3).checkpoint, b"anything")
    assert parse_proof(proof.text) == proof
    assert proof.verify(ENTRIES[3], POLICY) == CHECKPOINT


def test_every_flipped_byte_of_a_proof_is_refused() -> None:
    text = proof_of(3).text
    for at in range(len(text)):
        broken = bytearray(text)
        broken[at] ^= 1
        with pytest.raises(ProofError):
            parse_proof(bytes(broken)).verify(ENTRIES[3], POLICY)


GOOD = proof_of(3).text.decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.replace("@v1", "@v2"),
        GOOD.replace("index 3", "index 03"),
        GOOD.replace("index 3", "index -3"),
        GOOD.replace("index 3\n", ""),
        GOOD.replace("index 3", "index 3\nindex 3"),
        GOOD.replace("index 3", "index 3\nAAAA"),
        GOOD.replace("index 3", "extra \nindex 3"),
        GOOD.replace("index 3", "extra AAA\nindex 3"),
        GOOD.replace("index 3", "index 3\nextra AAAA"),
        GOOD.replace("index 3", "index 3" + ("\n" + encode_base64(bytes(32))) * 65),
        GOOD.replace("\n\n", "\n", 1),
        GOOD.replace("\n", "\r\n"),
        " " + GOOD,
        "\u00e9" + GOOD,
        GOOD + "x" * 2_000_000,
    ],
    ids=lambda text: text[:50],
)
def test_malformed_proof_is_refused(text: str) -> None:
    with pytest.raises(ProofError):
        parse_proof(text.encode()).verify(ENTRIES[3], POLICY)


def test_proof_by_a_log_that_the_policy_does_not_name_is_refused() -> None:
    other = parse_policy(
        f"log {ed25519_signer('log.example/two', bytes(32)).verifier}\nquorum none"
    )
    with pytest.raises(ProofError, match="not signed by a known key"):
        proof_of(3).verify(ENTRIES[3], other)


def test_log_of_the_policy_signs_for_no_other_log() -> None:
    """Its key is known, and another's name stands in the checkpoint."""
    two = ed25519_signer("log.example/two", bytes(32))
    policy = parse_policy(f"log {LOG.verifier}\nlog {two.verifier}\nquorum none")
    with pytest.raises(ProofError, match="not signed by the log that it names"):
        policy.open(sign_note(CHECKPOINT.text, [two]))
    with pytest.raises(ProofError, match="not signed by a known key"):
        POLICY.open(sign_note(CHECKPOINT.text, [two]))


POLICY_TEXT = f"""# Two of three, or one alone.
log {LOG.verifier} https://log.example/one

witness W0 {WITNESSES[0].verifier}
  witness\tW1 {WITNESSES[1].verifier} https://w1.example/
witness W2 {WITNESSES[2].verifier}
group two 2 W0 W1
group most any two W2
quorum most
"""


@pytest.mark.parametrize(
    ("seen", "accepted"),
    [
        ([], False),
        ([0], False),
        ([1], False),
        ([0, 1], True),
        ([2], True),
        ([0, 2], True),
    ],
)
def test_quorum_decides_which_witnesses_suffice(seen: list[int], accepted: bool) -> None:
    policy = parse_policy(POLICY_TEXT)
    note = sign_note(CHECKPOINT.text, [LOG, *(WITNESSES[number] for number in seen)])
    if not accepted:
        with pytest.raises(ProofError, match="witnesses"):
            policy.open(note)
        return
    opened = policy.open(note)
    assert opened.checkpoint == CHECKPOINT
    assert list(opened.witnesses) == [f"W{number}" for number in seen]
    assert {signature.time for signature in opened.witnesses.values()} == {1_000}


def test_wrong_cosignature_of_a_known_witness_refuses_the_checkpoint() -> None:
    note = sign_note(CHECKPOINT.text, [LOG, *WITNESSES[:2]]).replace(b"w2", b"w0")
    line = WITNESSES[2].sign("other\n1\n" + encode_base64(bytes(32)) + "\n").line.encode()
    with pytest.raises(ProofError, match="wrong signature"):
        parse_policy(POLICY_TEXT).open(note + line)


def test_policy_is_written_as_it_is_read() -> None:
    policy = parse_policy(POLICY_TEXT)
    assert parse_policy(policy.text) == policy
    assert policy.logs == (Peer(LOG.verifier, "https://log.example/one"),)
    assert policy.groups == {"two": Group(2, ("W0", "W1")), "most": Group(1, ("two", "W2"))}


def test_post_quantum_key_of_a_log_and_of_a_witness_is_accepted() -> None:
    log = ml_dsa_44_cosigner("log.example/one", bytes(32), 5)
    witness = ml_dsa_44_cosigner("w.example", bytes(range(32)), 5)
    policy = parse_policy(f"log {log.verifier}\nwitness w {witness.verifier}\nquorum w")
    opened = policy.open(sign_note(CHECKPOINT.text, [log, witness]))
    assert opened.witnesses["w"].time == 5
    assert Policy(policy.logs, policy.witnesses, {}, "w") == policy


W = [str(witness.verifier) for witness in WITNESSES]


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"log {LOG.verifier}",
        "quorum none\nquorum none",
        "quorum W0",
        "quorum",
        "quorum none none",
        "Quorum none",
        f"log {LOG.verifier}\nlog {LOG.verifier}\nquorum none",
        f"log {LOG.verifier} url more\nquorum none",
        "log\nquorum none",
        "log x\nquorum none",
        f"log {W[0]}\nquorum none",
        f"witness a {LOG.verifier}\nquorum none",
        f"witness a {W[0]}\nwitness a {W[1]}\nquorum none",
        f"witness a {W[0]}\nwitness b {W[0]}\nquorum none",
        f"witness none {W[0]}\nquorum none",
        f"witness a {W[0]}\ngroup a any a\nquorum none",
        f"witness a {W[0]}\ngroup g any\nquorum none",
        f"witness a {W[0]}\ngroup g any a a\nquorum none",
        f"witness a {W[0]}\ngroup g any none\nquorum none",
        f"witness a {W[0]}\ngroup g 0 a\nquorum none",
        f"witness a {W[0]}\ngroup g 2 a\nquorum none",
        f"witness a {W[0]}\ngroup g some a\nquorum none",
        f"witness a {W[0]}\ngroup g any g\nquorum none",
        f"group g any a\nwitness a {W[0]}\nquorum none",
        "quorum none\r\n",
        "quorum none\x00",
        "\n" * 1_001 + "quorum none",
        "#" * 300_000 + "\nquorum none",
    ],
    ids=lambda text: text[:60],
)
def test_malformed_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text)


def test_line_that_is_wrong_is_named() -> None:
    with pytest.raises(PolicyError, match="line 2: not a line of a policy"):
        parse_policy("# good\nwrong\nquorum none")
