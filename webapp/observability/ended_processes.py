"""The metrics of processes that have ended, added up in one file instead of one for each.

prometheus_client gives each process files of its own and keeps them for ever: a sum that forgot a
process would fall, and Prometheus would take that for a restart. So what they counted is kept, and
their files go.
"""

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

ADDED_UP = ("counter", "histogram")
"""The kinds of metrics that outlive their process. A gauge says what is, so it goes with it."""

ENDED = "ended"
"""What stands in a file's name in the place of a process id."""


@contextmanager
def added_up(directory: Path) -> Iterator[None]:
    """Add up what ended processes have counted, and let nobody else do so during the block.

    Processes are known by their ids, so all that share the directory must see each other.
    """
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for kind in ADDED_UP:
            _add_up(directory / f"{kind}_{ENDED}.db", _of_ended(directory, kind))
        for path in _of_ended(directory, "gauge"):
            path.unlink(missing_ok=True)
        yield


def _of_ended(directory: Path, kind: str) -> list[Path]:
    return [path for path in directory.glob(f"{kind}_*.db") if _has_ended(path)]


def _has_ended(path: Path) -> bool:
    pid = path.stem.rpartition("_")[2]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _add_up(total: Path, files: list[Path]) -> None:
    if not files:
        return
    sums: defaultdict[str, float] = defaultdict(float)
    for key, value in _values((*files, *([total] if total.exists() else []))):
        sums[key] += value
    fresh = total.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    written = MmapedDict(str(fresh))  # type: ignore[no-untyped-call]  # it ships none for this
    for key, value in sums.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]  # as above
    written.close()  # type: ignore[no-untyped-call]  # as above
    for path in files:
        path.unlink(missing_ok=True)
    fresh.rename(total)


def _values(files: Iterable[Path]) -> Iterator[tuple[str, float]]:
    for path in files:
        read = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]  # as above
        for key, value, *_ in read:
            yield key, value
