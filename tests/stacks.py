"""Servers of a test's own, begun as a copy of a stack whose database is migrated once a run."""

import fcntl
import os
import subprocess
from pathlib import Path

from tests.applications import application
from webapp.stack.home import PORTS, Stack, open_stack, running

TEMPLATE = "SIGHTLINE_TEST_TEMPLATE"
"""The variable that names the template's home to every process of a run."""


def copied_stack(home: Path) -> Stack:
    """A stack in `home`, made and not started, with a migrated database and secrets of the run."""
    template = Path(os.environ[TEMPLATE])
    _ensure_made(template)
    # As its owner, who may not be ourselves, wants it: PostgreSQL runs as nobody where we are root.
    subprocess.run(["cp", "-a", f"{template}/.", str(home)], check=True)
    forget_ports(home / "stack.secrets")
    return open_stack(home, durable=False)


def _ensure_made(template: Path) -> None:
    """Whoever needs it first makes it, and the others of the run wait for that."""
    with template.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if template.exists():
            return
        draft = template.with_suffix(".draft")
        draft.mkdir()
        stack = open_stack(draft, durable=False)
        with running(stack), application({"SIGHTLINE_HOME": str(draft), **stack.environment}):
            pass
        draft.rename(template)


def forget_ports(secrets: Path) -> None:
    """Each copy chooses its own, or two that start at once would find the same ones free."""
    lines = secrets.read_text().splitlines(keepends=True)
    secrets.write_text("".join(line for line in lines if not line.startswith(PORTS)))
