"""Attack the real processes under load, and count what everybody else noticed.

Run it as `python -m reliability.hostile`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from reliability.command import add_run_options, end_by_signals, keep_logs, report
from reliability.faults.installation import running_installation
from reliability.hostile.attacks import ATTACKS
from reliability.hostile.report import print_run, write_document
from reliability.hostile.run import Extent, run

QUIET = 4.0


def main() -> int:
    arguments = _arguments()
    chosen = [a for a in ATTACKS if any(word in a.name for word in arguments.attacks or [""])]
    extent = Extent(chosen, arguments.seconds, QUIET, arguments.seed)
    end_by_signals()
    report(f"seed {extent.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="sightline-hostile-") as home,
        running_installation(Path(home), as_deployed=True) as installation,
    ):
        outcome = run(installation, extent, report)
        if outcome.problems and arguments.logs is not None:
            keep_logs(Path(home), arguments.logs)
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
    add_run_options(parser, of="choices")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
