"""What the product's own commands say of an installation, `flask audit verify` above all."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from reliability.parts import InstallationError
from tests.processes import ROOT

COMMAND = 120


def verify(environment: Mapping[str, str]) -> Any:
    """Return what `flask audit verify` says."""
    found, exit_code = flask(environment, "audit", "verify", "--complete")
    if exit_code == 0 and found["missing"]:
        raise InstallationError("`flask audit verify` exits 0 with numbers missing")
    return found


def flask(environment: Mapping[str, str], *arguments: str) -> tuple[Any, int]:
    """Run a command of the product; return the JSON that it prints, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", *arguments, "--json"],
        cwd=ROOT,
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
        timeout=COMMAND,
        check=False,
    )
    try:
        return json.loads(done.stdout), done.returncode
    except ValueError as error:
        said = f"{done.stdout!r} {done.stderr!r}"
        raise InstallationError(f"`flask {' '.join(arguments)}` says {said}") from error


def count_missing(found: Any) -> tuple[int, int]:
    """Count the numbers that are missing, and what still waits."""
    missing = sum(gap["last"] - gap["first"] + 1 for gap in found["missing"])
    return missing, len(found["waiting"]) + len(found["unreadable"])
