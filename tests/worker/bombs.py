"""Compressed bytes that stand for many more."""

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE = b"0" * 2**20


def compress(data: bytes) -> bytes:
    packed: bytes = zstd.compress(data)
    return packed


def bomb(size: int) -> bytes:
    """Return some kilobytes that unpack to `size` bytes, without holding those."""
    packer = zstd.ZstdCompressor()
    parts = [packer.compress(_PIECE) for _ in range(size // len(_PIECE))]
    return b"".join([*parts, packer.flush()])
