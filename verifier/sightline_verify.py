#!/usr/bin/env python3
"""Check what Sightline says of accesses, without trusting Sightline or whoever runs its database.

    sightline_verify.py export FILE --policy POLICY     an export of the ledger
    sightline_verify.py proof FILE --policy POLICY      the proof of one event
    sightline_verify.py monitor URL --policy POLICY     a log as it grows

It needs Python 3.11 and `cryptography`, and nothing of Sightline's. POLICY says whom to believe: a
file as c2sp.org/tlog-policy has it, which must come another way than what it checks.

Each finding is a line: a word, and what it is about. Exit codes: 0 the proof holds, 1 it does not,
2 it was asked for wrongly, 3 it could not be finished.
"""

import argparse
import binascii
import json
import multiprocessing
import os
import re
import sys
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

GOOD, FAILED, USAGE, UNFINISHED = 0, 1, 2, 3

FAULTS = (
    "edited",
    "deleted",
    "inserted",
    "reordered",
    "truncated",
    "forked",
    "incomplete",
    "duplicated",
    "frozen",
    "bad signature",
)
"""Words of what must not be: one of them makes the exit code 1."""
REMARKS = ("pending", "withheld", "redacted", "purged", "unanchored")
"""Words of what a reader should know."""

SHOWN = 20
"""How many findings of one word are shown. All are counted."""
MAX_LINE = 2**24
MAX_FILE = 2**20
"""Bytes of a policy, a proof or a note, and of a checkpoint over HTTP."""
MAX_SIZE = 2**63 - 1
MAX_LABELS = 200_000
MAX_RANGES = 10_000
"""How many holes are kept in mind, in entries and in numbers."""
BATCH = 2**18
"""Bytes of an export that a process checks at once."""
PAYS = 2**22
"""Bytes from which on an export is worth several processes."""
SEAL_WITHIN = timedelta(hours=1)
"""The time within which a committed event has to be sealed."""

UNITS = ("event", "actor", "reason", "request", "decision", "excluded")
"""The parts of an event that can be withheld, in the order of the commitment."""
SORTED_UNITS = tuple(sorted(UNITS))
ALL, PLATFORM, HEARTBEAT = "all", "platform", "heartbeat"
"""Labels of the series that are no tenant's."""

ED25519, COSIGNATURE, MLDSA = 0x01, 0x04, 0x06
KEY_BYTES = {ED25519: 32, COSIGNATURE: 32, MLDSA: 1312}


class Malformed(ValueError):
    """Input that is not in its one form."""


NOT_FIELDS = (AttributeError, KeyError, TypeError, UnicodeError)
"""What a value raises that has not the fields, or the kinds of fields, that are read from it."""


class Usage(Exception):
    """A question that cannot be answered, as it is put."""


class Unfinished(Exception):
    """A check that could not come to its end."""


# --- What is found -------------------------------------------------------------------------------


@dataclass
class Report:
    """The findings so far; each is printed as it is found."""

    as_json: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def find(self, word: str, text: str, **facts: object) -> None:
        self.counts[word] += 1
        if self.counts[word] <= SHOWN:
            self._print(word, text, facts)

    def end(self, text: str, **facts: object) -> int:
        """Print the verdict; return the exit code."""
        for word, count in self.counts.items():
            if count > SHOWN:
                self._print(word, f"{count - SHOWN} more")
        faults = [word for word in FAULTS if self.counts[word]]
        code = FAILED if faults else GOOD
        if faults:
            text = f"The proof fails: {', '.join(faults)}."
        if self.as_json:
            words = {word: self.counts[word] for word in sorted(self.counts)}
            line = {"verdict": "failed" if faults else "good", "exit": code, "text": text}
            say(encode({**line, "found": words, **facts}))
        else:
            say(text)
        return code

    def give_up(self, why: str) -> int:
        """Say that there is no verdict; return the exit code."""
        if self.as_json:
            say(encode({"verdict": "unfinished", "exit": UNFINISHED, "text": why}))
        else:
            say(f"Not finished: {why}.")
        return UNFINISHED

    def _print(self, word: str, text: str, facts: Mapping[str, object] | None = None) -> None:
        if self.as_json:
            say(encode({"finding": word, "text": text, **(facts or {})}))
        else:
            say(f"{word}: {text}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def shown(text: object, longest: int = 120) -> str:
    """Text of others' as it can be printed: no control characters, and not too much of it."""
    printable = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)
    )
    return printable if len(printable) <= longest else f"{printable[:longest]}…"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- JSON and Base64 in their one form -----------------------------------------------------------


def _refuse_number(text: str) -> None:
    raise Malformed(f"the number {shown(text)}")


def _integer(text: str) -> int:
    if len(text) > 16:
        raise Malformed("a number that not every reader has")
    return int(text)


_DECODER = json.JSONDecoder(
    parse_float=_refuse_number, parse_constant=_refuse_number, parse_int=_integer
)
_ENCODER = json.JSONEncoder(
    ensure_ascii=False,
    sort_keys=True,
    separators=(",", ":"),
    allow_nan=False,
    check_circular=False,
)
encode = _ENCODER.encode
"""The form of RFC 8785, for texts with ASCII keys, integers, booleans, null, lists and objects."""


def decode(text: str) -> Any:
    """Parse JSON. Whether it is in its one form shows when it is written again."""
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if end != len(text):
        raise Malformed("more than one JSON value")
    return value


def decode_canonical(line: bytes) -> Any:
    """Parse JSON that is in its one form; this refuses doubled keys and other ways to write it."""
    text = _text(line)
    value = decode(text)
    if _encoded(value) != text:
        raise Malformed("not the one form of its JSON")
    return value


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed("not UTF-8") from error


def _encoded(value: Any) -> str:
    try:
        return encode(value)
    except RecursionError as error:
        raise Malformed("too deep") from error


