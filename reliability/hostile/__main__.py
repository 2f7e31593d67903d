"""Attack the real processes under load, and count what everybody else noticed.

Run it as `python -m reliability.hostile`.
"""

import argparse
import secrets
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from reliability.faults.installation import running_installation
from reliability.hostile.attacks import ATTACKS
from reliability.hostile.report import print_run, write_document
from reliability.hostile.run import Extent, run

QUIET = 4.0


def main() -> int:
    arguments = _arguments()
    chosen = [a for a in ATTACKS if any(word in a.name for word in arguments.attacks or [""])]
    extent = Extent(chosen, arguments.seconds, QUIET, arguments.seed)
    # A signal ends what runs here the way an error would: through every `finally`.
    signal.signal(signal.SIGTERM, _interrupt)
    _report(f"seed {extent.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="sightline-hostile-") as home,
        running_installation(Path(home), as_deployed=True) as installation,
    ):
        outcome = run(installation, extent, _report)
        if outcome.problems and arguments.logs is not None:
            _keep_logs(Path(home), arguments.logs)
    print_run(outcome, extent)
    if arguments.document:
        write_document(outcome, extent)
    return 1 if outcome.problems else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reliability.hostile", description=__doc__)
    parser.add_argument(
        "attacks", nargs="*", help="a word of the names of the attacks to make (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each attack (default: 10)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the choices")
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
