"""Signed notes: known ones of others, all kinds of signature, and what is refused."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from webapp.ledger.sealing.checkpoint import Checkpoint
from webapp.ledger.sealing.merkle import EMPTY_ROOT, hash_leaf
from webapp.ledger.sealing.note import (
    NOTE_BYTES,
    SIGNATURES,
    NoteError,
    Signature,
    SignatureType,
    Signer,
    cosigner,
    ed25519_signer,
    format_note,
    ml_dsa_44_cosigner,
    open_checkpoint,
    open_note,
    parse_signatures,
    parse_verifier,
    sign_note,
    split_note,
    verify_signature,
)

# The example of c2sp.org/signed-note, and the one of the Go library that the format comes from.
SPECIFIED_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPECIFIED_NOTE = """This is an example message.

\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
""".encode()  # noqa: E501 - a signature is one line
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
""".encode()  # noqa: E501 - a signature is one line

AT = 1_679_315_147
SEED = bytes(range(32))
CHECKPOINT = Checkpoint("log.example/one", 1, hash_leaf(b"one"))
LOG = ed25519_signer("log.example/one", SEED)
SIGNERS: dict[str, Callable[[str, bytes], Signer]] = {
    "Ed25519": ed25519_signer,
    "cosignature": lambda name, seed: cosigner(name, seed, AT),
    "ML-DSA-44": lambda name, seed: ml_dsa_44_cosigner(name, seed, AT),
}


@pytest.mark.parametrize(
    ("key", "note"), [(SPECIFIED_KEY, SPECIFIED_NOTE), (GO_KEY, GO_NOTE)], ids=["C2SP", "Go"]
)
def test_known_note_opens_with_its_key(key: str, note: bytes) -> None:
    verifier = parse_verifier(key)
    opened = open_note(note, [verifier])
    assert opened.text.encode() + b"\n" == note[: note.index(b"\xe2\x80\x94")]
    assert str(verifier) == key
    assert open_note(note, [LOG.verifier, verifier]) == opened


@pytest.mark.parametrize("signer", SIGNERS.values(), ids=SIGNERS)
def test_signed_checkpoint_opens_with_the_signers_key_and_any_flipped_byte_is_refused(
    signer: Callable[[str, bytes], Signer],
) -> None:
    signs = signer("witness.example/w1", SEED)
    note = sign_note(CHECKPOINT.text, [LOG, signs])
    checkpoint, opened = open_checkpoint(note, [signs.verifier])
    assert checkpoint == CHECKPOINT
    made = opened.signed_by(signs.verifier)
    assert made is not None
    assert made.time == (None if signs.verifier.type is SignatureType.ED25519 else AT)
    assert [each.name for each in opened.unknown] == ["log.example/one"]
    assert parse_verifier(str(signs.verifier)) == signs.verifier
    start = note.rindex(b"\xe2\x80\x94")
    for at in [*range(len(CHECKPOINT.text)), *range(start, len(note), 97), len(note) - 1]:
        broken = bytearray(note)
        broken[at] ^= 1
        with pytest.raises(NoteError):
            open_note(bytes(broken), [signs.verifier])


def test_private_keys_show_in_no_representation() -> None:
    assert SEED.hex() not in repr(LOG)
    assert repr(SEED)[2:-1] not in repr(LOG)


def test_one_wrong_signature_of_a_known_key_refuses_the_whole_note() -> None:
    text, (right,) = split_note(sign_note(CHECKPOINT.text, [LOG]))
    other = cosigner("witness.example/w1", SEED, AT)
    wrong = Signature(other.verifier.name, other.verifier.key_id, bytes(72))
    note = format_note(text, [right, wrong])
    assert open_note(note, [LOG.verifier]).unknown == (wrong,)
    with pytest.raises(NoteError, match="wrong signature of witness.example/w1"):
        open_note(note, [LOG.verifier, other.verifier])


def test_signature_of_another_kind_does_not_pass_for_one_of_the_same_key() -> None:
    plain, dated = LOG, cosigner("log.example/one", SEED, AT)
    assert plain.verifier.public_key == dated.verifier.public_key
    assert plain.verifier.key_id != dated.verifier.key_id
    note = sign_note(CHECKPOINT.text, [dated])
    with pytest.raises(NoteError, match="not signed by a known key"):
        open_note(note, [plain.verifier])
    (moved,) = split_note(note)[1]
    forged = Signature(plain.verifier.name, plain.verifier.key_id, moved.payload)
    with pytest.raises(NoteError, match="wrong signature"):
        open_note(format_note(CHECKPOINT.text, [forged]), [plain.verifier])


def test_log_cannot_be_named_so_that_its_checkpoints_are_cosignatures() -> None:
    with pytest.raises(NoteError):
        ed25519_signer("cosignature/v1", SEED)


def test_cosignature_with_another_moment_is_refused() -> None:
    signs = cosigner("witness.example/w1", SEED, AT)
    signature = signs.sign(CHECKPOINT.text)
    moved = (AT + 1).to_bytes(8, "big") + signature.payload[8:]
    with pytest.raises(NoteError):
        verify_signature(
            CHECKPOINT.text, Signature(signature.name, signature.key_id, moved), signs.verifier
        )


