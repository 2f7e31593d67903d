"""The wall clock of running processes, moved by libfaketime, which reads the offset from a file."""

import os
from collections.abc import Mapping
from pathlib import Path

PATTERN = "*/faketime/libfaketimeMT.so.1"
HERE = Path(__file__).parent


class WallClock:
    """Moves the wall clock. The monotonic clock stays, as it does when somebody sets a machine's
    time."""

    def __init__(self, file: Path, library: Path) -> None:
        self._file = file
        self._library = library
        self.set(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables for processes whose clock is to be moved."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": str(HERE / "preloaded"),
        }

    def set(self, seconds: int) -> None:
        """Put the clock so many seconds ahead, or behind; the processes follow within a second."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self._file)  # nobody may read half of it


def find_wall_clock(file: Path) -> WallClock | None:
    found = sorted(Path("/usr/lib").glob(PATTERN))
    return WallClock(file, found[0]) if found and os.name == "posix" else None
