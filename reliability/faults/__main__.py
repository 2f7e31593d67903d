"""`python -m tests.faults`: break every part of the product under load, and count what it lost."""

import argparse
import secrets
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from reliability.faults.disk import require_strace
from reliability.faults.injection import decide_all, find_cases
from reliability.faults.installation import built
from reliability.faults.report import print_calls, print_run, write_document
from reliability.faults.run import Extent, run

LONGEST = 5.0


def main() -> int:
    asked = _arguments()
    extent = Extent(asked.accesses, asked.faults, LONGEST, asked.seed)
    # A signal ends what runs here the way an error would: through every `finally`.
    signal.signal(signal.SIGTERM, _interrupt)
    require_strace()
    _say(f"seed {extent.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="sightline-faults-") as home,
        built(Path(home)) as installation,
    ):
        if installation.clock is None:
            _say("libfaketime is not installed: the clock is not moved")
        outcome = run(installation, extent, _say)
        if not outcome.clean and asked.logs is not None:
            _keep_logs(Path(home), asked.logs)
    print_run(outcome, extent)
    _say("every system call of a journal")
    verdicts = tuple(decide_all(find_cases(), _say))
    print_calls(verdicts)
    if asked.document:
        write_document(outcome, verdicts, extent)
    return 0 if outcome.clean and not any(verdict.problems for verdict in verdicts) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--accesses", type=int, default=20_000, help="at least (default: 20000)")
    parser.add_argument("--faults", type=int, default=200, help="at least (default: 200)")
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


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%T} {line}", file=sys.stderr, flush=True)  # noqa: T201 - for the person who started it


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
