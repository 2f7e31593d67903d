"""`make lint-scope`: runs `flask scope lint` on a database that is migrated for it alone."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from webapp.stack.home import open_stack, running

ROOT = Path(__file__).parents[2]


def main() -> int:
    flask = [sys.executable, "-m", "flask", "--app", "wsgi"]
    with tempfile.TemporaryDirectory(prefix="sightline-lint-") as directory:
        stack = open_stack(Path(directory), durable=False)
        environment = os.environ | {**stack.environment, "SIGHTLINE_HOME": directory}
        with running(stack):
            subprocess.run(
                [*flask, "db", "upgrade"], cwd=ROOT, env=environment, check=True, stdout=sys.stderr
            )
            linted = subprocess.run(
                [*flask, "scope", "lint"], cwd=ROOT, env=environment, check=False
            )
    return linted.returncode


if __name__ == "__main__":
    sys.exit(main())
