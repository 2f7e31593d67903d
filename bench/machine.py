"""What this runs on, and which part of it goes where."""

import os
import platform
import shutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """Where the measured web process runs, and where all the rest does.

    Both empty where nothing can be pinned.
    """

    web: tuple[int, ...]
    rest: tuple[int, ...]

    def take_rest(self) -> None:
        """Go there with everything that this process starts, but for what `pin_web` pins."""
        if self.rest:
            os.sched_setaffinity(0, self.rest)

    def pin_web(self, command: list[str]) -> list[str]:
        return ["taskset", "-c", ",".join(map(str, self.web)), *command] if self.web else command

    def __str__(self) -> str:
        if not self.web:
            return "nothing pinned: no taskset, or a single core"
        rest = ",".join(map(str, self.rest))
        return f"the web process on core {self.web[0]}; wrk, servers and workers on {rest}"


def find_cores() -> Cores:
    if shutil.which("taskset") is None:
        return Cores((), ())
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return Cores((), ())
    return Cores((cores[0],), tuple(cores[1:]))


def describe() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
