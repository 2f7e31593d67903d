"""Run the product on many hosts, break them and what is between them, and count what was lost.

Run it as `python -m reliability.hosts`, as root on Linux.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from reliability.command import add_run_options, end_by_signals, keep_logs, report
from reliability.faults.run import Extent
from reliability.hosts.enclosure import NoHosts, require_hosts, run_enclosed
from reliability.hosts.faults import possible_faults
from reliability.hosts.network import NETEM
from reliability.hosts.report import print_run, write_document
from reliability.hosts.run import SiteOutcome, run
from reliability.hosts.site import BrokerKind, Layout, running_site

LONGEST, PAUSE = 5.0, 1.0


def main() -> int:
    arguments = _arguments()
    end_by_signals()
    if arguments.inside is not None:
        return _run_inside(arguments)
    try:
        require_hosts()
    except NoHosts as error:
        report(f"no hosts can be made here: {error}")
        return 2
    return run_enclosed(["--seed", str(arguments.seed), *sys.argv[1:]])


def _run_inside(arguments: argparse.Namespace) -> int:
    home: Path = arguments.inside
    extent = Extent(arguments.accesses, arguments.faults, LONGEST, arguments.seed, PAUSE)
    report(f"seed {extent.seed}")
    pair = Layout(webs=1, workers=1, broker="redis", concurrency=1)
    layout = pair if arguments.small else Layout(broker=arguments.broker)
    with running_site(home, layout, report) as site:
        faults = possible_faults(site)
        if arguments.only:
            faults = tuple(fault for fault in faults if fault.name in arguments.only)
        result = run(site, faults, extent, home, report, restores=not arguments.small)
        if not result.clean and arguments.logs is not None:
            keep_logs(home, arguments.logs)
        remarks = _remarks(result, layout, site.network.delay == NETEM)
    print_run(result, extent, remarks)
    if arguments.document and layout.broker != "redis":  # which the document has no table of
        write_document(result, extent, remarks, layout.broker)
    return 0 if result.clean else 1


def _remarks(result: SiteOutcome, layout: Layout, has_netem: bool) -> list[str]:
    said = [f"{len(layout.names)} hosts, broker: {layout.broker}."]
    if result.restore is not None:
        said.append(str(result.restore))
    if not has_netem:
        said.append("This kernel has no netem: packets were delayed in a narrow link's queue.")
    return said


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reliability.hosts", description=__doc__)
    parser.add_argument("--accesses", type=int, default=20_000, help="at least (default: 20000)")
    parser.add_argument("--faults", type=int, default=105, help="at least (default: 105)")
    parser.add_argument("--broker", choices=get_args(BrokerKind), default="rabbitmq")
    parser.add_argument("--small", action="store_true", help="one web host, one worker, and Redis")
    parser.add_argument("--only", action="append", help="a fault by its name, instead of all")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    add_run_options(parser, of="faults")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
