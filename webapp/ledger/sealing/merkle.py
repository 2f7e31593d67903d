"""Merkle trees of RFC 6962: roots, proofs, and their checks.

Nothing here recurses, and nothing needs all leaves: whatever can read the hash of a complete
subtree, a `HashAt`, can make every proof.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
"""The root of the tree without leaves."""

MAX_SIZE = 2**63 - 1
"""The largest size of a tree that the formats around it can carry."""

HashAt = Callable[[int, int], bytes]
"""Returns the hash of the complete subtree `index` of `level`: the leaves from `index * 2**level`
to `(index + 1) * 2**level`. Level 0 has the hashes of the leaves."""

Range = tuple[int, int]
"""Leaves from the first number, included, to the second, not included."""


class ProofError(ValueError):
    """A proof that does not prove what it should, or a request for one that cannot exist."""


def hash_leaf(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def root_from_hashes(leaf_hashes: Iterable[bytes]) -> bytes:
    """Return the root of the tree whose leaves have these hashes."""
    frontier = Frontier()
    for leaf_hash in leaf_hashes:
        frontier.append(leaf_hash)
    return frontier.root()


def inclusion_proof(index: int, leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """Return the proof that the leaf is in the tree, from its sibling up."""
    return inclusion_proof_at(index, len(leaf_hashes), _reader_of(leaf_hashes))


def consistency_proof(old_size: int, leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """Return the proof that the tree's first `old_size` leaves are all of an older tree."""
    return consistency_proof_at(old_size, len(leaf_hashes), _reader_of(leaf_hashes))


def inclusion_proof_at(index: int, size: int, hash_at: HashAt) -> list[bytes]:
    """Return the same proof for a tree of this size, from the hashes of its complete subtrees."""
    return [_hash_of(part, hash_at) for part in inclusion_ranges(index, size)]


def consistency_proof_at(old_size: int, size: int, hash_at: HashAt) -> list[bytes]:
    """Return the same proof for a tree of this size, from the hashes of its complete subtrees."""
    return [_hash_of(part, hash_at) for part in consistency_ranges(old_size, size)]


