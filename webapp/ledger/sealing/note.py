"""Signed notes (c2sp.org/signed-note): a text, and lines that sign it.

Three kinds of signature are known: plain Ed25519, and the timestamped cosignatures of checkpoints
(c2sp.org/tlog-cosignature) by Ed25519 and by ML-DSA-44.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from webapp.ledger.sealing.checkpoint import (
    Checkpoint,
    CheckpointError,
    decode_base64,
    encode_base64,
    is_origin,
    parse_checkpoint,
)

NOTE_BYTES = 1_000_000
SIGNATURES = 100
"""The most signatures of a note, of any keys."""
KEY_BYTES = 4_096
"""The most bytes of a verifier key as text."""
SEED_BYTES = 32
"""What a private key is made from, of each kind."""

_DASH = "\u2014 "
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\ud800-\udfff]")
"""All but the newline, and the halves of characters, which no UTF-8 has."""
_MAX_TIME = 2**63 - 1


class NoteError(ValueError):
    """A note, or a key, that is malformed, not signed by a known key, or signed falsely."""


class SignatureType(IntEnum):
    """The kinds of signature, by the byte that the specification assigns."""

    ED25519 = 0x01
    COSIGNATURE = 0x04
    ML_DSA_44 = 0x06


_PUBLIC_BYTES = {
    SignatureType.ED25519: 32,
    SignatureType.COSIGNATURE: 32,
    SignatureType.ML_DSA_44: 1312,
}


@dataclass(frozen=True)
class Verifier:
    """A public key that verifies notes: its name, its kind and its bytes."""

    name: str
    type: SignatureType
    public_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not is_origin(self.name):
            raise NoteError("not the name of a key")
        if len(self.public_key) != _PUBLIC_BYTES[self.type]:
            raise NoteError("not a public key of its kind")

    @property
    def key_id(self) -> bytes:
        material = self.name.encode() + b"\n" + bytes([self.type]) + self.public_key
        return sha256(material).digest()[:4]

    def __str__(self) -> str:
        """The verifier key as everybody writes it: `name+id+key`."""
        material = encode_base64(bytes([self.type]) + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{material}"


@dataclass(frozen=True)
class Signature:
    """One line that signs a note."""

    name: str
    key_id: bytes
    payload: bytes = field(repr=False)

    @property
    def line(self) -> str:
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.payload)}\n"


@dataclass(frozen=True)
class VerifiedSignature:
    """A signature, the key that has made it, and the moment that it states, if its kind does."""

    signature: Signature
    verifier: Verifier
    time: int | None
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Note:
    """A note of which every signature by a known key is valid, and at least one is."""

    text: str
    verified: tuple[VerifiedSignature, ...]
    unknown: tuple[Signature, ...] = ()
    """Signatures by keys that nobody asked about: nothing is known of them."""

    def signed_by(self, verifier: Verifier) -> VerifiedSignature | None:
        """Return the key's signature, the newest where it has several."""
        made = [each for each in self.verified if each.verifier == verifier]
        return max(made, key=lambda each: each.time or 0, default=None)


@dataclass(frozen=True)
class Signer:
    """A private key that signs notes, and the public key that verifies them."""

    verifier: Verifier
    _sign: Callable[[str], bytes] = field(repr=False)

    def sign(self, text: str) -> Signature:
        return Signature(self.verifier.name, self.verifier.key_id, self._sign(text))


def ed25519_signer(name: str, seed: bytes) -> Signer:
    """Return the signer of plain signatures by this key."""
    key = Ed25519PrivateKey.from_private_bytes(_checked_seed(seed))
    verifier = Verifier(name, SignatureType.ED25519, key.public_key().public_bytes_raw())
    return Signer(verifier, lambda text: key.sign(text.encode()))


def cosigner(name: str, seed: bytes, at: int) -> Signer:
    """Return the signer of checkpoints by Ed25519, whose signatures state the moment `at`."""
    key = Ed25519PrivateKey.from_private_bytes(_checked_seed(seed))
    verifier = Verifier(name, SignatureType.COSIGNATURE, key.public_key().public_bytes_raw())
    return Signer(verifier, lambda text: _dated(at) + key.sign(_cosigned(text, at)))


def ml_dsa_44_cosigner(name: str, seed: bytes, at: int) -> Signer:
    """Return the signer of checkpoints by ML-DSA-44, whose signatures state the moment `at`."""
    key = MLDSA44PrivateKey.from_seed_bytes(_checked_seed(seed))
    verifier = Verifier(name, SignatureType.ML_DSA_44, key.public_key().public_bytes_raw())
    return Signer(verifier, lambda text: _dated(at) + key.sign(_subtree(text, name, at)))


def parse_verifier(text: str) -> Verifier:
    """Parse a verifier key; raises `NoteError` for one that is malformed or of another kind."""
    if len(text) > KEY_BYTES:
        raise NoteError("a verifier key that is too long")
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        material = decode_base64(encoded)
        verifier = Verifier(name, SignatureType(material[0]), material[1:])
    except (CheckpointError, ValueError, IndexError) as error:
        raise NoteError("not a verifier key of a known kind") from error
    if not _KEY_ID.fullmatch(key_id) or verifier.key_id.hex() != key_id:
        raise NoteError("a verifier key whose id is another's")
    return verifier


