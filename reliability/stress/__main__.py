"""Put a minute of mixed load on the real processes, and count what went wrong.

Run it as `python -m reliability.stress`.
"""

import argparse
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from reliability.stress.load import Installation, run
from reliability.stress.report import cache_outcomes, print_report
from tests.applications import let_staff_access
from tests.processes import no_settings_of_the_caller, run_web, run_worker
from webapp.application import create_app
from webapp.db import migrate
from webapp.settings import read_settings
from webapp.stack import signing_keys
from webapp.stack.home import open_stack, running

WEB_CONCURRENCY = "2"
ALARMS = 20
"""Lines of each log that are printed when something was wrong."""


def main() -> int:
    arguments = _arguments()
    title = f"{arguments.seconds:g} s of mixed load, seed {arguments.seed}"
    print(f"{title} …", flush=True)  # noqa: T201 - it may not come to an end
    with (
        tempfile.TemporaryDirectory(prefix="sightline-stress-") as home,
        _installation(Path(home)) as installation,
    ):
        counts = run(installation, arguments.seconds, arguments.seed)
        print_report(counts, cache_outcomes(installation.web.url), title)
        if not counts.clean:
            _print_alarms(Path(home))
    return 0 if counts.clean else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reliability.stress", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the mix")
    return parser.parse_args()


@contextmanager
def _installation(home: Path) -> Iterator[Installation]:
    """Run the Procfile's processes on servers of their own, whatever the shell has set."""
    stack = open_stack(home, durable=False)
    environment = {
        "SIGHTLINE_HOME": str(home),
        "WEB_CONCURRENCY": WEB_CONCURRENCY,
        **stack.environment,
    }
    with no_settings_of_the_caller(), running(stack):
        with mock.patch.dict(os.environ, environment):
            settings = read_settings()
        migrate.upgrade(settings)
        signing_keys.register(environment)
        app = create_app(settings)
        let_staff_access(app)
        with (
            run_worker(environment, home / "worker.log"),
            run_web(environment, home / "web.log") as web,
        ):
            yield Installation(app, web, environment)


def _print_alarms(home: Path) -> None:
    for name in ("web.log", "worker.log"):
        lines = (home / name).read_text(errors="replace").splitlines()
        alarms = [line for line in lines if "[error" in line or "[critical" in line]
        for line in alarms[:ALARMS]:
            print(f"{name}: {line}", file=sys.stderr)  # noqa: T201 - for whoever searches for the cause


if __name__ == "__main__":
    sys.exit(main())
