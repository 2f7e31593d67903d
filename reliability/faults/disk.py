"""The disk under the journals, to be filled, and to fail or hang in its system calls."""

import os
import resource
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

SIZE = 24 * 2**20
LIMIT = 2**16
"""Bytes of a file beyond which nothing may be written, where no small disk can be mounted."""

BLOCK = 2**16
ATTACHED = 20.0
PATIENCE = 20.0
LOG_LINE, FEW_CALLS = 1000, 10
"""Bytes that what else a thread writes, its lines in the log, stays below at a time; and how many
calls are enough to tell."""

SYSCALLS = "pwrite64,fdatasync,fsync"


class StraceMissing(Exception):
    def __init__(self) -> None:
        super().__init__(
            "strace is not installed, and without it no system call of the journal can be made to"
            " fail: `apt-get install strace` (the Makefile does that where it is root)"
        )


class NobodyWrites(Exception):
    """A fault that would hit nothing proves nothing."""


class Disk(ABC):
    @abstractmethod
    def fill(self, writers: Sequence[psutil.Process]) -> None:
        """From now on these processes have no room there."""

    @abstractmethod
    def free(self) -> None:
        """There is room again."""


class SmallDisk(Disk):
    """A file system of its own, filled by a file."""

    def __init__(self, directory: Path) -> None:
        self._filler = directory / "filler"

    def fill(self, writers: Sequence[psutil.Process]) -> None:
        with suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            for size in (BLOCK, 1):
                with suppress(OSError):
                    while filler.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


class LimitedFiles(Disk):
    """Where nothing can be mounted: a limit to the size of the files that the processes write."""

    def __init__(self) -> None:
        self._limited: list[psutil.Process] = []

    def fill(self, writers: Sequence[psutil.Process]) -> None:
        self._limited = list(writers)
        self._limit(LIMIT)

    def free(self) -> None:
        self._limit(resource.RLIM_INFINITY)
        self._limited = []

    def _limit(self, most: int) -> None:
        for process in self._limited:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, hard))


@contextmanager
def journal_disk(directory: Path) -> Iterator[Disk]:
    directory.mkdir()
    if not _mount(directory):
        yield LimitedFiles()
        return
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _mount(directory: Path) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    options = f"size={SIZE},mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "sightline-journals", str(directory)]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


class Tracer:
    """strace, attached to the threads of running processes that write journals, has their system
    calls fail or take long.

    To those threads alone, since whatever it is attached to becomes slow.
    """

    def __init__(self, processes: Sequence[psutil.Process], injection: str, log: Path) -> None:
        inject = ["-e", f"inject={SYSCALLS}:{injection}", "-o", os.devnull]
        self._strace = _attach(_find_writers(processes), inject, log)

    def detach(self) -> None:
        _end(self._strace)


def _find_writers(processes: Sequence[psutil.Process]) -> list[int]:
    """The threads that write whole pages, as SQLite does, and nobody else here.

    By the kernel's own count, since strace would slow all of them down.
    """
    deadline = time.monotonic() + PATIENCE
    while not (found := [number for p in processes for number in _writers_of(p)]):
        if time.monotonic() > deadline:
            raise NobodyWrites("no web process writes a journal")
        time.sleep(0.05)
    return found


def _writers_of(process: psutil.Process) -> Iterator[int]:
    for counts in Path(f"/proc/{process.pid}/task").glob("*/io"):
        with suppress(OSError):  # the thread has ended
            io = dict(line.split(": ") for line in counts.read_text().splitlines())
            written, calls = int(io["wchar"]), int(io["syscw"])
            if calls >= FEW_CALLS and written / calls > LOG_LINE:
                yield int(counts.parent.name)


def _attach(ids: Sequence[int], options: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Return once it is attached to all of them."""
    pids = [argument for number in ids for argument in ("-p", str(number))]
    command = [require_strace(), "-e", f"trace={SYSCALLS}", *options, *pids]
    with log.open("wb") as output:
        strace = subprocess.Popen(command, stderr=output)
    deadline = time.monotonic() + ATTACHED
    while log.read_bytes().count(b"attached") < len(ids):
        if strace.poll() is not None or time.monotonic() > deadline:
            break  # one has just been killed: what else is there is attached
        time.sleep(0.02)
    return strace


def _end(strace: subprocess.Popen[bytes]) -> None:
    strace.terminate()
    try:
        strace.wait(ATTACHED)
    except subprocess.TimeoutExpired:
        strace.kill()
        strace.wait()


def require_strace() -> str:
    strace = shutil.which("strace")
    if strace is None:
        raise StraceMissing
    return strace