def unpadded(data: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")


def from_unpadded(text: object, length: int) -> bytes:
    """Decode Base64url without padding, in its one form, of so many bytes."""
    if not isinstance(text, str) or not text.isascii():
        raise Malformed("not Base64url")
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise Malformed("not Base64url") from error
    if len(data) != length or unpadded(data) != text:
        raise Malformed(f"not Base64url of {length} bytes")
    return data


def from_base64(text: str) -> bytes:
    """Decode padded standard Base64 in its one form."""
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("not Base64") from error
    if b64encode(data).decode() != text:
        raise Malformed("not the one form of Base64")
    return data


def number_from(text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text) or int(text) > MAX_SIZE:
        raise Malformed("not a decimal number")
    return int(text)


def moment_from(text: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise Malformed("not a moment") from error
    if moment.tzinfo is None:
        raise Malformed("a moment without an offset")
    return moment


# --- Merkle trees (RFC 6962) ---------------------------------------------------------------------


def hash_leaf(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def cover(start: int, end: int) -> Iterator[int]:
    """The levels of the fewest complete subtrees that make up the leaves from `start` to `end`."""
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level
        start += 1 << level


class Range:
    """Leaves that follow one another, as the fewest complete subtrees: what a tree grows from."""

    def __init__(self, start: int = 0) -> None:
        self.start = self.end = start
        self.nodes: list[tuple[int, int, bytes]] = []
        """Level, first leaf and hash of each."""

    def append(self, level: int, subtree: bytes) -> None:
        start = self.end
        self.end += 1 << level
        while self.nodes:
            left_level, left_start, left = self.nodes[-1]
            if left_level != level or (left_start >> level) & 1:
                break
            self.nodes.pop()
            subtree, start, level = hash_children(left, subtree), left_start, level + 1
        self.nodes.append((level, start, subtree))

    def copy(self) -> "Range":
        other = Range(self.start)
        other.end, other.nodes = self.end, list(self.nodes)
        return other

    def root(self) -> bytes:
        """The root of the tree that has these leaves, and none before them."""
        if not self.nodes:
            return sha256(b"").digest()
        folded = self.nodes[-1][2]
        for _, _, left in self.nodes[-2::-1]:
            folded = hash_children(left, folded)
        return folded

    def hashes(self) -> list[str]:
        return [unpadded(subtree) for _, _, subtree in self.nodes]

    @classmethod
    def of(cls, end: int, hashes: Sequence[str]) -> "Range":
        """The leaves up to `end`, from the hashes of their subtrees."""
        range_, levels = cls(), list(cover(0, end))
        if len(levels) != len(hashes):
            raise Malformed("not the subtrees of a tree of this size")
        for level, subtree in zip(levels, hashes, strict=True):
            range_.append(level, from_unpadded(subtree, 32))
        return range_


Halves = tuple[Range, Range]
"""A tree's entries up to a size, and those from there on."""


def root_by_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root to which an inclusion proof leads (RFC 9162 §2.1.3.2)."""
    if not index < size:
        raise Malformed("the tree has no leaf of this index")
    node, last, root = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Malformed("the proof is too long")
        if node & 1 or node == last:
            root = hash_children(sibling, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = hash_children(root, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise Malformed("the proof is too short")
    return root


# --- Keys, notes, checkpoints, policies (C2SP) ---------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A key that signs notes, under its name."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]


def key_from(text: str) -> Key:
    """Parse a verifier key: `name+id+base64`."""
    name, identity, encoded = (*text.split("+", 2), "", "")[:3]
    data = from_base64(encoded)
    if not name or not data or KEY_BYTES.get(data[0]) != len(data) - 1:
        raise Malformed("not a verifier key")
    key = Key(name, data[0], data[1:])
    if key.id.hex() != identity:
        raise Malformed("a verifier key with another key's id")
    return key


@dataclass(frozen=True)
class Signed:
    """A valid signature on a note."""

    key: Key
    at: int | None
    """When it was made, in seconds, by its own words."""


class BadSignature(Exception):
    """A note that a known key is said to have signed, and has not."""


def open_note(note: str, keys: Iterable[Key]) -> tuple[str, list[Signed]]:
    """Split a note into its text and the valid signatures of these keys."""
    text, blank, signatures = note.rpartition("\n\n")
    if not blank or not signatures.endswith("\n") or len(note) > MAX_FILE:
        raise Malformed("not a signed note")
    if any(c < " " and c != "\n" for c in note):
        raise Malformed("a control character in a note")
    text, known = f"{text}\n", {(key.name, key.id): key for key in keys}
    lines = signatures[:-1].split("\n")
    if len(lines) > 100:
        raise Malformed("too many signatures")
    found = []
    for line in lines:
        name, data = _signature_from(line)
        key = known.get((name, data[:4]))
        if key is not None:
            found.append(_verified(key, text, data[4:]))
    return text, found


def _signature_from(line: str) -> tuple[str, bytes]:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    data = from_base64(encoded)
    if dash != "—" or not name or len(data) < 5:
        raise Malformed("not a signature line")
    return name, data


def _verified(key: Key, text: str, data: bytes) -> Signed:
    at = None
    if key.kind != ED25519:
        at, data = int.from_bytes(data[:8], "big"), data[8:]
    try:
        if key.kind == MLDSA:
            message = _subtree_message(key, text, at or 0)
            mldsa.MLDSA44PublicKey.from_public_bytes(key.public).verify(data, message)
        else:
            head = "" if at is None else f"cosignature/v1\ntime {at}\n"
            Ed25519PublicKey.from_public_bytes(key.public).verify(data, (head + text).encode())
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"the signature of {shown(key.name)} is wrong") from error
    except UnsupportedAlgorithm as error:
        raise Unfinished("this machine's cryptography has no ML-DSA-44") from error
    return Signed(key, at)


def _subtree_message(key: Key, text: str, at: int) -> bytes:
    origin, size, root = _tree_from(text)
    name, origin_bytes = key.name.encode(), origin.encode()
    return b"".join(
        (
            b"subtree/v1\n\x00",
            bytes([len(name)]) + name,
            at.to_bytes(8, "big"),
            bytes([len(origin_bytes)]) + origin_bytes,
            bytes(8),
            size.to_bytes(8, "big"),
            root,
        )
    )


def _tree_from(text: str) -> tuple[str, int, bytes]:
    origin, size, root, *_ = (*text.split("\n"), "", "", "")
    data = from_base64(root)
    if not origin or len(data) != 32:
        raise Malformed("not a checkpoint")
    return origin, number_from(size), data


@dataclass(frozen=True)
class Checkpoint:
    """The tree of a log at one size, as one of the policy's logs has signed it."""

    origin: str
    size: int
    root: bytes
    note: str
    witnesses: tuple[str, ...]
    """The policy's names of those that have cosigned it."""
    at: int | None
    """When it was the log's newest, in seconds, by the latest valid signature with a time."""


@dataclass(frozen=True)
class Group:
    needed: int
    members: tuple[str, ...]


@dataclass
class Policy:
    """Whom to believe, and what has been seen before."""

    logs: list[Key] = field(default_factory=list)
    witnesses: dict[str, Key] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    quorum: str | None = None
    pinned: dict[str, Checkpoint] = field(default_factory=dict)
    """An earlier checkpoint of each log, by its origin."""
    series: dict[str, str] = field(default_factory=dict)
    """The tenant of each label."""
    signers: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Kind of process and public key of those that sign events, by fingerprint."""

    def open(self, note: str) -> Checkpoint:
        """Open a checkpoint; raises `BadSignature` unless a log and the quorum have signed it."""
        # The log's own cosignature, under the same key, says when.
        timed = [Key(key.name, COSIGNATURE, key.public) for key in self.logs if key.kind == ED25519]
        text, found = open_note(note, [*self.logs, *timed, *self.witnesses.values()])
        origin, size, root = _tree_from(text)
        by = {signed.key for signed in found}
        if not any(key in by and key.name == origin for key in self.logs):
            raise BadSignature(f"no key that the policy has for {shown(origin)} has signed this")
        names = tuple(name for name, key in self.witnesses.items() if key in by)
        if self.quorum and not self._has(self.quorum, names):
            raise BadSignature(
                f"the witnesses that the policy asks for, {self.quorum}, have not"
                f" all cosigned: {', '.join(names) or 'nobody'} has"
            )
        at = max((signed.at for signed in found if signed.at), default=None)
        return Checkpoint(origin, size, root, note, names, at)

    def _has(self, name: str, cosigned: Sequence[str]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in cosigned
        return sum(self._has(member, cosigned) for member in group.members) >= group.needed


def policy_from(data: bytes) -> Policy:
    """Parse a policy; raises `Malformed` with the number of the line that is wrong."""
    policy, pins, quorums = Policy(), [], 0
    for number, line in enumerate(_text(data).split("\n"), 1):
        words = line.split()
        try:
            match words:
                case ["log", key] | ["log", key, _]:
                    policy.logs.append(key_from(key))
                case ["witness", name, key] | ["witness", name, key, _]:
                    _define(policy, name)
                    policy.witnesses[name] = key_from(key)
                case ["group", name, needed, _, *_]:
                    _define(policy, name)
                    policy.groups[name] = _group_from(policy, needed, tuple(words[3:]))
                case ["quorum", name]:
                    quorums += 1
                    policy.quorum = None if name == "none" else _defined(policy, name)
                case ["#sightline", "checkpoint", note]:
                    pins.append(_text(from_base64(note)))
                case ["#sightline", "series", label, *name]:
                    policy.series[label] = " ".join(name) or label
                case ["#sightline", "key", kind, fingerprint, key]:
                    policy.signers[fingerprint] = kind, from_unpadded(key, 32)
                case ["#sightline", *_]:
                    raise Malformed("not a pin")
                case [] | [_, *_] if not words or words[0].startswith("#"):
                    pass
                case _:
                    raise Malformed("not a line of a policy")
        except Malformed as error:
            raise Malformed(f"line {number} of the policy: {error}") from error
    if quorums != 1 or not policy.logs:
        raise Malformed("a policy has at least one log, and one quorum")
    for note in pins:
        _pin(policy, note)
    return policy


def _pin(policy: Policy, note: str) -> None:
    """Pin a checkpoint; it had the witnesses that it had, whatever the policy asks for now."""
    log_only = Policy(logs=policy.logs)
    try:
        checkpoint = log_only.open(note)
    except BadSignature as error:
        raise Malformed(f"the checkpoint that the policy pins: {error}") from error
    known = policy.pinned.get(checkpoint.origin)
    if known is None or known.size < checkpoint.size:
        policy.pinned[checkpoint.origin] = checkpoint


def _define(policy: Policy, name: str) -> None:
    if name == "none" or name in policy.witnesses or name in policy.groups:
        raise Malformed("a name that is taken")


def _defined(policy: Policy, name: str) -> str:
    if name not in policy.witnesses and name not in policy.groups:
        raise Malformed(f"{shown(name)} is not defined before")
    return name


def _group_from(policy: Policy, needed: str, members: tuple[str, ...]) -> Group:
    taken = {member for group in policy.groups.values() for member in group.members}
    if len(set(members)) != len(members) or taken & set(members):
        raise Malformed("a member of two groups")
    for member in members:
        _defined(policy, member)
    count = {"all": len(members), "any": 1}.get(needed)
    count = number_from(needed) if count is None else count
    if not 1 <= count <= len(members):
        raise Malformed("a group that can never be complete")
    return Group(count, members)


def read_file(path: Path, most: int = MAX_FILE) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}") from error
    if len(data) > most:
        raise Usage(f"{path}: larger than {most} bytes")
    return data


def read_policy(path: Path) -> Policy:
    try:
        return policy_from(read_file(path))
    except Malformed as error:
        raise Usage(f"{path}: {error}") from error


def witnessed_by(checkpoint: Checkpoint) -> str:
    *others, last = checkpoint.witnesses or ("nobody",)
    return f"{', '.join(others)} and {last}" if others else last


def check_fresh(report: Report, checkpoint: Checkpoint, as_of: datetime, within: timedelta) -> None:
    """Find a log frozen whose newest checkpoint is too old."""
    if checkpoint.at is None:
        report.find("unanchored", "no valid signature says when the checkpoint was made")
        return
    age = as_of.timestamp() - checkpoint.at
    if age > within.total_seconds():
        report.find(
            "frozen",
            f"the newest checkpoint of {shown(checkpoint.origin)} is of {_moment(checkpoint.at)},"
            f" older than {within}",
        )


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError):
        return f"second {seconds}"


# --- Entries -------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """What a line says of one event, once it has been compared with the event's commitment."""

    series: tuple[tuple[str, int], ...] = ()
    leaf: bytes = b""
    """The hash of the leaf; empty where the event is not sealed."""
    position: int = -1
    gap: tuple[bytes, ...] = ()
    """The hashes of the subtrees between this entry and the one before it."""
    first: int = 0
    """The first entry of the gap."""
    kind: str | None = None
    """`access` or `change`; `None` where the line does not show it."""
    tenant: str | None = None
    """The id of the tenant that the event is about."""
    expected: str | None = None
    """The label of the series in which an event of no tenant belongs."""
    committed_at: str | None = None
    withheld: int = 0
    redacted: int = 0
    state: str = ""
    """`withheld`, `purged`, `deleted` or `pending` where the line is not all there."""
    faults: tuple[tuple[str, str], ...] = ()
    signature: str = ""
    """`checked`, `missing`, or empty where it was not looked at."""


Signers = Mapping[str, tuple[str, bytes]]

_KEYS = frozenset(("commitment", "from", "gap", "index", "series"))
_SIGNED = frozenset(("salt", "origin_signature"))
_PENDING = frozenset(("commitment", "committed_at", "pending", "units"))


def check_line(line: bytes, signers: Signers) -> Shown | dict[str, Any] | Malformed:
    """Check one line of an export by itself.

    Returns what it shows of an event, the value of another line, or why it is neither.
    """
    try:
        if line.startswith(b'{"commitment":'):
            return _entry_from(line, signers)
        value = decode_canonical(line)
        if not isinstance(value, dict) or len(value) != 1:
            raise Malformed("no line of an export")
        return value
    except Malformed as error:
        return error
    except NOT_FIELDS:
        return Malformed("not the fields of an entry, or not of their kind")


def _entry_from(line: bytes, signers: Signers) -> Shown:
    text = _text(line)
    value = decode(text)
    keys = value.keys() - _SIGNED
    if keys == _PENDING:
        units = _units_of(value, text)
        return _shown(value, units, signers, committed_at=value["committed_at"], state="pending")
    if keys - {"units", "withheld", "purged"} != _KEYS:
        raise Malformed("not the fields of an entry")
    index, first = _index_of(value, "index"), _index_of(value, "from")
    if first > index:
        raise Malformed("a gap that begins after its end")
    place = {"position": index, "first": first, "gap": _gap_of(value), **leaf_of(value)}
    if "units" in value:
        return _shown(value, _units_of(value, text), signers, **place)
    if _encoded(value) != text:
        raise Malformed("not the one form of its JSON")
    if any(value.get(name, True) is not True for name in ("withheld", "purged")):
        raise Malformed("a mark that is not true")
    state = next((name for name in ("withheld", "purged") if name in value), "deleted")
    return Shown(state=state, **place)


def _index_of(value: Mapping[str, Any], name: str) -> int:
    index = value[name]
    if type(index) is not int or not 0 <= index < MAX_SIZE:
        raise Malformed("not the index of an entry")
    return index


def _gap_of(value: Mapping[str, Any]) -> tuple[bytes, ...]:
    gap = value["gap"]
    if not isinstance(gap, list) or len(gap) > 256:
        raise Malformed("not the hashes of a gap")
    return tuple([from_unpadded(each, 32) for each in gap])


_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")


def series_of(value: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    series = value["series"]
    if not isinstance(series, list) or not 0 < len(series) <= 16:
        raise Malformed("not the numbers of series")
    found = []
    for each in series:
        if not isinstance(each, list) or len(each) != 2:
            raise Malformed("not the number of a series")
        label, number = each
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise Malformed("not the label of a series")
        if type(number) is not int or number < 1:
            raise Malformed("not the number of a series")
        found.append((label, number))
    return tuple(found)


def leaf_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's numbers, and the hash of the leaf that they make with its commitment."""
    commitment, numbers = value["commitment"], series_of(value)
    if not isinstance(commitment, str) or len(commitment) != 43:
        raise Malformed("not a commitment")
    series = ",".join([f'["{label}",{number}]' for label, number in numbers])
    content = f'{{"commitment":"{commitment}","series":[{series}]}}'
    return {"series": numbers, "leaf": hash_leaf(b"\x01" + content.encode())}


class Units(NamedTuple):
    """The parts of an event that a line shows, and the digests of all of them."""

    values: Mapping[str, Any]
    commitment: str
    redacted: int


def _units_of(value: Mapping[str, Any], text: str | None) -> Units:
    """Read the units of a line, and compare the line with its one form.

    What is written again is what is hashed: so no other way to write the line gets through.
    """
    units = value["units"]
    if not isinstance(units, dict) or len(units) != len(UNITS):
        raise Malformed("not the units of an event")
    rest = {name: each for name, each in value.items() if name != "units"}
    beginning, *contents = _written_apart(
        [rest, *[units[name].get("value") for name in SORTED_UNITS]]
    )
    written, digests, values, redacted = [], {}, {}, 0
    for name, content in zip(SORTED_UNITS, contents, strict=True):
        unit = units[name]
        if "salt" in unit:
            salt = _salt_of(unit)
            digests[name] = digest_text(f'["{salt}","{name}",{content}]')
            values[name] = unit["value"]
            written.append(f'"{name}":{{"salt":"{salt}","value":{content}}}')
        else:
            digests[name] = _withheld_digest(unit)
            redacted += len(unit) - 1
            written.append(f'"{name}":{_encoded(unit)}')
    if text is not None and f'{beginning[:-1]},"units":{{{",".join(written)}}}}}' != text:
        raise Malformed("not the one form of its JSON")
    listed = '","'.join([digests[name] for name in UNITS])
    return Units(values, digest_text(f'["{listed}"]'), redacted)


_APART = "\0"
"""A text that no event has."""


def _written_apart(values: Sequence[Any]) -> list[str]:
    """Write several values, each by itself. To write them at once takes half of the time."""
    between: list[Any] = [_APART] * (2 * len(values) - 1)
    between[::2] = values
    parts = _encoded(between)[1:-1].split(',"\\u0000",')
    if len(parts) != len(values):
        raise Malformed("a text with a NUL")
    return parts


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def digest_text(text: str) -> str:
    """The SHA-256 of a text, as Base64url without padding."""
    digest = sha256(text.encode()).digest()
    return binascii.b2a_base64(digest, newline=False).translate(_URL_SAFE)[:-1].decode("ascii")


def _salt_of(unit: Mapping[str, Any]) -> str:
    salt = unit["salt"]
    if len(unit) != 2 or not isinstance(salt, str) or len(salt) != 22:
        raise Malformed("not a unit of an event")
    return salt


def _withheld_digest(unit: Mapping[str, Any]) -> str:
    digest = unit.get("digest")
    if unit.keys() - {"redacted"} != {"digest"} or unit.get("redacted", True) is not True:
        raise Malformed("not a unit of an event")
    from_unpadded(digest, 32)
    return str(digest)


def _shown(value: Mapping[str, Any], units: Units, signers: Signers, **place: Any) -> Shown:
    faults, signature = [], ""
    event = units.values.get("event", {})
    decision = units.values.get("decision")
    if not isinstance(event, dict) or not isinstance(decision or {}, dict):
        raise Malformed("not an event")
    if units.commitment != value["commitment"]:
        what = shown(event.get("id", "withheld"))
        faults.append(("edited", f"what is shown of event {what} is not what was committed to"))
    if signers and len(units.values) == len(UNITS):
        problem = _problem_of_signature(value, units.values, signers)
        signature = "missing" if problem == "" else "checked"
        if problem:
            faults.append(("bad signature", f"event {shown(event.get('id'))}: {problem}"))
    scope = event.get("scope") or {}
    if not isinstance(scope, dict):
        raise Malformed("not a scope")
    tenant = scope.get("tenant_id")
    return Shown(
        kind=event.get("kind"),
        tenant=None if tenant is None else str(tenant),
        expected=_series_without_tenant(event, scope, decision) if tenant is None else None,
        withheld=len(UNITS) - len(units.values) - units.redacted,
        redacted=units.redacted,
        faults=tuple(faults),
        signature=signature,
        **place,
    )


def _series_without_tenant(event: Any, scope: Any, decision: Any) -> str | None:
    if not event or decision is None:
        return None
    seen_by_all = (scope.get("kind"), event.get("kind"), decision.get("effect")) == (
        "global",
        "access",
        "allowed",
    )
    return ALL if seen_by_all else PLATFORM


def _problem_of_signature(
    value: Mapping[str, Any], units: Mapping[str, Any], signers: Signers
) -> str | None:
    """What is wrong with an event's signature; empty where it has none and needs none."""
    access = units["event"].get("kind") != "change"
    signature = value.get("origin_signature")
    if signature is None:
        return "an access without the signature of its web host" if access else ""
    fingerprint, _, encoded = str(signature).partition(":")
    if fingerprint not in signers:
        return "signed under a key that the policy does not have"
    kind, public = signers[fingerprint]
    request = units["request"]
    if access and kind != "web" and not (kind == "commands" and request.get("method") == "CLI"):
        return f"an access under the key of a process that is no web host: {shown(kind)}"
    try:
        data = from_unpadded(encoded, 64)
        message = b"sightline event v1\n" + encode(_event_from(value, units)).encode()
        Ed25519PublicKey.from_public_bytes(public).verify(data, message)
    except (InvalidSignature, Malformed, ValueError):
        return f"not signed by {shown(fingerprint)}, under whose name it comes"
    return None


def _event_from(value: Mapping[str, Any], units: Mapping[str, Any]) -> dict[str, Any]:
    """The event as it was signed, from its units and its salt."""
    actor, request = dict(units["actor"]), dict(units["request"])
    return {
        **units["event"],
        "via": actor.pop("via", None),
        "terms": request.pop("terms", None),
        "actor": actor,
        "reason": units["reason"],
        "request": request,
        "decision": {**units["decision"], "excluded": units["excluded"]},
        "salt": value.get("salt"),
    }


# --- An export -----------------------------------------------------------------------------------


class Holes:
    """Numbers that were passed over, and may still come."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def add(self, first: int, last: int) -> None:
        if len(self.ranges) >= MAX_RANGES:
            raise Unfinished("too many numbers are missing to name them all")
        self.ranges.append((first, last))

    def fill(self, first: int, last: int) -> bool:
        """Whether the last number was missing; no number from the first on is missing longer."""
        missing = any(start <= last <= end for start, end in self.ranges)
        parts = [
            part
            for start, end in self.ranges
            for part in ((start, min(end, first - 1)), (max(start, last + 1), end))
            if part[0] <= part[1]
        ]
        self.ranges = parts if missing else self.ranges
        return missing


def numbers(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


class Series:
    """The numbers of one series that an export has."""

    def __init__(self, number: int) -> None:
        self.first = self.last = number
        self.holes = Holes()

    def go_on(self, number: int) -> str | None:
        """Take the next number; return what is wrong with it."""
        if number == self.last + 1:
            self.last = number
        elif number > self.last:
            self.holes.add(self.last + 1, number - 1)
            self.last = number
        else:
            return "reordered" if self.holes.fill(number, number) else "duplicated"
        return None


class Tree:
    """One log's entries as an export shows them, up to its checkpoint."""

    def __init__(self, anchor: int | None) -> None:
        self.anchor = anchor
        self.entries = Range()
        self.intact = True
        """Whether every entry had its place so far, so that a root can be made."""
        self.next = 0
        self.holes = Holes()
        self.series: dict[str, Series] = {}
        self.halves: Halves | None = None
        """The entries below the anchor, and those from there on, once it is reached."""

    def add(self, level: int, subtree: bytes) -> None:
        self.entries.append(level, subtree)
        if self.halves is not None:
            self.halves[1].append(level, subtree)
        if self.entries.end == self.anchor:
            self.halves = self.entries.copy(), Range(self.anchor)

    def pass_over(self, end: int, gap: Sequence[bytes]) -> bool:
        """Take the entries up to `end` from the hashes of their subtrees; whether they fit."""
        levels = list(self._cover(end))
        if not self.intact or len(levels) != len(gap):
            return False
        for level, subtree in zip(levels, gap, strict=True):
            self.add(level, subtree)
        return True

    def _cover(self, end: int) -> Iterator[int]:
        start = self.entries.end
        if self.anchor is not None and start < self.anchor < end:
            yield from cover(start, self.anchor)
            start = self.anchor
        yield from cover(start, end)


@dataclass(frozen=True)
class Limits:
    """When a checkpoint is too old."""

    as_of: datetime
    within: timedelta


class ExportCheck:
    """One pass over an export, in constant memory but for a number for each series."""

    def __init__(
        self,
        report: Report,
        policy: Policy,
        limits: Limits,
        evidence: Path,
        monitored: "Snapshot | None" = None,
    ) -> None:
        self.report = report
        self.policy = policy
        self.limits = limits
        self.evidence = evidence
        self.monitored = monitored
        self.digest = sha256()
        self.line = 0
        self.header: dict[str, Any] | None = None
        self.tree: Tree | None = None
        self.logs: list[Checkpoint] = []
        self.trailer: dict[str, Any] | None = None
        self.seen: Counter[str] = Counter()
        self.labels: dict[str, str] = {}
        """The series of each tenant, by its id."""
        self.waiting: str | None = None
        """The moment of the pending event that was committed first."""

    def take(self, line: bytes, checked: Shown | dict[str, Any] | Malformed) -> None:
        self.line += 1
        if self.trailer is not None:
            self.find("inserted", "more after the export's end")
            return
        if isinstance(checked, Shown):
            self._take_event(checked)
        elif isinstance(checked, Malformed):
            self.find("edited", f"{checked}")
            self._lose_place()
        else:
            self._take_other(checked)
        if self.trailer is None:
            self.digest.update(line)
            self.digest.update(b"\n")

    def find(self, word: str, text: str) -> None:
        self.report.find(word, f"line {self.line}: {text}", line=self.line)

    def _lose_place(self) -> None:
        if self.tree is not None:
            self.tree.intact = False

    def _take_other(self, value: dict[str, Any]) -> None:
        [(name, content)] = value.items()
        try:
            if not isinstance(content, dict):
                raise Malformed("no line of an export")
            if self.header is None and name == "export":
                self._begin(content)
            elif name == "log":
                self._end_log(content)
            elif name == "trailer":
                self._end(content)
            else:
                raise Malformed("no line of an export, or not in its place")
        except (Malformed, *NOT_FIELDS) as error:
            text = str(error) if isinstance(error, Malformed) else "not the fields of such a line"
            self.find("edited", text)

    def _begin(self, header: dict[str, Any]) -> None:
        if header["format"] != 1:
            raise Unfinished("an export of a format that this verifier does not know")
        anchor = header["anchor"]
        if anchor is not None and (type(anchor) is not int or not 0 < anchor <= MAX_SIZE):
            raise Malformed("not a size to anchor at")
        moment_from(header["exported_at"])
        scope, label = header["scope"], header["label"]
        if scope["kind"] not in ("tenant", "global") or not isinstance(label, str | None):
            raise Malformed("not the scope of an export")
        if not isinstance(scope["tenant"], str | None) or type(header["complete"]) is not bool:
            raise Malformed("not the scope of an export")
        self.header = header
        self.tree = Tree(anchor)
        if self.of_tenant and self.policy.series and header["label"] not in self.policy.series:
            self.find("incomplete", "of another series than those that the policy pins")

    @property
    def of_tenant(self) -> bool:
        """Whether the export is what one tenant is shown."""
        return self.header is not None and self.header["scope"]["kind"] == "tenant"

    @property
    def complete(self) -> bool:
        """Whether the export claims to have every event."""
        return self.header is not None and self.header["complete"]

    @property
    def whose(self) -> str:
        if self.header is None or not self.of_tenant:
            return "all tenants"
        pinned = self.policy.series.get(self.header["label"])
        return shown(pinned or self.header["scope"]["tenant"])

    # Events

    def _take_event(self, event: Shown) -> None:
        for word, text in event.faults:
            self.find(word, text)
        if self.tree is None:
            self.find("edited", "an event before the export begins")
            return
        self._count(event)
        if event.state == "pending":
            self._wait_for(event)
            return
        if event.state == "deleted":
            self.find("deleted", f"entry {event.position} is sealed, and its event is gone")
        moved = self._place(self.tree, event)
        for label, number in event.series:
            self._number(self.tree, label, number, moved=moved)
        self._check_series(event)

    def _count(self, event: Shown) -> None:
        sealed = "pending" if event.state == "pending" else "sealed"
        if event.state in ("withheld", "purged"):
            self.seen[event.state] += 1
        elif event.state != "deleted":
            if event.kind not in ("access", "change"):
                self.seen["withheld"] += 1
            else:
                self.seen[f"{sealed} {event.kind}"] += 1
        self.seen["units"] += event.withheld
        self.seen["redacted"] += event.redacted
        self.seen["unsigned"] += event.signature == "missing"
        self.seen["signed"] += event.signature == "checked"

    def _wait_for(self, event: Shown) -> None:
        self.seen["pending"] += 1
        at = str(event.committed_at)
        try:
            moment = moment_from(at)
            sealed = max((log.at or 0 for log in self.logs), default=0)
        except Malformed as error:
            self.find("edited", str(error))
            return
        if self.waiting is None or moment < moment_from(self.waiting):
            self.waiting = at
        if moment + SEAL_WITHIN < datetime.fromtimestamp(sealed, UTC):
            self.find("inserted", f"an event of {shown(at)} that later checkpoints have left out")
        elif moment + SEAL_WITHIN < self.limits.as_of:
            self.find("frozen", f"an event of {shown(at)} is not sealed yet")

    def _place(self, tree: Tree, event: Shown) -> bool:
        """Put an entry into the tree; whether it stood elsewhere than it belongs."""
        if event.position < tree.next:
            tree.intact = False
            moved = tree.holes.fill(event.first, event.position)
            if moved:
                self.find("reordered", f"entry {event.position} comes after entry {tree.next - 1}")
            else:
                self.find("inserted", f"entry {event.position} is there already")
            return moved
        if self._reach(tree, event.first, event.position, event.gap):
            tree.add(0, event.leaf)
        tree.next = event.position + 1
        return False

    def _reach(self, tree: Tree, first: int, end: int, gap: Sequence[bytes]) -> bool:
        """Pass over a gap; whether all entries before its end have their places."""
        if first > tree.next:
            tree.holes.add(tree.next, first - 1)
            tree.intact = False
        elif first < tree.next:
            self.find("inserted", f"entry {tree.next - 1}, where nothing was shown")
            tree.intact = False
        elif tree.intact and not tree.pass_over(end, gap):
            self.find("edited", f"the hashes before entry {end} are not those of a gap")
            tree.intact = False
        return tree.intact

    def _number(self, tree: Tree, label: str, number: int, *, moved: bool) -> None:
        if self.of_tenant and self.header is not None and label not in (self.header["label"], ALL):
            self.find("inserted", f"an entry of another series, {shown(label)}")
        series = tree.series.get(label)
        if series is None:
            if len(tree.series) >= MAX_LABELS:
                raise Unfinished("more series than a verifier keeps in mind")
            series = tree.series[label] = Series(number)
            if self.complete and number > 1:
                series.holes.add(1, number - 1)
                series.first = 1
            return
        problem = series.go_on(number)
        if problem and not moved:
            self.find(problem, f"number {number} of series {shown(label)}")

    def _check_series(self, event: Shown) -> None:
        """An event belongs in its tenant's series, which no other tenant has."""
        labels = [label for label, _ in event.series]
        if event.expected is not None and labels != [event.expected]:
            self.find("incomplete", f"entry {event.position} belongs in series {event.expected}")
        if event.tenant is None:
            return
        if len(self.labels) >= MAX_LABELS:
            raise Unfinished("more tenants than a verifier keeps in mind")
        known = self.labels.setdefault(event.tenant, labels[0])
        if labels != [known] or known in (ALL, PLATFORM, HEARTBEAT):
            self.find(
                "incomplete",
                f"entry {event.position} of tenant {shown(event.tenant)} is in another series than"
                " the tenant's",
            )

    # The ends

    def _end_log(self, log: dict[str, Any]) -> None:
        tree = self.tree
        if tree is None:
            raise Malformed("the end of a log before the export begins")
        note, claimed = log["checkpoint"], log["series"]
        first, gap = _index_of(log, "from"), _gap_of(log)
        self.tree = Tree(tree.anchor)
        try:
            checkpoint = self.policy.open(str(note))
        except BadSignature as error:
            self.find("bad signature", str(error))
            return
        self.logs.append(checkpoint)
        self._check_root(tree, checkpoint, first, gap)
        self._check_monitored(tree, checkpoint)
        self._check_holes(tree, claimed)

    def _check_root(self, tree: Tree, checkpoint: Checkpoint, first: int, gap: Any) -> None:
        if tree.next > checkpoint.size:
            self.find("inserted", f"entries up to {tree.next - 1} in a log of {checkpoint.size}")
            tree.intact = False
        elif not self._reach(tree, first, checkpoint.size, gap):
            pass
        elif tree.entries.root() != checkpoint.root:
            self.find(
                "edited",
                f"the entries do not make the root that {shown(checkpoint.origin)} has signed for"
                f" size {checkpoint.size}: what was sealed has been changed",
            )
            tree.intact = False
        self._check_pinned(tree, checkpoint)

    def _check_pinned(self, tree: Tree, checkpoint: Checkpoint) -> None:
        pinned = self.policy.pinned.get(checkpoint.origin)
        if pinned is None:
            return
        if pinned.size > checkpoint.size:
            self.find(
                "truncated",
                f"the log has {checkpoint.size} entries, and had {pinned.size} when it was pinned",
            )
        elif pinned.size == checkpoint.size and pinned.root != checkpoint.root:
            self._fork(pinned, checkpoint, None)
        elif not tree.intact or not 0 < pinned.size < checkpoint.size:
            return
        elif tree.anchor != pinned.size:
            self.find(
                "unanchored",
                f"the export does not show the log at size {pinned.size}, which the policy pins:"
                f" ask for it with anchor={pinned.size}",
            )
        elif tree.halves is not None and tree.halves[0].root() != pinned.root:
            self._fork(pinned, checkpoint, tree.halves)

    def _check_monitored(self, tree: Tree, checkpoint: Checkpoint) -> None:
        """Find the last numbers missing, which only somebody who has read the log knows."""
        seen = self.monitored
        if (
            seen is None
            or not self.complete
            or self.policy.open(seen.note).origin != checkpoint.origin
        ):
            return
        if seen.entries.end > checkpoint.size:
            text = f"a monitor has seen {seen.entries.end} entries, and here are {checkpoint.size}"
            self.find("truncated", text)
            return
        ours = (self.header or {}).get("label"), ALL
        for label, last in seen.series.items():
            if self.of_tenant and label not in ours:
                continue
            series = tree.series.setdefault(label, Series(0))
            if last > series.last and label != HEARTBEAT:
                series.holes.add(series.last + 1, last)

    def _fork(self, pinned: Checkpoint, checkpoint: Checkpoint, halves: Halves | None) -> None:
        kept = keep_evidence(self.evidence, pinned.size, pinned.note, checkpoint, halves)
        self.find("forked", f"{shown(checkpoint.origin)} has signed two histories; see {kept}")

    def _check_holes(self, tree: Tree, claimed: Any) -> None:
        for first, last in tree.holes.ranges:
            self.find("deleted", f"entries {numbers(first, last)} are missing")
        if not isinstance(claimed, dict) or len(claimed) > MAX_LABELS:
            raise Malformed("not the numbers of series")
        for label, ends in claimed.items():
            series = tree.series.get(label)
            if series is None:
                self.find("incomplete", f"no number of series {shown(label)} is here")
            elif self.complete and type(ends[1]) is int and ends[1] > series.last:
                series.holes.add(series.last + 1, ends[1])
            elif ends != [series.first, series.last]:
                self.find("edited", f"series {shown(label)} has other numbers than is said")
        for label, series in tree.series.items():
            if label not in claimed and series.last:
                self.find("edited", f"series {shown(label)} has other numbers than is said")
            if self.complete:
                for first, last in series.holes.ranges:
                    what = f"{numbers(first, last)} of series {shown(label)}"
                    self.find("incomplete", f"missing: {what}")

    def _end(self, trailer: dict[str, Any]) -> None:
        self.trailer = trailer
        if trailer["digest"] != self.digest.hexdigest():
            self.find("edited", "the digest of the lines before is another one")
        for name, claimed in trailer["counts"].items():
            found = self._counts().get(name, -1)
            if type(claimed) is int and found < claimed:
                self.find("deleted", f"{found} {name} of {claimed}")
            elif found != claimed:
                self.find("inserted", f"{found} {name} of {claimed}")

    def _counts(self) -> dict[str, int]:
        return {
            "accesses": self.seen["sealed access"] + self.seen["pending access"],
            "changes": self.seen["sealed change"] + self.seen["pending change"],
            "pending": self.seen["pending"],
            "withheld": self.seen["withheld"],
        }

    def cut(self) -> None:
        """Note that the file ends before the export does."""
        self.report.find("truncated", f"the file ends after line {self.line}, before its trailer")

    def conclude(self) -> int:
        """Say what the export proves; return the exit code."""
        if self.trailer is None and not self.report.counts["truncated"]:
            self.cut()
        elif self.trailer is not None:
            self._check_logs()
        self._remark()
        newest = self.logs[-1] if self.logs else None
        facts = {"size": newest.size, "origin": newest.origin} if newest else {}
        return self.report.end(self._sentence(newest), **facts, counts=self._counts())

    def _check_logs(self) -> None:
        origins = {log.origin for log in self.logs}
        if len(origins) < len(self.logs):
            self.report.find("duplicated", "one log is there twice")
        for origin in self.policy.pinned.keys() - origins:
            if self.logs and not self.report.counts["bad signature"]:
                text = f"{shown(origin)}, which the policy pins, is not in the export"
                self.report.find("truncated", text)
        if self.logs:
            check_fresh(self.report, self.logs[-1], self.limits.as_of, self.limits.within)

    def _remark(self) -> None:
        remarks = {
            "pending": (
                self.seen["pending"],
                f"not sealed yet, the first of {shown(self.waiting)}",
            ),
            "withheld": (self.seen["withheld"], "of which the export shows nothing"),
            "redacted": (self.seen["redacted"], "parts of events were taken away since"),
            "purged": (self.seen["purged"], "events were taken away since"),
        }
        for word, (number, text) in remarks.items():
            if number:
                self.report.find(word, f"{number} {text}")
        if not self.policy.pinned and self.logs:
            self.report.find("unanchored", "the policy pins no earlier checkpoint")
        if self.seen["unsigned"]:
            number = self.seen["unsigned"]
            text = f"{counted(number, 'change')} without a signature of the host that made it"
            self.report.find("unanchored", text)
        if not self.seen["signed"] and self.logs:
            self.report.find("unanchored", "no signature of a web host was checked")

    def _sentence(self, newest: Checkpoint | None) -> str:
        counts, parts = self._counts(), []
        for noun, name in (("access", "accesses"), ("change", "changes")):
            if counts[name] or noun == "access":
                parts.append(f"{self.seen[f'sealed {noun}']} of {counts[name]} {name}")
        what = f"{' and '.join(parts)} of {self.whose}"
        if newest is None:
            return f"{what}, and no log that proves them."
        complete = "complete, " if self.complete else "as far as its filter goes, "
        where = f"in the log of size {newest.size}, witnessed by {witnessed_by(newest)}"
        return f"{what}, {complete}{where}."


def keep_evidence(
    directory: Path, size: int, earlier: str, later: Checkpoint, halves: Halves | None = None
) -> Path:
    """Write two checkpoints that contradict each other, and what shows it, into a directory."""
    kept = directory / f"forked-{size}-{later.size}-{later.root.hex()[:8]}"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "earlier.checkpoint").write_text(earlier)
    (kept / "later.checkpoint").write_text(later.note)
    if halves is not None:
        # The first hashes make a root that is not the earlier checkpoint's; all of them together
        # make that of the later one.
        before, after = (half.hashes() for half in halves)
        proof = encode({"after": after, "before": before, "size": size})
        (kept / "proof.json").write_text(f"{proof}\n")
    return kept


def check_lines(lines: Sequence[bytes]) -> list[Shown | dict[str, Any] | Malformed]:
    return [check_line(line, _signers) for line in lines]


_signers: Signers = {}


def _begin_process(signers: Signers) -> None:
    global _signers
    _signers = signers


class Lines:
    """The lines of a file, some at a time, each within bounds."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.cut = False
        """Whether the last line has no end."""

    def __iter__(self) -> Iterator[list[bytes]]:
        batch, size = [], 0
        while line := self._file.readline(MAX_LINE + 1):
            if not line.endswith(b"\n"):
                if len(line) > MAX_LINE:
                    raise Unfinished(f"a line of more than {MAX_LINE} bytes")
                self.cut = True
                break
            batch.append(line[:-1])
            size += len(line)
            if size >= BATCH:
                yield batch
                batch, size = [], 0
        yield batch


Checked = tuple[list[bytes], list[Shown | dict[str, Any] | Malformed]]


def check_batches(batches: Iterable[list[bytes]], signers: Signers, jobs: int) -> Iterator[Checked]:
    """Check lines by themselves, in this process or in others, and yield them in their order."""
    if jobs == 1:
        _begin_process(signers)
        yield from ((batch, check_lines(batch)) for batch in batches)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _begin_process, (signers,)) as pool:
        under_way: deque[tuple[list[bytes], Any]] = deque()
        for batch in batches:
            under_way.append((batch, pool.apply_async(check_lines, (batch,))))
            if len(under_way) > 2 * jobs:
                lines, result = under_way.popleft()
                yield lines, result.get()
        for lines, result in under_way:
            yield lines, result.get()


def verify_export(args: argparse.Namespace, report: Report) -> int:
    policy = read_policy(args.policy)
    limits = Limits(args.as_of, timedelta(hours=args.fresh_within))
    seen = read_snapshots(args.monitored) if args.monitored else []
    if args.monitored and not seen:
        raise Usage(f"{args.monitored}: no monitor has kept anything here")
    check = ExportCheck(report, policy, limits, args.evidence, seen[-1] if seen else None)
    try:
        file = args.file.open("rb")
    except OSError as error:
        raise Usage(f"{args.file}: {error.strerror}") from error
    with file:
        pays = os.fstat(file.fileno()).st_size > PAYS
        lines = Lines(file)
        jobs = (args.jobs or os.cpu_count() or 1) if pays else 1
        for batch, checked in check_batches(lines, policy.signers, jobs):
            for line, each in zip(batch, checked, strict=True):
                check.take(line, each)
    if lines.cut:
        check.cut()
    code = check.conclude()
    if args.remember and code == GOOD and check.logs:
        remember(args.policy, check.logs)
    return code


def remember(path: Path, logs: Sequence[Checkpoint]) -> None:
    """Pin these checkpoints in the policy, in place of those that it pinned before."""
    lines = read_file(path).decode().splitlines()
    kept = [line for line in lines if line.split()[:2] != ["#sightline", "checkpoint"]]
    pins = [f"#sightline checkpoint {b64encode(log.note.encode()).decode()}" for log in logs]
    replace_file(path, "\n".join([*kept, *pins, ""]).encode())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole, or as it was."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


# --- A proof -------------------------------------------------------------------------------------


def verify_proof(args: argparse.Namespace, report: Report) -> int:
    policy = read_policy(args.policy)
    data = read_file(args.file)
    try:
        extra, index, proof, note = _proof_from(_text(data))
    except Malformed as error:
        report.find("edited", f"{error}")
        return report.end("")
    try:
        value = decode_canonical(extra)
        if value.keys() - _SIGNED != {"commitment", "series", "units"}:
            raise Malformed("not what is shown of an event")
        event = _shown(value, _units_of(value, None), policy.signers, **leaf_of(value))
        checkpoint = policy.open(note)
        for word, text in event.faults:
            report.find(word, text)
        if root_by_inclusion(index, checkpoint.size, event.leaf, proof) != checkpoint.root:
            report.find("edited", f"what is shown is not entry {index} of the log")
    except BadSignature as error:
        report.find("bad signature", str(error))
        return report.end("")
    except (Malformed, *NOT_FIELDS) as error:
        why = error if isinstance(error, Malformed) else "not what is shown of an event"
        report.find("edited", f"{why}")
        return report.end("")
    _compare_with_pinned(report, policy, checkpoint, args.evidence)
    names = " and ".join(
        f"number {number} of series {shown(label)}" for label, number in event.series
    )
    withheld = f", {event.withheld} of its {len(UNITS)} parts withheld" if event.withheld else ""
    return report.end(
        f"Entry {index}, {names}{withheld}, in the log of size {checkpoint.size}, witnessed by"
        f" {witnessed_by(checkpoint)}.",
        index=index,
        size=checkpoint.size,
        origin=checkpoint.origin,
    )


def _proof_from(text: str) -> tuple[bytes, int, list[bytes], str]:
    """Split a proof (c2sp.org/tlog-proof) into what it shows, index, hashes and checkpoint."""
    head, blank, note = text.partition("\n\n")
    match head.split("\n"):
        case ["c2sp.org/tlog-proof@v1", extra, index, *hashes] if blank:
            pass
        case _:
            raise Malformed("not a proof")
    if not extra.startswith("extra ") or not index.startswith("index "):
        raise Malformed("a proof that does not show its event")
    proof = [from_base64(each) for each in hashes]
    if len(proof) > 64 or any(len(each) != 32 for each in proof):
        raise Malformed("not the hashes of a proof")
    return from_base64(extra[6:]), number_from(index[6:]), proof, note


def _compare_with_pinned(
    report: Report, policy: Policy, checkpoint: Checkpoint, evidence: Path
) -> None:
    """Compare a checkpoint that comes alone with the one that the policy pins."""
    pinned = policy.pinned.get(checkpoint.origin)
    if pinned is None or pinned.size != checkpoint.size:
        report.find("unanchored", "the proof does not say how its log goes on from one pinned")
    elif pinned.root != checkpoint.root:
        kept = keep_evidence(evidence, pinned.size, pinned.note, checkpoint)
        report.find("forked", f"{shown(checkpoint.origin)} has signed two histories; see {kept}")


# --- A log as it grows ---------------------------------------------------------------------------

KEPT = timedelta(days=7)
"""How far back a monitor reads again what it has read."""
APART = timedelta(days=1)
"""How far apart the states are that it keeps, but for the newest."""
WIDTH = 256
"""Entries of a full bundle."""
MAX_BUNDLE = WIDTH * (2**16 + 2)
MAX_STATE = 2**28


@dataclass(frozen=True)
class Snapshot:
    """What a monitor had read at one moment."""

    at: int
    entries: Range
    note: str
    series: Mapping[str, int]
    """The last number of each series."""

    def dump(self) -> dict[str, Any]:
        return {
            "at": self.at,
            "hashes": self.entries.hashes(),
            "note": self.note,
            "series": dict(self.series),
            "size": self.entries.end,
        }

    @classmethod
    def load(cls, value: Mapping[str, Any]) -> "Snapshot":
        entries = Range.of(value["size"], value["hashes"])
        return cls(value["at"], entries, value["note"], value["series"])


def read_snapshots(directory: Path) -> list[Snapshot]:
    """The states that a monitor has kept, the oldest first."""
    path = directory / "seen.json"
    if not path.exists():
        return []
    try:
        return [Snapshot.load(each) for each in decode_canonical(read_file(path, MAX_STATE))]
    except (Malformed, *NOT_FIELDS) as error:
        raise Usage(f"{path}: not what a monitor keeps") from error


def write_snapshots(directory: Path, snapshots: Sequence[Snapshot], now: int) -> None:
    """Keep the newest state, one a day before it, and of those older than a week one."""
    *earlier, newest = snapshots
    kept: list[Snapshot] = []
    for each in earlier:
        if not kept or each.at - kept[-1].at >= APART.total_seconds():
            kept.append(each)
    while len(kept) > 1 and now - kept[1].at >= KEPT.total_seconds():
        kept.pop(0)
    directory.mkdir(parents=True, exist_ok=True)
    data = encode([each.dump() for each in [*kept, newest]])
    replace_file(directory / "seen.json", data.encode())


class Log:
    """A log over HTTP (c2sp.org/tlog-tiles)."""

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise Usage(f"{shown(url)}: not an address of the web")
        self._url = url.rstrip("/")

    def checkpoint(self) -> str:
        return _text(self._get("checkpoint", MAX_FILE))

    def entries(self, start: int, size: int) -> Iterator[bytes]:
        """The entries from `start` up to the log's size."""
        for number in range(start // WIDTH, -(-size // WIDTH)):
            width = min(WIDTH, size - number * WIDTH)
            partial_ = "" if width == WIDTH else f".p/{width}"
            data = self._get(f"tile/entries/{tile_path(number)}{partial_}", MAX_BUNDLE)
            entries = entries_of(data, width)
            yield from entries[max(0, start - number * WIDTH) :]

    def _get(self, path: str, most: int) -> bytes:
        try:
            # The scheme is that of the web: the constructor has seen to it.
            with urllib.request.urlopen(f"{self._url}/{path}", timeout=30) as answer:  # noqa: S310
                data: bytes = answer.read(most + 1)
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise Unfinished(f"{path}: {shown(error)}") from error
        if len(data) > most:
            raise Unfinished(f"{path}: larger than {most} bytes")
        return data


def tile_path(number: int) -> str:
    """The path of a tile: groups of three digits, all but the last after an `x`."""
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03}")
    return "/".join(groups)


def entries_of(data: bytes, width: int) -> list[bytes]:
    """Split a bundle into its entries, each after its length."""
    entries, place = [], 0
    while place < len(data):
        end = place + 2 + int.from_bytes(data[place : place + 2], "big")
        entries.append(data[place + 2 : end])
        place = end
    if place != len(data) or len(entries) != width:
        raise Unfinished("a bundle that does not have the entries that it should have")
    return entries


class MonitorCheck:
    """One reading of a log, from the oldest state that is kept."""

    def __init__(
        self,
        report: Report,
        checkpoint: Checkpoint,
        base: Snapshot | None,
        known: Mapping[int, tuple[bytes, str]],
        evidence: Path,
    ) -> None:
        self.report = report
        self.checkpoint = checkpoint
        self.known = known
        """The root and the checkpoint of each size that was seen."""
        self.evidence = evidence
        self.entries = Range() if base is None else base.entries.copy()
        self.start = self.entries.end
        last = {} if base is None else base.series
        self.series = {label: Series(number) for label, number in last.items()}
        self.contradicted: list[tuple[str, Halves]] = []

    def read(self, log: Log) -> Snapshot:
        """Read what the log has after the oldest state, and compare it with what was seen."""
        self._compare()
        for entry in log.entries(self.start, self.checkpoint.size):
            self._take(entry)
        if self.start and self.entries.root() != self.checkpoint.root:
            # It does not go on from that state. From its first entry on, it says what it is.
            whole = MonitorCheck(self.report, self.checkpoint, None, self.known, self.evidence)
            return whole.read(log)
        self._conclude()
        last = {label: series.last for label, series in self.series.items()}
        return Snapshot(int(time.time()), self.entries, self.checkpoint.note, last)

    def _take(self, entry: bytes) -> None:
        index = self.entries.end
        leaf = hash_leaf(entry)
        self.entries.append(0, leaf)
        for _, (_, after) in self.contradicted:
            after.append(0, leaf)
        self._compare()
        try:
            if entry[:1] != b"\x01":
                raise Malformed("no version that this verifier knows")
            for label, number in series_of(decode_canonical(entry[1:])):
                self._number(label, number)
        except (Malformed, *NOT_FIELDS) as error:
            self.report.find("edited", f"entry {index}: {error}")

    def _number(self, label: str, number: int) -> None:
        series = self.series.get(label)
        if series is None:
            if len(self.series) >= MAX_LABELS:
                raise Unfinished("more series than a verifier keeps in mind")
            series = self.series[label] = Series(0)
        problem = series.go_on(number)
        if problem:
            self.report.find(problem, f"number {number} of series {shown(label)}")

    def _compare(self) -> None:
        known = self.known.get(self.entries.end)
        if known is not None and self.entries.root() != known[0]:
            halves = self.entries.copy(), Range(self.entries.end)
            self.contradicted.append((known[1], halves))

    def _conclude(self) -> None:
        if self.entries.root() != self.checkpoint.root:
            self.report.find("edited", "the entries do not make the root that the log has signed")
            return
        for note, halves in self.contradicted:
            size = halves[0].end
            kept = keep_evidence(self.evidence, size, note, self.checkpoint, halves)
            self.report.find("forked", f"two histories up to size {size}; see {kept}")
        for label, series in self.series.items():
            for first, last in series.holes.ranges:
                what = f"{numbers(first, last)} of series {shown(label)}"
                self.report.find("incomplete", f"missing: {what}")


def monitor(args: argparse.Namespace, report: Report) -> int:
    policy = read_policy(args.policy)
    snapshots = read_snapshots(args.state)
    log = Log(args.url)
    try:
        checkpoint = policy.open(log.checkpoint())
    except (BadSignature, Malformed) as error:
        report.find("bad signature", str(error))
        return report.end("")
    check_fresh(report, checkpoint, args.as_of, timedelta(hours=args.fresh_within))
    snapshots = [each for each in snapshots if each.note.startswith(f"{checkpoint.origin}\n")]
    pinned = policy.pinned.get(checkpoint.origin)
    known = {each.entries.end: (each.entries.root(), each.note) for each in snapshots}
    if pinned is not None:
        known[pinned.size] = pinned.root, pinned.note
    base = snapshots[0] if snapshots else None
    if max(known, default=0) > checkpoint.size:
        text = f"the log has {checkpoint.size} entries, and had {max(known)}"
        report.find("truncated", text)
        return report.end("")
    newest = MonitorCheck(report, checkpoint, base, known, args.evidence).read(log)
    for label, name in policy.series.items():
        last = newest.series.get(label, 0)
        print_series = f"{shown(name)} has {counted(last, 'number')}, without a gap"
        report.find("series", print_series, label=label, last=last)
    read = checkpoint.size - (snapshots[0].entries.end if snapshots else 0)
    code = report.end(
        f"{read} entries read, the log of size {checkpoint.size} goes on from all that was seen,"
        f" witnessed by {witnessed_by(checkpoint)}.",
        origin=checkpoint.origin,
        size=checkpoint.size,
    )
    if not any(report.counts[word] for word in FAULTS if word != "frozen"):
        write_snapshots(args.state, [*snapshots, newest], newest.at)
    return code


# --- The command line ----------------------------------------------------------------------------


def _moment_option(text: str) -> datetime:
    try:
        return moment_from(text)
    except Malformed as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Check what Sightline says of accesses, without trusting it.",
        epilog="Exit codes: 0 the proof holds, 1 it does not, 2 asked for wrongly, 3 not finished.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="check an export of the ledger")
    export.add_argument("file", type=Path, metavar="FILE")
    export.add_argument("--jobs", type=int, metavar="N", help="use N processes (all cores)")
    export.add_argument(
        "--remember", action="store_true", help="pin the checkpoint in the policy, if all is well"
    )
    export.add_argument(
        "--monitored", type=Path, metavar="DIR", help="compare with what a monitor has seen"
    )
    export.set_defaults(run=verify_export)
    proof = commands.add_parser("proof", help="check the proof of one event")
    proof.add_argument("file", type=Path, metavar="FILE")
    proof.set_defaults(run=verify_proof)
    watch = commands.add_parser("monitor", help="read a log, and compare it with what was seen")
    watch.add_argument("url", metavar="URL", help="where the log is: https://…/log")
    watch.add_argument(
        "--state", type=Path, metavar="DIR", default=Path("monitor"), help="keep what was seen here"
    )
    watch.set_defaults(run=monitor)
    for command, hours in ((export, 24), (proof, 24), (watch, 3)):
        command.add_argument(
            "--policy", type=Path, required=True, metavar="FILE", help="whom to believe"
        )
        command.add_argument("--json", action="store_true", help="print a JSON value a line")
        command.add_argument(
            "--evidence", type=Path, default=Path(), metavar="DIR", help="keep proofs of forks here"
        )
        command.add_argument(
            "--as-of", type=_moment_option, metavar="MOMENT", help="judge age at this moment (now)"
        )
        command.add_argument(
            "--fresh-within",
            type=float,
            default=hours,
            metavar="HOURS",
            help=f"the age at which a checkpoint is too old ({hours})",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    args.as_of = args.as_of or datetime.now(UTC)
    report = Report(args.json)
    run: Callable[[argparse.Namespace, Report], int] = args.run
    try:
        return run(args, report)
    except Usage as error:
        sys.stderr.write(f"cannot begin: {error}\n")
        return USAGE
    except Unfinished as error:
        return report.give_up(str(error))


if __name__ == "__main__":
    sys.exit(main())
