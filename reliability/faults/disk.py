"""The disk under the journals: fill it, or have its system calls fail or hang."""

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
"""The largest size of a file, in bytes, where no small disk can be mounted."""

BLOCK = 2**16
ATTACHED = 120.0
PATIENCE = 120.0
LOG_LINE, FEW_CALLS = 1000, 10
"""A thread that writes its log writes less than this many bytes at a time; this many calls are
enough to tell."""

SYSCALLS = "pwrite64,fdatasync,fsync"


class StraceMissing(Exception):
    def __init__(self) -> None:
        super().__init__(
            "strace is not installed, and without it no system call of the journal can be made to"
            " fail: `apt-get install strace` (the Makefile does that where it is root)"
        )


class NoJournalWriter(Exception):
    """No process writes a journal, so that a fault would prove nothing."""


class Disk(ABC):
    @abstractmethod
    def fill(self, writers: Sequence[psutil.Process]) -> None:
        """Leave these processes no room."""

    @abstractmethod
    def free(self) -> None:
        """Give the processes room again."""


class SmallDisk(Disk):
    """A file system of its own, which one large file fills."""

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
    """A limit to the size of the files that the processes write, where nothing can be mounted."""

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
    """strace makes the system calls of the threads that write journals fail or take long.

    It is attached to those threads alone, because it slows down every thread that it is attached
    to.
    """

    def __init__(self, processes: Sequence[psutil.Process], injection: str, log: Path) -> None:
        inject = ["-e", f"inject={SYSCALLS}:{injection}", "-o", os.devnull]
        self._strace = _attach(_find_writers(processes), inject, log)

    def detach(self) -> None:
        _end(self._strace)


def _find_writers(processes: Sequence[psutil.Process]) -> list[int]:
    """The threads that write whole pages, which only SQLite does here.

    The kernel's counters tell them apart; strace would slow all threads down.
    """
    deadline = time.monotonic() + PATIENCE
    while not (found := [number for p in processes for number in _writers_of(p)]):
        if time.monotonic() > deadline:
            raise NoJournalWriter("no web process writes a journal")
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
    """Attach strace, and return once it is attached to all threads."""
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
