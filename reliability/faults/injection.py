"""Every system call that a journal makes on its files fails once, and is the last one once.

strace has one call of one process fail, or kills the process as it makes it. What that process had
been promised by then is held against what whoever adopts its files finds.
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
"""Files that a journal goes through, at most, while its disk fails."""

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
    """Which of the calls of that name; each thread counts its own."""
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
class Verdict:
    case: Case
    hit: bool
    """Whether that many calls were made."""
    acknowledged: int
    refused: int
    problems: tuple[str, ...]


def find_cases() -> list[Case]:
    """All there are, from a run in which nothing fails."""
    with tempfile.TemporaryDirectory(prefix="sightline-injection-") as home:
        directory = Path(home, "journal")
        said, trace, returned = _finalize(directory, None, [])
        problems = _check(said, directory)
        if returned or problems:
            raise AssertionError(f"it fails without any fault: {returned} {problems} {said[-5:]}")
    counts: Counter[tuple[str, str]] = Counter(re.findall(r"^(\d+) +(\w+)\(", trace, re.M))
    most = {call: max(n for (_, name), n in counts.items() if name == call) for _, call in counts}
    return [
        Case(call, number, mode)
        for call in sorted(most)
        for number in range(1, most[call] + 1)
        for mode in MODES
    ]


def decide_all(
    cases: Sequence[Case], say: Callable[[str], object] = lambda line: None
) -> Iterator[Verdict]:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number, verdict in enumerate(threads.map(decide, cases), 1):
            if number % 50 == 0:
                say(f"{number} of {len(cases)} system calls")
            yield verdict


def decide(case: Case) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="sightline-injection-") as home:
        directory = Path(home, "journal")
        ending = [CRASH] if case.mode == "fails from then on" else []
        said, trace, returned = _finalize(directory, case.injection, ending)
        problems = _check(said, directory)
        if returned and case.mode != "is the last":
            problems.append(f"the process ended with {returned}")
    words = Counter(line.partition(" ")[0] for line in said)
    return Verdict(
        case,
        hit="(INJECTED)" in trace or "killed by SIGKILL" in trace,
        acknowledged=words["acknowledged"],
        refused=words["refused"],
        problems=tuple(problems),
    )


def _finalize(
    directory: Path, injection: str | None, arguments: Sequence[str]
) -> tuple[list[str], str, int]:
    """What the process said, the calls that it made, and how it ended."""
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


def _check(said: Sequence[str], directory: Path) -> list[str]:
    """What is wrong with what is found afterwards, beside what was said before."""
    ids: defaultdict[str, set[UUID]] = defaultdict(set)
    found: list[AuditEvent] = []
    for line in said:
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
    for event_id in {event.id for event in found} - ids["asked"]:
        yield f"{event_id} is there, and nobody asked for it"


def _misnumbered(found: Sequence[AuditEvent]) -> Iterator[str]:
    """An event has one number, and a number one event; no number of a journal is left out."""
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
            yield f"{journal} has no {sorted(gaps)}"
