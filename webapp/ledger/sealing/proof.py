"""Proofs and policies as files (c2sp.org/tlog-proof, c2sp.org/tlog-policy)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from webapp.ledger.sealing.checkpoint import (
    Checkpoint,
    CheckpointError,
    decode_base64,
    encode_base64,
    parse_decimal,
)
from webapp.ledger.sealing.merkle import HASH_BYTES, ProofError, hash_leaf, verify_inclusion
from webapp.ledger.sealing.note import (
    NOTE_BYTES,
    Note,
    NoteError,
    SignatureType,
    VerifiedSignature,
    Verifier,
    open_checkpoint,
    parse_verifier,
)

PROOF_TYPE = "c2sp.org/tlog-proof@v1"
PROOF_BYTES = NOTE_BYTES + 65_536
HASHES = 64
"""The most hashes of a proof: no tree is higher."""
POLICY_BYTES = 262_144
POLICY_LINES = 1_000
"""The most lines of a policy, with those that only comment it."""

_LOG_KEYS = (SignatureType.ED25519, SignatureType.ML_DSA_44)
_WITNESS_KEYS = (SignatureType.COSIGNATURE, SignatureType.ML_DSA_44)
_NOBODY = "none"
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class PolicyError(ValueError):
    """A text that is no policy."""


@dataclass(frozen=True)
class InclusionProof:
    """The proof that the log has an entry: where, the hashes up to the root, the checkpoint."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes = field(repr=False)
    """The signed note, as it was issued."""
    extra: bytes = b""
    """What the proof's maker has added; nothing proves it."""

    @property
    def text(self) -> bytes:
        """The file, whose name ends in `.tlog-proof`."""
        extra = [f"extra {encode_base64(self.extra)}"] if self.extra else []
        lines = [PROOF_TYPE, *extra, f"index {self.index}", *map(encode_base64, self.hashes)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint

    def verify(self, entry: bytes, policy: "Policy") -> Checkpoint:
        """Return the checkpoint that the entry is in; raises `ProofError` if it proves nothing."""
        opened = policy.open(self.checkpoint)
        checkpoint = opened.checkpoint
        leaf = hash_leaf(entry)
        verify_inclusion(self.index, checkpoint.size, leaf, self.hashes, checkpoint.root)
        return checkpoint


def parse_proof(data: bytes) -> InclusionProof:
    """Parse a proof's file; raises `ProofError` for anything else."""
    if len(data) > PROOF_BYTES:
        raise ProofError("a proof that is too long")
    head, separator, checkpoint = data.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
        extra = _take(lines, "extra ")
        index = _take(lines, "index ")
        if not separator or first != PROOF_TYPE or index is None or extra == "":
            raise ProofError("not a proof of inclusion")
        proof = InclusionProof(
            parse_decimal(index),
            tuple(map(decode_base64, lines)),
            checkpoint,
            decode_base64(extra) if extra else b"",
        )
    except (CheckpointError, UnicodeDecodeError) as error:
        raise ProofError("not a proof of inclusion") from error
    if len(lines) > HASHES or any(len(each) != HASH_BYTES for each in proof.hashes):
        raise ProofError("not the hashes of a proof")
    return proof


def _take(lines: list[str], prefix: str) -> str | None:
    """Remove the first line, if it begins so, and return what follows."""
    if lines and lines[0].startswith(prefix):
        return lines.pop(0).removeprefix(prefix)
    return None


@dataclass(frozen=True)
class Peer:
    """A log or a witness of a policy."""

    verifier: Verifier
    url: str | None = None


@dataclass(frozen=True)
class Group:
    """Witnesses, or groups of them, of which so many have to have seen a checkpoint."""

    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint that a policy accepts."""

    checkpoint: Checkpoint
    note: Note
    witnesses: Mapping[str, VerifiedSignature]
    """The newest cosignature of each witness of the policy that has made one."""


@dataclass(frozen=True)
class Policy:
    """Whose checkpoints are believed: the logs, the witnesses, and how many of those."""

    logs: tuple[Peer, ...] = ()
    witnesses: Mapping[str, Peer] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    """In an order in which each names only witnesses and groups before it."""
    quorum: str = _NOBODY

    def open(self, data: bytes) -> OpenedCheckpoint:
        """Return the checkpoint of a note; raises `ProofError` unless the policy accepts it."""
        try:
            checkpoint, note = open_checkpoint(data, self._verifiers)
        except NoteError as error:
            raise ProofError(str(error)) from error
        by_log = [note.signed_by(log.verifier) for log in self.logs]
        if not any(made and made.verifier.name == checkpoint.origin for made in by_log):
            raise ProofError("not signed by the log that it names")
        made = {name: note.signed_by(peer.verifier) for name, peer in self.witnesses.items()}
        witnesses = {name: signature for name, signature in made.items() if signature}
        if not self._is_met(set(witnesses)):
            raise ProofError("not seen by the witnesses that the policy demands")
        return OpenedCheckpoint(checkpoint, note, witnesses)

    @cached_property
    def _verifiers(self) -> tuple[Verifier, ...]:
        return tuple(peer.verifier for peer in (*self.logs, *self.witnesses.values()))

    def _is_met(self, seen: set[str]) -> bool:
        for name, group in self.groups.items():
            if len(seen.intersection(group.members)) >= group.needed:
                seen.add(name)
        return self.quorum == _NOBODY or self.quorum in seen

    @property
    def text(self) -> str:
        """The file."""
        logs = [_line("log", peer.verifier, peer.url) for peer in self.logs]
        witnesses = [
            _line("witness", name, peer.verifier, peer.url) for name, peer in self.witnesses.items()
        ]
        groups = [
            _line("group", name, group.needed, *group.members)
            for name, group in self.groups.items()
        ]
        return "".join([*logs, *witnesses, *groups, _line("quorum", self.quorum)])


def _line(*items: object) -> str:
    return " ".join([str(item) for item in items if item is not None]) + "\n"


def parse_policy(text: str) -> Policy:
    """Parse a policy's file; raises `PolicyError`, with the number of the line, for anything else.

    Whatever a policy may say is read, and nothing beside it: a line that was misread would believe
    somebody else.
    """
    lines = text.split("\n")
    if len(text) > POLICY_BYTES or len(lines) > POLICY_LINES:
        raise PolicyError("a policy that is too long")
    parser = _PolicyParser()
    for number, line in enumerate(lines, 1):
        try:
            parser.read(line)
        except PolicyError as error:
            raise PolicyError(f"line {number}: {error}") from error
    return parser.finish()


class _PolicyParser:
    """What the lines of a policy have said so far."""

    def __init__(self) -> None:
        self._logs: list[Peer] = []
        self._witnesses: dict[str, Peer] = {}
        self._groups: dict[str, Group] = {}
        self._quorum: str | None = None

    def read(self, line: str) -> None:
        if _CONTROLS.search(line):
            raise PolicyError("a control character")
        match re.split(r"[ \t]+", line.strip(" \t")):
            case [""]:
                pass
            case [first, *_] if first.startswith("#"):
                pass
            case ["log", key, *url] if len(url) <= 1:
                self._logs.append(self._peer(key, url, _LOG_KEYS, self._logs))
            case ["witness", name, key, *url] if len(url) <= 1:
                peers = list(self._witnesses.values())
                self._witnesses[self._new(name)] = self._peer(key, url, _WITNESS_KEYS, peers)
            case ["group", name, needed, *members] if members:
                self._groups[self._new(name)] = self._group(needed, members)
            case ["quorum", name] if self._quorum is None:
                if name != _NOBODY:
                    self._known(name)
                self._quorum = name
            case _:
                raise PolicyError("not a line of a policy")

    def finish(self) -> Policy:
        if self._quorum is None:
            raise PolicyError("no quorum")
        return Policy(tuple(self._logs), self._witnesses, self._groups, self._quorum)

    @staticmethod
    def _peer(
        key: str, url: list[str], types: Sequence[SignatureType], others: Sequence[Peer]
    ) -> Peer:
        try:
            verifier = parse_verifier(key)
        except NoteError as error:
            raise PolicyError(str(error)) from error
        if verifier.type not in types:
            raise PolicyError("a key for something else")
        if any(verifier.public_key == other.verifier.public_key for other in others):
            raise PolicyError("a key that another line has")
        return Peer(verifier, url[0] if url else None)

    def _group(self, needed: str, members: list[str]) -> Group:
        for member in members:
            self._known(member)
        if len(set(members)) < len(members):
            raise PolicyError("a member that is named twice")
        match needed:
            case "any":
                return Group(1, tuple(members))
            case "all":
                return Group(len(members), tuple(members))
        try:
            count = parse_decimal(needed)
        except CheckpointError as error:
            raise PolicyError("not a number of members") from error
        if not 1 <= count <= len(members):
            raise PolicyError("not a number of members")
        return Group(count, tuple(members))

    def _new(self, name: str) -> str:
        if name == _NOBODY or name in self._witnesses or name in self._groups:
            raise PolicyError("a name that is taken")
        return name

    def _known(self, name: str) -> None:
        if name not in self._witnesses and name not in self._groups:
            raise PolicyError("a name that no line before has given")
