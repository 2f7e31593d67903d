"""Moving the clock of running processes: libfaketime reads from a file how far it is off."""

import os
from collections.abc import Mapping
from pathlib import Path

PATTERN = "*/faketime/libfaketimeMT.so.1"
HERE = Path(__file__).parent


class TimeMachine:
    """Moves the wall clock; the monotonic one stays, as it does when a machine's time is set."""

    def __init__(self, file: Path, library: Path) -> None:
        self._file = file
        self._library = library
        self.set(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """What the processes are started with whose clock is to be moved."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": str(HERE / "clock"),
        }

    def set(self, seconds: int) -> None:
        """Have the clock go so many seconds ahead, or behind, within the next second."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self._file)  # nobody may read half of it


def find_time_machine(file: Path) -> TimeMachine | None:
    found = sorted(Path("/usr/lib").glob(PATTERN))
    return TimeMachine(file, found[0]) if found and os.name == "posix" else None
