"""Make every system call of a journal on its files fail once, and be the last call once.

strace makes one call of a process fail, or kills the process when it makes the call. Then the files
are adopted, and what they hold is compared with what the process had been promised.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, get_args
from uuid import UUID

from reliability.faults.disk import require_strace
from reliability.faults.journal_process import CRASH, name_of
from tests.audit.journal.journals import MAX_BYTES
from tests.processes import ROOT
from webapp.audit.event import AuditEvent, load_event
from webapp.audit.journal import file as journal_file

CALLS = (
    *("openat", "mkdir", "write", "pwrite64", "ftruncate", "fallocate"),
    *("fsync", "fdatasync", "rename", "unlink", "flock"),
)
FILES = 40
"""The most files that a journal goes through while its disk fails."""

FEW = 3
AT_ONCE = 2
TIMEOUT = 120
ENDINGS = (".journal", ".journal-wal", ".journal-shm", ".journal-journal", ".lock")

Mode = Literal["fails", "fails a few times", "fails from then on", "is the last"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Case:
    call: str
    number: int
    """Which call of that name fails; each thread counts its own."""
    mode: Mode

    @property
    def injection(self) -> str:
        match self.mode:
            case "fails":
                return f"{self.call}:error=EIO:when={self.number}"
            case "fails a few times":
                return f"{self.call}:error=EIO:when={self.number}..{self.number + FEW}"
            case "fails from then on":
                return f"{self.call}:error=EIO:when={self.number}+"
            case "is the last":
                return f"{self.call}:signal=KILL:when={self.number}"


@dataclass(frozen=True)
class CaseResult:
    case: Case
    reached: bool
    """Whether the process made that many calls."""
    acknowledged: int
    refused: int
    problems: tuple[str, ...]


def find_cases() -> list[Case]:
    """Find all cases, by a run in which nothing fails."""
    with tempfile.TemporaryDirectory(prefix="sightline-injection-") as home:
        directory = Path(home, "journal")
        printed, trace, returned = _run_process(directory, None, [])
        problems = _check(printed, directory)
        if returned or problems:
            raise AssertionError(
                f"it fails without any fault: {returned} {problems} {printed[-5:]}"
            )
    counts: Counter[tuple[str, str]] = Counter(re.findall(r"^(\d+) +(\w+)\(", trace, re.M))
    most = {call: max(n for (_, name), n in counts.items() if name == call) for _, call in counts}
    return [
        Case(call, number, mode)
        for call in sorted(most)
        for number in range(1, most[call] + 1)
        for mode in MODES
    ]


def sample(cases: Sequence[Case], each: int, seed: int) -> list[Case]:
    """So many cases of each mode, and a failing flush, which every event waits for."""
    rng = Random(seed)  # noqa: S311 - to be repeatable, not secret
    by_mode = {mode: [case for case in cases if case.mode == mode] for mode in MODES}
    flushes = [case for case in cases if case.call == "fdatasync" and case.mode == "fails"]
    chosen = [case for some in by_mode.values() for case in rng.sample(some, min(each, len(some)))]
    return [rng.choice(flushes), *chosen]


def run_all(
    cases: Sequence[Case], report: Callable[[str], object] = lambda line: None
) -> Iterator[CaseResult]:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number, result in enumerate(threads.map(run_case, cases), 1):
            if number % 50 == 0:
                report(f"{number} of {len(cases)} system calls")
            yield result


def run_case(case: Case) -> CaseResult:
    with tempfile.TemporaryDirectory(prefix="sightline-injection-") as home:
        directory = Path(home, "journal")
        ending = [CRASH] if case.mode == "fails from then on" else []
        printed, trace, returned = _run_process(directory, case.injection, ending)
        problems = _check(printed, directory)
        if returned and case.mode != "is the last":
            problems.append(f"the process ended with {returned}")
    words = Counter(line.partition(" ")[0] for line in printed)
    return CaseResult(
        case,
        reached="(INJECTED)" in trace or "killed by SIGKILL" in trace,
        acknowledged=words["acknowledged"],
        refused=words["refused"],
        problems=tuple(problems),
    )


def _run_process(
    directory: Path, injection: str | None, arguments: Sequence[str]
) -> tuple[list[str], str, int]:
    """Run the process, and return what it printed, its trace and its exit code."""
    trace = directory.with_name("trace")
    paths = [directory.parent, directory]
    paths += [directory / f"{name_of(n)}{end}" for n in range(1, FILES) for end in ENDINGS]
    command = [require_strace(), "-f", "-qq", "-o", str(trace), "-e", f"trace={','.join(CALLS)}"]
    # A signal comes too early where seccomp stops the call, and else everything is faster with it.
    command += ["--seccomp-bpf"] if "signal" not in (injection or "") else []
    command += ["-e", f"inject={injection}"] if injection is not None else []
    command += [argument for path in paths for argument in ("-P", str(path))]
    command += [
        sys.executable,
        "-m",
        "reliability.faults.journal_process",
        str(directory),
        *arguments,
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    whole, _, _ = done.stdout.rpartition("\n")  # it may have died within a line
    return whole.splitlines(), trace.read_text(), done.returncode


def _check(printed: Sequence[str], directory: Path) -> list[str]:
    """Compare what the files hold afterwards with what the process printed."""
    ids: defaultdict[str, set[UUID]] = defaultdict(set)
    found: list[AuditEvent] = []
    for line in printed:
        word, _, rest = line.partition(" ")
        if word == "committed":
            found.append(load_event(rest.encode()))
        else:
            ids[word].add(UUID(rest))
    try:
        found += _adopt_all(directory)
    except Exception as error:  # whatever it is, somebody's events are in there
        return [f"the files cannot be read: {error!r}"]
    return [*_missing(ids, found), *_misnumbered(found)]


def _adopt_all(directory: Path) -> Iterator[AuditEvent]:
    for path in journal_file.list_files(directory):
        try:
            file = journal_file.adopt(path, MAX_BYTES)
        except FileNotFoundError:
            continue  # nothing had been written to it
        try:
            for row in file.read_finalized(0, 10_000):
                yield load_event(row.event)
        finally:
            file.close()


def _missing(ids: dict[str, set[UUID]], found: Sequence[AuditEvent]) -> Iterator[str]:
    outcomes: defaultdict[UUID, set[str]] = defaultdict(set)
    for event in found:
        outcomes[event.id].add(event.outcome)
    for event_id in ids["acknowledged"]:
        if outcomes[event_id] != {"served"}:
            yield f"{event_id} was acknowledged, and is {outcomes[event_id] or 'not there'}"
    for event_id in ids["begun"]:
        if not outcomes[event_id]:
            yield f"{event_id} had begun, and is not there"
    for event_id in {event.id for event in found} - ids["given"]:
        yield f"{event_id} is there, and nobody handed it in"


def _misnumbered(found: Sequence[AuditEvent]) -> Iterator[str]:
    """Events with several numbers, numbers with several events, and numbers that are left out."""
    numbers: defaultdict[UUID, set[tuple[UUID, int]]] = defaultdict(set)
    journals: defaultdict[UUID, defaultdict[int, set[UUID]]] = defaultdict(lambda: defaultdict(set))
    for event in found:
        assert event.origin is not None
        numbers[event.id].add((event.origin.journal, event.origin.seq))
        journals[event.origin.journal][event.origin.seq].add(event.id)
    for event_id, has in numbers.items():
        if len(has) > 1:
            yield f"{event_id} has the numbers {has}"
    for journal, events in journals.items():
        for number, there in events.items():
            if len(there) > 1:
                yield f"{number} of {journal} are {there}"
        gaps = set(range(1, max(events) + 1)) - set(events)
        if gaps:
            yield f"{journal} lacks {sorted(gaps)}"
