"""The machine: what it is, and which of its cores the measured process has for itself."""

import os
import platform
import shutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """The core of the measured web process, and the cores of everything else.

    Both are empty where nothing can be pinned.
    """

    web: tuple[int, ...]
    rest: tuple[int, ...]

    def take_rest(self) -> None:
        """Pin this process, and whatever it starts without `pin_web`, to the rest."""
        if self.rest:
            os.sched_setaffinity(0, self.rest)

    def pin_web(self, command: list[str]) -> list[str]:
        return ["taskset", "-c", ",".join(map(str, self.web)), *command] if self.web else command

    def __str__(self) -> str:
        if not self.web:
            return "nothing pinned, for want of taskset or of a second core"
        rest = ",".join(map(str, self.rest))
        return f"web process pinned to core {self.web[0]}; wrk, databases and workers to {rest}"


NOTHING_PINNED = Cores((), ())


def find_cores() -> Cores:
    cores = sorted(os.sched_getaffinity(0))
    if shutil.which("taskset") is None or len(cores) < 2:
        return NOTHING_PINNED
    return Cores((cores[0],), tuple(cores[1:]))


def describe() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