def root_at(size: int, hash_at: HashAt) -> bytes:
    """Return the root of the tree of this size, from the hashes of its complete subtrees."""
    _check_size(size)
    return _hash_of((0, size), hash_at) if size else EMPTY_ROOT


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Return the leaves under each hash of an inclusion proof."""
    _check_size(size)
    if not 0 <= index < size:
        raise ProofError("the tree has no leaf of this index")
    start, end = 0, size
    path = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency_ranges(old_size: int, size: int) -> list[Range]:
    """Return the leaves under each hash of a consistency proof."""
    _check_size(size)
    if not 0 <= old_size <= size:
        raise ProofError("the older tree is larger than the tree")
    if old_size == 0:
        return []
    start, end = 0, size
    path = []
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:
        path.append((start, end))
    return path[::-1]


def cover(start: int, end: int) -> list[tuple[int, int]]:
    """Return the fewest complete subtrees that make up these leaves, as (level, index)."""
    if not 0 <= start <= end <= MAX_SIZE:
        raise ProofError("not a range of leaves")
    subtrees = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        subtrees.append((level, start >> level))
        start += 1 << level
    return subtrees


def verify_inclusion(
    index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Raise `ProofError` unless the proof leads from the leaf to the root (RFC 9162 §2.1.3.2)."""
    _check_size(size)
    _check_hashes(leaf_hash, root, *proof)
    if not 0 <= index < size:
        raise ProofError("the tree has no leaf of this index")
    node, last = index, size - 1
    computed = leaf_hash
    for sibling in proof:
        if last == 0:
            raise ProofError("the proof is too long")
        if node & 1 or node == last:
            computed = hash_children(sibling, computed)
            node, last = _up_to_right_child(node, last)
        else:
            computed = hash_children(computed, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofError("the proof is too short")
    if computed != root:
        raise ProofError("the proof leads to another root")


def verify_consistency(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Raise `ProofError` unless the older tree is a prefix of the newer one (RFC 9162 §2.1.4.2)."""
    _check_size(new_size)
    _check_hashes(old_root, new_root, *proof)
    if not 0 <= old_size <= new_size:
        raise ProofError("the older tree is larger than the newer one")
    if old_size in (0, new_size):
        _check_nothing_to_prove(old_size, new_size, proof, old_root, new_root)
        return
    hashes = list(proof)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise ProofError("the proof is too short")
    _climb(old_size - 1, new_size - 1, hashes, old_root, new_root)


def _check_nothing_to_prove(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    if proof:
        raise ProofError("the proof is too long")
    if old_size == 0 and old_root != EMPTY_ROOT:
        raise ProofError("not the root of an empty tree")
    if new_size == 0 and new_root != EMPTY_ROOT:
        raise ProofError("not the root of an empty tree")
    if old_size == new_size and old_root != new_root:
        raise ProofError("two roots of one size")


def _climb(node: int, last: int, hashes: list[bytes], old_root: bytes, new_root: bytes) -> None:
    """Compute both roots from a consistency proof, as both trees share their left sides."""
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise ProofError("the proof is too long")
        if node & 1 or node == last:
            old, new = hash_children(sibling, old), hash_children(sibling, new)
            node, last = _up_to_right_child(node, last)
        else:
            new = hash_children(new, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofError("the proof is too short")
    if old != old_root:
        raise ProofError("the proof leads to another root of the older tree")
    if new != new_root:
        raise ProofError("the proof leads to another root of the newer tree")


def _up_to_right_child(node: int, last: int) -> tuple[int, int]:
    """Pass the levels on which the last node has no sibling."""
    while not node & 1 and node:
        node, last = node >> 1, last >> 1
    return node, last


@dataclass(slots=True)
class Frontier:
    """A tree's complete subtrees, largest first: all that is needed to make it grow.

    It has one hash for each bit that is set in the tree's size.
    """

    size: int = 0
    hashes: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_size(self.size)
        _check_hashes(*self.hashes)
        if len(self.hashes) != self.size.bit_count():
            raise ProofError("not the complete subtrees of a tree of this size")

    @classmethod
    def at(cls, size: int, hash_at: HashAt) -> "Frontier":
        return cls(size, [hash_at(*subtree) for subtree in cover(0, size)])

    def append(self, leaf_hash: bytes) -> None:
        self.append_subtree(0, leaf_hash)

    def append_subtree(self, level: int, subtree_hash: bytes) -> None:
        """Add a complete subtree, which the tree's size has to leave room for on its level."""
        width = 1 << level
        if self.size & (width - 1):
            raise ProofError("a complete subtree does not begin here")
        _check_hashes(subtree_hash)
        _check_size(self.size + width)
        carry = self.size >> level
        while carry & 1:
            subtree_hash = hash_children(self.hashes.pop(), subtree_hash)
            carry >>= 1
        self.hashes.append(subtree_hash)
        self.size += width

    def append_cover(self, end: int, hashes: Sequence[bytes]) -> None:
        """Add the leaves up to `end`, from the hashes of their `cover`."""
        subtrees = cover(self.size, end)
        if len(subtrees) != len(hashes):
            raise ProofError("not the hashes of these leaves")
        for (level, _), subtree_hash in zip(subtrees, hashes, strict=True):
            self.append_subtree(level, subtree_hash)

    def root(self) -> bytes:
        return _fold(self.hashes) if self.hashes else EMPTY_ROOT


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Return the hash of complete subtrees that become smaller from left to right."""
    folded = hashes[-1]
    for left in hashes[-2::-1]:
        folded = hash_children(left, folded)
    return folded


def _hash_of(leaves: Range, hash_at: HashAt) -> bytes:
    """Return the hash of leaves that are a subtree, complete or at the tree's right edge."""
    return _fold([hash_at(*subtree) for subtree in cover(*leaves)])


def _reader_of(leaf_hashes: Sequence[bytes]) -> HashAt:
    levels = [list(leaf_hashes)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        pairs = zip(below[::2], below[1::2], strict=False)  # the last one may have no sibling
        levels.append([hash_children(left, right) for left, right in pairs])
    return lambda level, index: levels[level][index]


def _split(size: int) -> int:
    """Return the largest power of two that is smaller than the size."""
    return 1 << (size - 1).bit_length() - 1


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise ProofError("not the size of a tree")


def _check_hashes(*hashes: bytes) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise ProofError("not a SHA-256 hash")
