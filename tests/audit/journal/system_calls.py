"""The system calls of a process with a journal, in order, as strace reports them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reliability.faults.disk import require_strace
from reliability.faults.journal_process import name_of
from reliability.faults.system_calls import ENDINGS, TIMEOUT
from tests.processes import ROOT

CALLS = "openat,mkdir,write,pwrite64,fsync,fdatasync"
FILES = 4
"""More files than a journal uses whose disk fails once."""

PAGE_AND_MORE = 2**14
"""Characters of written data that strace shows."""

_LINE = re.compile(r"(\d+) +(\w+)\((.*?)(?: <unfinished \.\.\.>|\) += (.*))")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>.*\) += (.*)")
_PATH = re.compile(r'\d+<([^>]*)>|(?:AT_FDCWD<[^>]*>, )?"([^"]*)"')


@dataclass
class SystemCall:
    name: str
    path: Path
    arguments: str
    began: int
    """The line of the trace. A call that another thread's call interrupts ends in a later line."""
    ended: int
    result: str

    @property
    def succeeded(self) -> bool:
        return bool(self.result) and not self.result.startswith("-")


def trace_journal(directory: Path, injection: str | None = None) -> list[SystemCall]:
    """Return the calls of a journal in `directory`, from its beginning to its end.

    They include the writes of its process to the file `report` beside the directory, which tell
    what the journal has acknowledged.
    """
    trace, report = directory.with_name("trace"), directory.with_name("report")
    paths = [directory.parent, directory, report]
    paths += [directory / f"{name_of(n)}{end}" for n in range(1, FILES) for end in ENDINGS]
    command = [require_strace(), "-f", "-y", "-qq", "--seccomp-bpf", "-s", str(PAGE_AND_MORE)]
    command += ["-o", str(trace), "-e", f"trace={CALLS}"]
    command += ["-e", f"inject={injection}"] if injection is not None else []
    command += [argument for path in paths for argument in ("-P", str(path))]
    command += [sys.executable, "-m", "reliability.faults.journal_process", str(directory)]
    with report.open("wb") as output:
        subprocess.run(command, cwd=ROOT, stdout=output, timeout=TIMEOUT, check=True)
    return list(_parse(trace.read_text()))


def _parse(trace: str) -> Iterator[SystemCall]:
    unfinished: dict[str, SystemCall] = {}
    for number, line in enumerate(trace.splitlines()):
        if (resumed := _RESUMED.match(line)) is not None:
            call = unfinished.pop(resumed[1])
            call.ended, call.result = number, resumed[2]
        elif (found := _LINE.fullmatch(line)) is not None:
            thread, name, arguments, result = found.groups()
            path = _PATH.match(arguments)
            assert path is not None, line
            call = SystemCall(
                name, Path(path[1] or path[2]), arguments, number, number, result or ""
            )
            if result is None:
                unfinished[thread] = call
            yield call
