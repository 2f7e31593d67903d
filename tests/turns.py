"""Turns of a run's workers: many side by side, or one alone."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def taken(directory: Path, *, alone: bool) -> Iterator[None]:
    """Hold a turn, shared or alone.

    A worker that waits to be alone lets no other begin, or it might wait without end.
    """
    directory.mkdir(exist_ok=True)
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (directory / "room").open("w") as room:
        with (directory / "entrance").open("w") as entrance:
            fcntl.flock(entrance, kind)
            fcntl.flock(room, kind)
        yield