def sign_note(text: str, signers: Iterable[Signer]) -> bytes:
    """Return the text with a signature by each signer. It has to end in a newline."""
    if not _is_text(text):
        raise NoteError("not the text of a note")
    try:
        signatures = [signer.sign(text) for signer in signers]
    except CheckpointError as error:
        raise NoteError("a cosigner signs checkpoints only") from error
    if not signatures:
        raise NoteError("nobody signs")
    return format_note(text, signatures)


def open_note(data: bytes, verifiers: Iterable[Verifier]) -> Note:
    """Return the note, if a known key has signed it and no signature of a known key is wrong.

    Raises `NoteError` otherwise. Signatures of other keys prove nothing, and refute nothing.
    """
    known = _by_name_and_id(verifiers)
    text, signatures = split_note(data)
    verified, unknown = [], []
    for signature in signatures:
        verifier = known.get((signature.name, signature.key_id))
        if verifier is None:
            unknown.append(signature)
        else:
            verified.append(verify_signature(text, signature, verifier))
    if not verified:
        raise NoteError("not signed by a known key")
    return Note(text, tuple(verified), tuple(unknown))


def open_checkpoint(data: bytes, verifiers: Iterable[Verifier]) -> tuple[Checkpoint, Note]:
    """Return the checkpoint that a note is, and the note; raises `NoteError`, as above."""
    note = open_note(data, verifiers)
    try:
        return parse_checkpoint(note.text), note
    except CheckpointError as error:
        raise NoteError("a note that is no checkpoint") from error


def split_note(data: bytes) -> tuple[str, tuple[Signature, ...]]:
    """Return a note's text and its signatures, of which none has been verified."""
    if len(data) > NOTE_BYTES:
        raise NoteError("a note that is too long")
    try:
        note = data.decode()
    except UnicodeDecodeError as error:
        raise NoteError("a note that is not UTF-8") from error
    text, separator, lines = note.rpartition("\n\n")
    if not separator or not _is_text(text + "\n"):
        raise NoteError("not a text and signatures")
    return text + "\n", parse_signatures(lines)


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Parse lines that sign a note, as a witness answers them; there has to be one."""
    if not lines.endswith("\n") or lines.count("\n") > SIGNATURES:
        raise NoteError("no signature, or too many")
    return tuple(_parse_signature(line) for line in lines[:-1].split("\n"))


def format_note(text: str, signatures: Sequence[Signature]) -> bytes:
    """Return a note of a text and the signatures on it."""
    return f"{text}\n{''.join(each.line for each in signatures)}".encode()


def verify_signature(text: str, signature: Signature, verifier: Verifier) -> VerifiedSignature:
    """Return what the signature states; raises `NoteError` unless the key has made it."""
    if (signature.name, signature.key_id) != (verifier.name, verifier.key_id):
        raise NoteError("a signature of another key")
    payload = signature.payload
    try:
        match verifier.type:
            case SignatureType.ED25519:
                time = None
                _verify_ed25519(verifier, payload, text.encode())
            case SignatureType.COSIGNATURE:
                time = _time_of(payload)
                _verify_ed25519(verifier, payload[8:], _cosigned(text, time))
            case SignatureType.ML_DSA_44:
                time = _time_of(payload)
                key = MLDSA44PublicKey.from_public_bytes(verifier.public_key)
                key.verify(payload[8:], _subtree(text, verifier.name, time))
    except (InvalidSignature, ValueError) as error:
        raise NoteError(f"a wrong signature of {verifier.name}") from error
    return VerifiedSignature(signature, verifier, time)


def _verify_ed25519(verifier: Verifier, signature: bytes, message: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(verifier.public_key).verify(signature, message)


def _dated(at: int) -> bytes:
    if not 0 < at <= _MAX_TIME:
        raise NoteError("not a moment")
    return at.to_bytes(8, "big")


def _time_of(payload: bytes) -> int:
    time = int.from_bytes(payload[:8], "big")
    if len(payload) < 8 or time > _MAX_TIME:
        raise NoteError("not a moment")
    return time


def _cosigned(text: str, at: int) -> bytes:
    parse_checkpoint(text)  # a cosignature says something about checkpoints only
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _subtree(text: str, name: str, at: int) -> bytes:
    """What an ML-DSA-44 cosignature signs: the whole tree as a subtree, and who saw it when."""
    checkpoint = parse_checkpoint(text)
    return b"".join(
        [
            b"subtree/v1\n\0",
            _prefixed(name),
            at.to_bytes(8, "big"),
            _prefixed(checkpoint.origin),
            (0).to_bytes(8, "big"),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        ]
    )


def _prefixed(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def _parse_signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not _is_name(name):
        raise NoteError("not the line of a signature")
    try:
        data = decode_base64(encoded)
    except CheckpointError as error:
        raise NoteError("not the line of a signature") from error
    if len(data) < 5:
        raise NoteError("not the line of a signature")
    return Signature(name, data[:4], data[4:])


def _by_name_and_id(verifiers: Iterable[Verifier]) -> dict[tuple[str, bytes], Verifier]:
    known: dict[tuple[str, bytes], Verifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) != verifier:
            raise NoteError("two keys under one name and id")
    return known


def _is_name(text: str) -> bool:
    return bool(text) and "+" not in text and not any(c.isspace() for c in text)


def _is_text(text: str) -> bool:
    return text.endswith("\n") and _CONTROLS.search(text) is None


def _checked_seed(seed: bytes) -> bytes:
    if len(seed) != SEED_BYTES:
        raise NoteError("not a key of 32 bytes")
    return seed
