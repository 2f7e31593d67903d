"""RFC 6962 trees: known roots, and every proof against the RFC's own recursive definitions."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.ledger.sealing.merkle import (
    EMPTY_ROOT,
    MAX_SIZE,
    Frontier,
    ProofError,
    consistency_proof,
    consistency_proof_at,
    cover,
    hash_children,
    hash_leaf,
    inclusion_proof,
    inclusion_proof_at,
    root_at,
    root_from_hashes,
    verify_consistency,
    verify_inclusion,
)

# The leaves of the trees with which implementations of Certificate Transparency are compared, and
# the roots of the trees of the first one, two, … of them.
KNOWN_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
KNOWN_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

LEAF_HASHES = [hash_leaf(number.to_bytes(4, "big")) for number in range(65_537)]

EDGES = (0, 1, 2, 3, 255, 256, 257, 65_535, 65_536, 65_537)
SIZES = st.sampled_from(EDGES) | st.integers(0, 600)


def mth(start: int, end: int) -> bytes:
    """The hash of leaves, as RFC 6962 §2.1 defines it."""
    count = end - start
    if count == 0:
        return sha256(b"").digest()
    if count == 1:
        return LEAF_HASHES[start]
    split = 1
    while split * 2 < count:
        split *= 2
    return sha256(b"\x01" + mth(start, start + split) + mth(start + split, end)).digest()


@pytest.fixture(scope="module")
def levels() -> list[list[bytes]]:
    """The hashes of all complete subtrees over the leaves, by level."""
    rows = [LEAF_HASHES]
    while len(rows[-1]) > 1:
        row = rows[-1]
        pairs = zip(row[::2], row[1::2], strict=False)
        rows.append([hash_children(left, right) for left, right in pairs])
    return rows


@pytest.mark.parametrize("size", range(9))
def test_known_trees_have_their_known_roots(size: int) -> None:
    hashes = [hash_leaf(leaf) for leaf in KNOWN_LEAVES[:size]]
    assert root_from_hashes(hashes).hex() == KNOWN_ROOTS[size]


def test_known_proofs_of_certificate_transparency_are_made() -> None:
    hashes = [hash_leaf(leaf) for leaf in KNOWN_LEAVES]
    assert [each.hex() for each in inclusion_proof(0, hashes)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [each.hex() for each in consistency_proof(6, hashes)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", EDGES)
def test_root_is_what_the_rfc_defines_however_it_is_computed(
    size: int, levels: list[list[bytes]]
) -> None:
    expected = mth(0, size)
    assert root_from_hashes(LEAF_HASHES[:size]) == expected
    assert root_at(size, lambda level, index: levels[level][index]) == expected
    assert Frontier.at(size, lambda level, index: levels[level][index]).root() == expected


@given(st.data())
def test_inclusion_proof_proves_its_leaf_and_no_other(
    levels: list[list[bytes]], data: st.DataObject
) -> None:
    size = data.draw(SIZES.filter(bool))
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof_at(index, size, lambda level, at: levels[level][at])
    root = mth(0, size) if size < 1_000 else root_from_hashes(LEAF_HASHES[:size])
    verify_inclusion(index, size, LEAF_HASHES[index], proof, root)
    if size < 1_000:
        assert proof == inclusion_proof(index, LEAF_HASHES[:size])
    for wrong in (
        (index, size, LEAF_HASHES[index - 1] if size > 1 else root[::-1], proof, root),
        (index, size, LEAF_HASHES[index], [*proof, root], root),
        (index, size, LEAF_HASHES[index], proof, root[::-1]),
        (size, size, LEAF_HASHES[index], proof, root),
        (-1, size, LEAF_HASHES[index], proof, root),
    ):
        with pytest.raises(ProofError):
            verify_inclusion(*wrong)
    for at in range(len(proof)):
        broken = [*proof[:at], flipped(proof[at]), *proof[at + 1 :]]
        for wrong_proof in (broken, proof[:at], proof[at + 1 :]):
            with pytest.raises(ProofError):
                verify_inclusion(index, size, LEAF_HASHES[index], wrong_proof, root)


@given(st.data())
def test_consistency_proof_proves_its_prefix_and_no_other(
    levels: list[list[bytes]], data: st.DataObject
) -> None:
    new = data.draw(SIZES)
    old = data.draw(st.integers(0, new) | st.sampled_from([size for size in EDGES if size <= new]))
    roots = [root_at(size, lambda level, at: levels[level][at]) for size in (old, new)]
    proof = consistency_proof_at(old, new, lambda level, at: levels[level][at])
    verify_consistency(old, new, proof, *roots)
    if new < 1_000:
        assert proof == consistency_proof(old, LEAF_HASHES[:new])
    with pytest.raises(ProofError):
        verify_consistency(old, new, proof, flipped(roots[0]), roots[1])
    with pytest.raises(ProofError):
        verify_consistency(old, new, [*proof, roots[0]], *roots)
    for wrong in (new + 1, -1):
        with pytest.raises(ProofError):
            verify_consistency(wrong, new, proof, *roots)
    if old:
        with pytest.raises(ProofError):
            verify_consistency(old, new, proof, roots[0], flipped(roots[1]))
    for at in range(len(proof)):
        broken = [*proof[:at], flipped(proof[at]), *proof[at + 1 :]]
        for wrong_proof in (broken, proof[:at], proof[at + 1 :]):
            with pytest.raises(ProofError):
                verify_consistency(old, new, wrong_proof, *roots)


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@given(start=SIZES, end=SIZES)
def test_cover_is_contiguous_aligned_and_as_short_as_can_be(start: int, end: int) -> None:
    start, end = min(start, end), max(start, end)
    at = start
    for level, index in cover(start, end):
        assert index << level == at
        at += 1 << level
    assert at == end
    widths = [level for level, _ in cover(start, end)]
    rising = [a < b for a, b in zip(widths, widths[1:], strict=False)]
    # Subtrees first grow and then shrink, and no two neighbours of one parent stand side by side.
    assert rising == sorted(rising, reverse=True)
    assert not any(
        a == b and i % 2 == 0
        for (a, i), (b, _) in zip(cover(start, end), cover(start, end)[1:], strict=False)
    )


@given(sizes=st.lists(SIZES, min_size=1, max_size=8))
def test_frontier_that_grows_by_covers_has_the_root_of_each_size(
    levels: list[list[bytes]], sizes: list[int]
) -> None:
    frontier = Frontier()
    for size in sorted(sizes):
        hashes = [levels[level][index] for level, index in cover(frontier.size, size)]
        frontier.append_cover(size, hashes)
        assert frontier.root() == root_at(size, lambda level, index: levels[level][index])


def test_frontier_refuses_what_is_no_part_of_the_tree() -> None:
    frontier = Frontier()
    frontier.append(LEAF_HASHES[0])
    for wrong in (
        lambda: frontier.append_subtree(1, LEAF_HASHES[1]),
        lambda: frontier.append(b"short"),
        lambda: frontier.append_cover(3, [LEAF_HASHES[1]]),
        lambda: frontier.append_cover(0, []),
        lambda: Frontier(3, [LEAF_HASHES[0]]),
        lambda: Frontier(-1, []),
    ):
        with pytest.raises(ProofError):
            wrong()
    assert frontier.root() == LEAF_HASHES[0]


def test_no_proof_exists_beyond_the_tree() -> None:
    for wrong in (
        lambda: inclusion_proof(0, []),
        lambda: inclusion_proof(2, LEAF_HASHES[:2]),
        lambda: inclusion_proof(-1, LEAF_HASHES[:2]),
        lambda: consistency_proof(3, LEAF_HASHES[:2]),
        lambda: consistency_proof(-1, LEAF_HASHES[:2]),
        lambda: cover(2, 1),
        lambda: root_at(MAX_SIZE + 1, lambda level, index: EMPTY_ROOT),
    ):
        with pytest.raises(ProofError):
            wrong()


def test_largest_tree_is_proven_without_recursion() -> None:
    """All complete subtrees alike: the proof has 63 hashes, and is made and checked at once."""
    row = [hash_leaf(b"")]
    for _ in range(63):
        row.append(hash_children(row[-1], row[-1]))
    size = MAX_SIZE
    proof = inclusion_proof_at(size - 1, size, lambda level, index: row[level])
    root = root_at(size, lambda level, index: row[level])
    verify_inclusion(size - 1, size, row[0], proof, root)
    old = 2**62 + 1
    consistency = consistency_proof_at(old, size, lambda level, index: row[level])
    old_root = root_at(old, lambda level, index: row[level])
    verify_consistency(old, size, consistency, old_root, root)


def test_everything_is_consistent_with_the_empty_tree_only_where_its_root_is_empty() -> None:
    root = mth(0, 5)
    verify_consistency(0, 5, [], EMPTY_ROOT, root)
    verify_consistency(0, 0, [], EMPTY_ROOT, EMPTY_ROOT)
    with pytest.raises(ProofError):
        verify_consistency(0, 5, [], root, root)
    with pytest.raises(ProofError):
        verify_consistency(0, 0, [], root, root)
    with pytest.raises(ProofError):
        verify_consistency(0, 5, [root], EMPTY_ROOT, root)
