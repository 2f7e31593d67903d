"""Checkpoints (c2sp.org/tlog-checkpoint): what a log's tree is at one size, as text to sign."""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass

from webapp.ledger.sealing.merkle import EMPTY_ROOT, HASH_BYTES, MAX_SIZE

ORIGIN_BYTES = 255
"""What an ML-DSA-44 cosignature has room for."""
EXTENSIONS = 16
"""The most extension lines of others' checkpoints that are read; Sightline's have none."""

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_RESERVED = "cosignature/v1"
"""The first line of what a cosigner signs: a log of this name could make its key cosign."""


class CheckpointError(ValueError):
    """A text that is no checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """The tree of a log at one size."""

    origin: str
    """The log's name."""
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_origin(self.origin):
            raise CheckpointError("not an origin")
        if not 0 <= self.size <= MAX_SIZE:
            raise CheckpointError("not the size of a tree")
        if len(self.root) != HASH_BYTES or (self.size == 0 and self.root != EMPTY_ROOT):
            raise CheckpointError("not the root of a tree of this size")
        if len(self.extensions) > EXTENSIONS or any(not _is_line(e) for e in self.extensions):
            raise CheckpointError("not extension lines")

    def is_of(self, origin: str, size: int, root: bytes) -> bool:
        """Whether it is of this tree."""
        return (self.origin, self.size, self.root) == (origin, size, root)

    @property
    def text(self) -> str:
        """The text that is signed."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse the text of a checkpoint; raises `CheckpointError` for anything else."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop():
        raise CheckpointError("not three lines")
    origin, size, root, *extensions = lines
    return Checkpoint(origin, parse_decimal(size), decode_base64(root), tuple(extensions))


def is_origin(text: str) -> bool:
    """Whether a log, or the key of one, may have this name."""
    encoded = text.encode(errors="replace")
    if not 0 < len(encoded) <= ORIGIN_BYTES or text == _RESERVED or "+" in text:
        return False
    return text.isprintable() and not any(c.isspace() for c in text)


def parse_decimal(text: str) -> int:
    """Parse ASCII digits without leading zeros, up to `MAX_SIZE`."""
    if not _DECIMAL.fullmatch(text) or (number := int(text)) > MAX_SIZE:
        raise CheckpointError("not a decimal number")
    return number


def encode_base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Decode standard Base64 in its one form: padded, without spare bits or other characters."""
    try:
        data = b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise CheckpointError("not Base64") from error
    if encode_base64(data) != text:
        raise CheckpointError("not the one form of Base64")
    return data


def describe_tree(size: int, root: bytes | None) -> str:
    """Name a tree for people; no root is known of one whose tiles are missing."""
    return f"size {size}, root {encode_base64(root) if root else 'unknown'}"


def _is_line(text: str) -> bool:
    return bool(text) and all(c >= " " for c in text)
