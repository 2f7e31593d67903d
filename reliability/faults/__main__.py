"""Break every part of the product under load, and count what it lost.

Run it as `python -m reliability.faults`.
"""

import argparse
import secrets
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from reliability.faults.disk import require_strace
from reliability.faults.installation import running_installation
from reliability.faults.report import print_calls, print_run, write_document
from reliability.faults.run import Extent, run
from reliability.faults.system_calls import find_cases, run_all, sample

LONGEST = 5.0


def main() -> int:
    arguments = _arguments()
    extent = Extent(arguments.accesses, arguments.faults, LONGEST, arguments.seed)
    # A signal ends what runs here the way an error would: through every `finally`.
    signal.signal(signal.SIGTERM, _interrupt)
    require_strace()
    _report(f"seed {extent.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="sightline-faults-") as home,
        running_installation(Path(home)) as installation,
    ):
        if installation.clock is None:
            _report("libfaketime is not installed: the clock is not moved")
        outcome = run(installation, extent, _report)
        if not outcome.clean and arguments.logs is not None:
            _keep_logs(Path(home), arguments.logs)
    print_run(outcome, extent)
    _report("every system call of a journal")
    cases = find_cases()
    if arguments.calls is not None:
        cases = sample(cases, arguments.calls, extent.seed)
    results = tuple(run_all(cases, _report))
    print_calls(results)
    if arguments.document:
        write_document(outcome, results, extent)
    return 0 if outcome.clean and not any(result.problems for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reliability.faults", description=__doc__)
    parser.add_argument("--accesses", type=int, default=20_000, help="at least (default: 20000)")
    parser.add_argument("--faults", type=int, default=200, help="at least (default: 200)")
    parser.add_argument("--calls", type=int, help="system calls to fail in each way (default: all)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the faults")
    parser.add_argument("--logs", type=Path, help="where the logs go if something is wrong")
    parser.add_argument(
        "--no-document",
        dest="document",
        action="store_false",
        help="leave docs/reliability.md as it is",
    )
    return parser.parse_args()


def _keep_logs(home: Path, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for log in home.glob("*.log"):
        (directory / log.name).write_bytes(log.read_bytes())


def _report(line: str) -> None:
    print(f"{datetime.now(UTC):%T} {line}", file=sys.stderr, flush=True)  # noqa: T201 - for the person who started it


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
