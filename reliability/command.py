"""What the commands of this folder share: options, signals, logs, and lines on stderr."""

import argparse
import secrets
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path


def add_run_options(parser: argparse.ArgumentParser, of: str) -> None:
    """Add the options of every run; the seed is that of what is named."""
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help=f"of the {of}")
    parser.add_argument("--logs", type=Path, help="where the logs go if something is wrong")
    parser.add_argument(
        "--no-document",
        dest="document",
        action="store_false",
        help="leave docs/reliability.md as it is",
    )


def end_by_signals() -> None:
    """Let SIGTERM end what runs here the way an error would: through every `finally`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def keep_logs(home: Path, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for log in home.glob("*.log"):
        (directory / log.name).write_bytes(log.read_bytes())


def report(line: str) -> None:
    print(f"{datetime.now(UTC):%T} {line}", file=sys.stderr, flush=True)  # noqa: T201 - for the person who started it
