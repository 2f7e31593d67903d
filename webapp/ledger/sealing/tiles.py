"""Tiles (c2sp.org/tlog-tiles): the tree's hashes, 256 at a time, and the log's entries.

A hash of tile level `L` is the hash of a complete subtree of level `8 * L`. A full tile never
changes; one that is not full yet is a prefix of what it becomes.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from webapp.ledger.sealing.leaf import ENTRY_BYTES
from webapp.ledger.sealing.merkle import HASH_BYTES, MAX_SIZE, hash_children

TILE_HASHES = 256
TILE_BYTES = TILE_HASHES * HASH_BYTES
TILE_LEVEL_BITS = 8
MAX_LEVEL = 7
"""The highest level that a tree of `MAX_SIZE` has tiles of."""

_CACHED = 64
_LEVEL = re.compile(r"[0-9]|[1-5][0-9]|6[0-3]")
_INDEX = re.compile(r"((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")

ReadTile = Callable[[int, int], bytes]
"""Returns the hashes of tile `n` of a level: all that it has, or more than the tree needs."""


class TileError(ValueError):
    """Something that is no tile, or no path of one."""


@dataclass(frozen=True)
class Tile:
    """A tile of hashes."""

    level: int
    n: int
    hashes: bytes

    @property
    def width(self) -> int:
        return len(self.hashes) // HASH_BYTES


@dataclass(frozen=True)
class TileIndex:
    """Which tile, and how much of it, a path names."""

    n: int
    width: int = TILE_HASHES

    def __post_init__(self) -> None:
        if not 0 <= self.n <= MAX_SIZE >> TILE_LEVEL_BITS or not 1 <= self.width <= TILE_HASHES:
            raise TileError("not a tile")

    @property
    def is_full(self) -> bool:
        return self.width == TILE_HASHES

    @property
    def first(self) -> int:
        return self.n * TILE_HASHES

    @property
    def end(self) -> int:
        return self.first + self.width

    @property
    def path(self) -> str:
        """The path in its one form: `x001/x234/067`, with `.p/<width>` where it is partial."""
        groups = f"{self.n:,}".split(",")
        *before, last = [group.zfill(3) for group in groups]
        path = "/".join([*(f"x{group}" for group in before), last])
        return path if self.is_full else f"{path}.p/{self.width}"


def parse_index(path: str) -> TileIndex:
    """Parse the end of a tile's path; raises `TileError` for any form but the one of `path`."""
    found = _INDEX.fullmatch(path) if len(path) <= 64 else None
    if found is None:
        raise TileError("not the path of a tile")
    n = int(found[1].replace("x", "").replace("/", ""))
    index = TileIndex(n, int(found[2]) if found[2] else TILE_HASHES)
    if index.path != path:
        raise TileError("not the path of a tile")
    return index


def parse_level(text: str) -> int:
    """Parse the level of a tile in a path; raises `TileError`."""
    if not _LEVEL.fullmatch(text):
        raise TileError("not the level of a tile")
    return int(text)


def tile_path(level: int, index: TileIndex) -> str:
    """Return the path of a tile of hashes, below the log's own."""
    return f"tile/{level}/{index.path}"


def entries_path(index: TileIndex) -> str:
    """Return the path of a bundle of entries, below the log's own."""
    return f"tile/entries/{index.path}"


def width_of(level: int, n: int, size: int) -> int:
    """Return how many hashes a tile has in a tree of this size."""
    hashes = size >> TILE_LEVEL_BITS * level
    return max(0, min(TILE_HASHES, hashes - n * TILE_HASHES))


def tiles_of(size: int) -> Iterator[tuple[int, TileIndex]]:
    """Return every tile of a tree of this size, with its level."""
    level = 0
    while hashes := size >> TILE_LEVEL_BITS * level:
        for n in range(-(-hashes // TILE_HASHES)):
            yield level, TileIndex(n, width_of(level, n, size))
        level += 1


class TileReader:
    """The hashes of a tree's complete subtrees, computed from tiles: a `HashAt`."""

    def __init__(self, read: ReadTile, size: int) -> None:
        self._read = read
        self._size = size
        self._tile = lru_cache(_CACHED)(self._load)

    def __call__(self, level: int, index: int) -> bytes:
        if index < 0 or (index + 1) << level > self._size:
            raise TileError("not a subtree of this tree")
        tile_level, height = divmod(level, TILE_LEVEL_BITS)
        n, first = divmod(index << height, TILE_HASHES)
        hashes = self._tile(tile_level, n)
        return hash_of_perfect(hashes[first * HASH_BYTES : (first + (1 << height)) * HASH_BYTES])

    def _load(self, level: int, n: int) -> bytes:
        needed = width_of(level, n, self._size) * HASH_BYTES
        hashes = self._read(level, n)[:needed]
        if len(hashes) < needed:
            raise TileError(f"tile {n} of level {level} has not the hashes of this tree")
        return hashes


def hash_of_perfect(hashes: bytes) -> bytes:
    """Return the hash over hashes that stand side by side; their number is a power of two."""
    count = len(hashes) // HASH_BYTES
    if len(hashes) % HASH_BYTES or count.bit_count() != 1:
        raise TileError("not a complete subtree")
    row = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    while len(row) > 1:
        row = [hash_children(*pair) for pair in zip(row[::2], row[1::2], strict=True)]
    return row[0]


def grow(size: int, leaf_hashes: Sequence[bytes], read: ReadTile) -> list[Tile]:
    """Return the tiles that change where leaves are added to a tree of this size.

    `read` is asked for the last tile of a level, where that one is not full.
    """
    changed: list[Tile] = []
    added, level = list(leaf_hashes), 0
    while added:
        before = size >> TILE_LEVEL_BITS * level
        tiles = _filled(level, before, added, read)
        changed += tiles
        added = [hash_of_perfect(tile.hashes) for tile in tiles if tile.width == TILE_HASHES]
        level += 1
    return changed


def _filled(level: int, before: int, added: Sequence[bytes], read: ReadTile) -> list[Tile]:
    n, width = divmod(before, TILE_HASHES)
    row = read(level, n)[: width * HASH_BYTES] if width else b""
    if len(row) != width * HASH_BYTES:
        raise TileError(f"tile {n} of level {level} has not the hashes of this tree")
    row += b"".join(added)
    if len(row) != (width + len(added)) * HASH_BYTES:
        raise TileError("not SHA-256 hashes")
    parts = [row[at : at + TILE_BYTES] for at in range(0, len(row), TILE_BYTES)]
    return [Tile(level, number, part) for number, part in enumerate(parts, n)]


def encode_entries(entries: Iterable[bytes]) -> bytes:
    """Return a bundle of entries, each after its length in two bytes."""
    return b"".join([_length_of(entry) + entry for entry in entries])


def _length_of(entry: bytes) -> bytes:
    if len(entry) > ENTRY_BYTES:
        raise TileError("an entry that is too long")
    return len(entry).to_bytes(2, "big")


def decode_entries(data: bytes, width: int) -> list[bytes]:
    """Return the entries of a bundle; raises `TileError` unless there are so many, and no more."""
    entries: list[bytes] = []
    at = 0
    while at < len(data) and len(entries) < width:
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        entries.append(data[start:at])
    if at != len(data) or len(entries) != width:
        raise TileError("not the entries of this bundle")
    return entries