@pytest.mark.parametrize("kind", ["cosignature", "ML-DSA-44"])
def test_cosigner_signs_checkpoints_only(kind: str) -> None:
    with pytest.raises(NoteError, match="checkpoints only"):
        sign_note("anything else\n", [SIGNERS[kind]("witness.example/w1", SEED)])


def test_cosignature_signs_what_the_specification_says() -> None:
    signature = cosigner("witness.example/w1", SEED, AT).sign(CHECKPOINT.text)
    assert int.from_bytes(signature.payload[:8], "big") == AT
    message = f"cosignature/v1\ntime {AT}\n{CHECKPOINT.text}".encode()
    Ed25519PublicKey.from_public_bytes(LOG.verifier.public_key).verify(
        signature.payload[8:], message
    )


def test_text_with_empty_lines_is_split_at_the_last_one() -> None:
    text = "one\n\ntwo\n\n\nthree\n"
    assert open_note(sign_note(text, [LOG]), [LOG.verifier]).text == text


@pytest.mark.parametrize("text", ["", "no newline", "a\rb\n", "a\x00b\n", "a\tb\n", "\ud800\n"])
def test_text_that_no_note_has_is_not_signed(text: str) -> None:
    with pytest.raises(NoteError, match="not the text of a note"):
        sign_note(text, [LOG])


def test_nobody_signs_no_note() -> None:
    with pytest.raises(NoteError):
        sign_note("text\n", [])


GOOD = sign_note("text\n", [LOG])
LINE = GOOD.partition(b"\n\n")[2]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"\n\n" + LINE,
        b"text\n\n",
        b"text\n" + LINE,
        GOOD[:-1],
        GOOD + b"\n",
        GOOD + b"more\n",
        b"text\r\n\n" + LINE,
        b"te\xffxt\n\n" + LINE,
        b"text\n\n" + LINE.replace(b"\xe2\x80\x94 ", b"- "),
        b"text\n\n" + LINE.replace(b" log", b"  log"),
        b"text\n\n" + LINE.replace(b"log.example", b"log+example"),
        b"text\n\n" + LINE.replace(b"log.example", "log\u2003example".encode()),
        b"text\n\n" + LINE.replace(b"\n", b"=\n"),
        b"text\n\n" + LINE.replace(b"\n", b" \n"),
        b"text\n\n\xe2\x80\x94 log.example/one AAAA\n",
        b"text\n\n" + LINE * (SIGNATURES + 1),
        b"x" * NOTE_BYTES + GOOD,
    ],
)
def test_malformed_note_is_refused(data: bytes) -> None:
    with pytest.raises(NoteError):
        open_note(data, [LOG.verifier])


def test_note_with_as_many_signatures_as_may_be_opens() -> None:
    assert len(open_note(b"text\n\n" + LINE * SIGNATURES, [LOG.verifier]).verified) == SIGNATURES


def test_lines_of_a_witness_are_parsed_alone() -> None:
    signature = cosigner("witness.example/w1", SEED, AT).sign(CHECKPOINT.text)
    assert parse_signatures(signature.line) == (signature,)
    for wrong in ("", "\n", signature.line + "\n", signature.line[:-1]):
        with pytest.raises(NoteError):
            parse_signatures(wrong)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "+",
        "++",
        SPECIFIED_KEY[:-1],
        SPECIFIED_KEY + "=",
        SPECIFIED_KEY + "A" * 5_000,
        SPECIFIED_KEY.replace("530d903a", "530d903b"),
        SPECIFIED_KEY.replace("530d903a", "530D903A"),
        SPECIFIED_KEY.replace("530d903a", "530d903"),
        SPECIFIED_KEY.replace("example", "exa mple"),
        SPECIFIED_KEY.replace("+Ae", "+Au"),
        SPECIFIED_KEY.replace("example", "other"),
        " " + SPECIFIED_KEY,
    ],
)
def test_malformed_verifier_key_is_refused(key: str) -> None:
    with pytest.raises(NoteError):
        parse_verifier(key)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
@pytest.mark.parametrize("signer", SIGNERS.values(), ids=SIGNERS)
def test_private_key_of_another_length_is_refused(
    signer: Callable[[str, bytes], Signer], seed: bytes
) -> None:
    with pytest.raises(NoteError):
        signer("log.example/one", seed)


@given(st.binary(max_size=300))
def test_bytes_of_anybody_open_or_are_refused_in_one_way(data: bytes) -> None:
    for made in (data, b"text\n\n\xe2\x80\x94 " + data, GOOD[:-9] + data):
        try:
            note = open_note(made, [LOG.verifier])
        except NoteError:
            continue
        assert note.text == "text\n"


def test_empty_tree_is_signed_and_opened() -> None:
    empty = Checkpoint("log.example/one", 0, EMPTY_ROOT)
    assert open_checkpoint(sign_note(empty.text, [LOG]), [LOG.verifier])[0] == empty
    with pytest.raises(NoteError, match="no checkpoint"):
        open_checkpoint(GOOD, [LOG.verifier])
