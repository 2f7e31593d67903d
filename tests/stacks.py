"""Servers of a test's own, copied from a stack whose database is migrated once a run."""

import fcntl
import os
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg2

from tests.applications import application
from webapp.stack.home import PORTS, Stack, open_stack, running

TEMPLATE = "SIGHTLINE_TEST_TEMPLATE"
"""The variable that names the template's home to every process of a run."""


def copied_stack(home: Path) -> Stack:
    """Make a stack in `home`, not started, with a migrated database and the run's secrets."""
    template = Path(os.environ[TEMPLATE])
    _ensure_made(template)
    # Files keep their owner: PostgreSQL runs as `nobody` where this process is root.
    subprocess.run(["cp", "-a", f"{template}/.", str(home)], check=True)
    forget_ports(home / "stack.secrets")
    return open_stack(home, durable=False)


def _ensure_made(template: Path) -> None:
    """Make the template where it is missing. The other workers wait for that."""
    with template.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if template.exists():
            return
        draft = template.with_suffix(".draft")
        draft.mkdir()
        stack = open_stack(draft, durable=False)
        with running(stack):
            with application({"SIGHTLINE_HOME": str(draft), **stack.environment}):
                pass
            _empty_ledger(stack)
        draft.rename(template)


def _empty_ledger(stack: Stack) -> None:
    """Remove the events of the keys that were registered."""
    url = stack.postgres.url("postgres", stack.postgres._password)
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("set local session_replication_role = replica")
        cursor.execute("truncate audit_events, audit_numbers, log_queue")


def forget_ports(secrets: Path) -> None:
    """Let each copy choose its own ports, or two that start at once would choose the same."""
    lines = secrets.read_text().splitlines(keepends=True)
    secrets.write_text("".join(line for line in lines if not line.startswith(PORTS)))
