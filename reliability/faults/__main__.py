"""Break every part of the product under load, and count what it lost.

Run it as `python -m reliability.faults`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from reliability.command import add_run_options, end_by_signals, keep_logs, report
from reliability.faults.disk import require_strace
from reliability.faults.installation import running_installation
from reliability.faults.report import print_calls, print_run, write_document
from reliability.faults.run import Extent, run
from reliability.faults.system_calls import find_cases, run_all, sample

LONGEST = 5.0


def main() -> int:
    arguments = _arguments()
    extent = Extent(arguments.accesses, arguments.faults, LONGEST, arguments.seed)
    end_by_signals()
    require_strace()
    report(f"seed {extent.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="sightline-faults-") as home,
        running_installation(Path(home)) as installation,
    ):
        if installation.clock is None:
            report("libfaketime is not installed: the clock is not moved")
        outcome = run(installation, extent, report)
        if not outcome.clean and arguments.logs is not None:
            keep_logs(Path(home), arguments.logs)
    print_run(outcome, extent)
    report("every system call of a journal")
    cases = find_cases()
    if arguments.calls is not None:
        cases = sample(cases, arguments.calls, extent.seed)
    results = tuple(run_all(cases, report))
    print_calls(results)
    if arguments.document:
        write_document(outcome, results, extent)
    return 0 if outcome.clean and not any(result.problems for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reliability.faults", description=__doc__)
    parser.add_argument("--accesses", type=int, default=20_000, help="at least (default: 20000)")
    parser.add_argument("--faults", type=int, default=200, help="at least (default: 200)")
    parser.add_argument("--calls", type=int, help="system calls to fail in each way (default: all)")
    add_run_options(parser, of="faults")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
