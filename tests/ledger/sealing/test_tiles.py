"""Tiles: their paths, how they grow, and what is computed from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.ledger.sealing.leaf import ENTRY_BYTES
from webapp.ledger.sealing.merkle import (
    HASH_BYTES,
    Frontier,
    cover,
    hash_children,
    hash_leaf,
    root_at,
    root_from_hashes,
)
from webapp.ledger.sealing.tiles import (
    TILE_BYTES,
    ReadTile,
    TileError,
    TileIndex,
    TileReader,
    decode_entries,
    encode_entries,
    entries_path,
    grow,
    hash_of_perfect,
    parse_index,
    tile_path,
    tiles_of,
    width_of,
)

LEAF_HASHES = [hash_leaf(number.to_bytes(4, "big")) for number in range(65_537)]
EDGES = (0, 1, 255, 256, 257, 65_535, 65_536, 65_537)

Store = dict[tuple[int, int], bytes]


def grown(sizes: list[int]) -> Store:
    """The tiles of a tree that grew from each size to the next."""
    store: Store = {}
    for before, after in zip([0, *sizes], sizes, strict=False):
        for tile in grow(before, LEAF_HASHES[before:after], reader(store)):
            assert tile.hashes.startswith(store.get((tile.level, tile.n), b""))
            assert tile.width <= 256
            store[tile.level, tile.n] = tile.hashes
    return store


def reader(store: Store) -> ReadTile:
    return lambda level, n: store[level, n]


@pytest.mark.parametrize(
    ("n", "width", "path"),
    [
        (0, 256, "000"),
        (5, 256, "005"),
        (999, 1, "999.p/1"),
        (1_000, 256, "x001/000"),
        (1_234_067, 256, "x001/x234/067"),
        (1_234_067, 255, "x001/x234/067.p/255"),
        (12_345_678_901, 256, "x012/x345/x678/901"),
    ],
)
def test_index_is_written_in_groups_of_three_digits(n: int, width: int, path: str) -> None:
    assert TileIndex(n, width).path == path
    assert parse_index(path) == TileIndex(n, width)
    assert tile_path(3, TileIndex(n, width)) == f"tile/3/{path}"
    assert entries_path(TileIndex(n, width)) == f"tile/entries/{path}"


@given(st.integers(0, 2**55 - 1), st.integers(1, 256))
def test_path_leads_back_to_its_index(n: int, width: int) -> None:
    index = TileIndex(n, width)
    assert parse_index(index.path) == index
    assert (index.first, index.end) == (n * 256, n * 256 + width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "0",
        "00",
        "0000",
        "x000/001",
        "x001",
        "001/002",
        "001/x002",
        "x001/02",
        "/001",
        "001/",
        "001.p",
        "001.p/",
        "001.p/0",
        "001.p/01",
        "001.p/256",
        "001.p/-1",
        "-01",
        "+01",
        "\u0660\u0660\u0661",
        "001\n",
        "001.p/1\n",
        "x999/" * 6 + "999",
        "x999/" * 5_000 + "999",
    ],
)
def test_other_form_of_a_path_is_refused(path: str) -> None:
    with pytest.raises(TileError):
        parse_index(path)


def test_tiles_of_the_specified_example_are_listed() -> None:
    """A tree of 70,000, as c2sp.org/tlog-tiles describes it."""
    tiles = list(tiles_of(70_000))
    assert [level for level, _ in tiles].count(0) == 274
    assert [(level, index.n, index.width) for level, index in tiles if not index.is_full] == [
        (0, 273, 112),
        (1, 1, 17),
        (2, 0, 1),
    ]
    assert [(level, index.n, index.width) for level, index in tiles_of(256)] == [
        (0, 0, 256),
        (1, 0, 1),
    ]
    assert list(tiles_of(0)) == []
    assert width_of(0, 274, 70_000) == 0


@pytest.mark.parametrize(
    "sizes",
    [
        [1],
        [255, 257],
        [256],
        [1, 2, 255, 256, 257, 511, 513],
        [65_535, 65_536, 65_537],
        [65_535, 65_537],
        [0, 65_537],
    ],
    ids=str,
)
def test_tree_that_grew_has_its_tiles_and_its_root(sizes: list[int]) -> None:
    store = grown(sizes)
    size = sizes[-1]
    assert sorted(store) == sorted((level, index.n) for level, index in tiles_of(size))
    for level, index in tiles_of(size):
        assert len(store[level, index.n]) == index.width * HASH_BYTES
    read = TileReader(reader(store), size)
    assert root_at(size, read) == root_from_hashes(LEAF_HASHES[:size])
    assert Frontier.at(size, read).root() == root_at(size, read)


@pytest.fixture(scope="module")
def levels() -> list[list[bytes]]:
    """The hashes of all complete subtrees over the leaves, by level."""
    rows = [LEAF_HASHES]
    while len(rows[-1]) > 1:
        row = rows[-1]
        pairs = zip(row[::2], row[1::2], strict=False)
        rows.append([hash_children(left, right) for left, right in pairs])
    return rows


@given(st.data())
def test_hash_of_each_complete_subtree_is_read_from_tiles(
    levels: list[list[bytes]], data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from(EDGES[1:]))
    level, index = data.draw(st.sampled_from(cover(data.draw(st.integers(0, size - 1)), size)))
    read = TileReader(reader(STORES.setdefault(size, grown([size]))), size)
    assert read(level, index) == levels[level][index]


STORES: dict[int, Store] = {}


def test_older_tree_is_read_from_tiles_that_have_grown() -> None:
    store = grown([300, 700])
    for size in (1, 256, 300, 512, 699):
        assert root_at(size, TileReader(reader(store), size)) == root_from_hashes(
            LEAF_HASHES[:size]
        )


def test_tile_is_read_once_for_many_subtrees() -> None:
    store, asked = grown([200]), []

    def read(level: int, n: int) -> bytes:
        asked.append((level, n))
        return store[level, n]

    hash_at = TileReader(read, 200)
    assert [hash_at(0, number) for number in range(200)] == LEAF_HASHES[:200]
    assert asked == [(0, 0)]


def test_tile_that_is_too_short_is_refused() -> None:
    store = grown([300])
    short = {**store, (0, 1): store[0, 1][:-HASH_BYTES]}
    with pytest.raises(TileError, match="tile 1 of level 0"):
        root_at(300, TileReader(reader(short), 300))
    with pytest.raises(TileError, match="tile 1 of level 0"):
        grow(300, LEAF_HASHES[300:301], reader(short))
    with pytest.raises(TileError, match="not SHA-256"):
        grow(300, [b"short"], reader(store))
    with pytest.raises(TileError, match="not a subtree"):
        TileReader(reader(store), 300)(0, 300)
    with pytest.raises(TileError, match="not a subtree"):
        TileReader(reader(store), 300)(0, -1)


@pytest.mark.parametrize("hashes", [b"", bytes(96), bytes(31), bytes(TILE_BYTES - 32)])
def test_hashes_that_are_no_complete_subtree_are_refused(hashes: bytes) -> None:
    with pytest.raises(TileError):
        hash_of_perfect(hashes)


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_bundle_holds_its_entries_in_order(entries: list[bytes]) -> None:
    data = encode_entries(entries)
    assert decode_entries(data, len(entries)) == entries
    for wrong, width in ((data + b"\0", len(entries)), (data[:-1], len(entries))):
        if wrong != data:
            with pytest.raises(TileError):
                decode_entries(wrong, width)
    with pytest.raises(TileError):
        decode_entries(data, len(entries) + 1)


def test_longest_entry_fits_and_a_longer_one_is_refused() -> None:
    assert decode_entries(encode_entries([bytes(ENTRY_BYTES)]), 1) == [bytes(ENTRY_BYTES)]
    with pytest.raises(TileError):
        encode_entries([bytes(ENTRY_BYTES + 1)])
