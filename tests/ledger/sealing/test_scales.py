"""Tiles, proofs and signatures as `tlog-scales` sees them, a reader of logs that is not ours."""

from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tiles import leaf_hash
from tlog_scales.tlog import ConsistencyProofInvalid, InclusionProofInvalid
from tlog_scales.writer import TilesWriter

from webapp.ledger.sealing.checkpoint import Checkpoint
from webapp.ledger.sealing.leaf import encode_bytes, event_leaf
from webapp.ledger.sealing.merkle import (
    consistency_proof_at,
    hash_leaf,
    inclusion_proof_at,
    root_at,
)
from webapp.ledger.sealing.note import (
    cosigner,
    ed25519_signer,
    ml_dsa_44_cosigner,
    sign_note,
)
from webapp.ledger.sealing.tiles import (
    TileReader,
    encode_entries,
    entries_path,
    grow,
    tile_path,
    tiles_of,
)

SIZES = (1, 255, 256, 257, 700, 65_537)
ORIGIN = "log.example/one"
SIGNERS = [
    ed25519_signer(ORIGIN, bytes(range(32))),
    cosigner(ORIGIN, bytes([4] * 32), 1_000),
    ml_dsa_44_cosigner(ORIGIN, bytes([6] * 32), 1_000),
]
DIGEST = encode_bytes(bytes(32))


def entry(index: int) -> bytes:
    return event_leaf(DIGEST, [("all", index + 1)])


class Log:
    """A log that has grown through `SIZES`, as the files that it serves at each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: dict[tuple[int, int], bytes] = {}
        self.entries = [entry(index) for index in range(SIZES[-1])]
        self.roots: dict[int, bytes] = {}
        for before, size in zip((0, *SIZES), SIZES, strict=False):
            hashes = [hash_leaf(each) for each in self.entries[before:size]]
            for tile in grow(before, hashes, lambda level, n: self.store[level, n]):
                self.store[tile.level, tile.n] = tile.hashes
            self.roots[size] = root_at(size, self.reader(size))

    def reader(self, size: int) -> TileReader:
        return TileReader(lambda level, n: self.store[level, n], size)

    def served(self, size: int) -> Path:
        """The directory of the files of this size."""
        path = self.root / str(size)
        if not path.exists():
            for level, index in tiles_of(size):
                tile = self.store[level, index.n][: index.width * 32]
                self.write(path / tile_path(level, index), tile)
                if level == 0:
                    bundle = encode_entries(self.entries[index.first : index.end])
                    self.write(path / entries_path(index), bundle)
            note = sign_note(Checkpoint(ORIGIN, size, self.roots[size]).text, SIGNERS)
            self.write(path / "checkpoint", note)
        return path

    @staticmethod
    def write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tmp_path_factory.mktemp("log"))


def opened(path: Path) -> TilesReader:
    reader = TilesReader(LocalBackend(path))
    reader.get_checkpoint()
    return reader


@pytest.mark.parametrize("size", SIZES)
def test_scales_reads_our_root_and_our_signatures(log: Log, size: int) -> None:
    reader = opened(log.served(size))
    assert reader.calculate_root_hash() == log.roots[size]
    checkpoint = reader.get_checkpoint()
    assert (checkpoint.origin, checkpoint.size) == (ORIGIN, size)
    assert checkpoint.root_hash == log.roots[size]
    for signer in SIGNERS:
        checkpoint.verify(Vkey.from_string(str(signer.verifier)))


@pytest.mark.parametrize("size", SIZES)
def test_scales_makes_our_proofs_from_our_tiles_and_accepts_them(log: Log, size: int) -> None:
    reader = opened(log.served(size))
    for index in sorted({0, size // 2, size - 1}):
        theirs = reader.get_inclusion_proof(index, size)
        assert theirs.node_hashes == inclusion_proof_at(index, size, log.reader(size))
        theirs.check(leaf_hash(reader.get_entry(index)), log.roots[size])
        assert reader.get_entry(index) == log.entries[index]
    for old in SIZES[: SIZES.index(size) + 1]:
        consistency = reader.get_consistency_proof(old, size)
        assert consistency.node_hashes == consistency_proof_at(old, size, log.reader(size))
        consistency.check(log.roots[old], log.roots[size])


def test_scales_writes_the_very_same_files(log: Log, tmp_path: Path) -> None:
    writer = TilesWriter.create(tmp_path / "theirs", ORIGIN)
    for each in log.entries[:700]:
        writer.add_leaf(each)
    writer.commit([])
    ours = log.served(700)
    theirs = {path.relative_to(tmp_path / "theirs") for path in tmp_path.rglob("tile/**/*")}
    files = {path for path in theirs if (tmp_path / "theirs" / path).is_file()}
    assert files == {path.relative_to(ours) for path in ours.rglob("tile/**/*") if path.is_file()}
    for path in files:
        assert (tmp_path / "theirs" / path).read_bytes() == (ours / path).read_bytes()


def test_scales_refuses_a_flipped_byte_of_an_entry_a_tile_a_proof_and_a_signature(
    log: Log,
) -> None:
    path, size = log.served(700), 700
    reader = opened(path)
    proof = reader.get_inclusion_proof(600, size)
    with pytest.raises(InclusionProofInvalid):
        proof.check(leaf_hash(flipped(log.entries[600])), log.roots[size])
    proof.node_hashes[2] = flipped(proof.node_hashes[2])
    with pytest.raises(InclusionProofInvalid):
        proof.check(leaf_hash(log.entries[600]), log.roots[size])
    consistency = reader.get_consistency_proof(257, size)
    consistency.node_hashes[-1] = flipped(consistency.node_hashes[-1])
    with pytest.raises(ConsistencyProofInvalid):
        consistency.check(log.roots[257], log.roots[size])
    tile = path / "tile" / "0" / "001"
    whole = tile.read_bytes()
    tile.write_bytes(flipped(whole))
    assert opened(path).calculate_root_hash() == log.roots[size]  # level 1 has its hash
    with pytest.raises(InclusionProofInvalid):
        opened(path).get_inclusion_proof(300, size).check(
            leaf_hash(log.entries[300]), log.roots[size]
        )
    tile.write_bytes(whole)
    note = path / "checkpoint"
    for number, signer in enumerate(SIGNERS):
        lines = note.read_text().split("\n")
        assert lines[4 + number].startswith("\u2014 ")
        line = lines[4 + number]
        lines[4 + number] = line[:60] + ("A" if line[60] != "A" else "B") + line[61:]
        note.write_text("\n".join(lines))
        with pytest.raises(InvalidSignature):
            opened(path).get_checkpoint().verify(Vkey.from_string(str(signer.verifier)))


def flipped(data: bytes) -> bytes:
    return data[:5] + bytes([data[5] ^ 1]) + data[6:]
