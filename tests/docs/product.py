"""The product as `make run` leaves it, in a project of its own, and the shell of its reader."""

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.processes import PATIENCE, ROOT, STARTUP
from tests.stacks import forget_ports
from webapp.stack.servers import free_port

NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv*", ".sightline", ".hypothesis", ".*_cache", "__pycache__")
)
READY = "Ctrl-C\n"
"""Ends the last line of what it says when it is ready."""


@dataclass(frozen=True)
class Project:
    """A copy of the repository, in which a page may write what it likes."""

    root: Path

    @property
    def log(self) -> Path:
        return self.root.parent / f"{self.root.name}.log"

    @property
    def said(self) -> str:
        """What `make run` has printed."""
        return self.log.read_text()


def copy_project(root: Path) -> None:
    shutil.copytree(ROOT, root, ignore=NOT_COPIED)
    (root / ".venv").symlink_to(ROOT / ".venv")


def make_first_run(shared: Path) -> Project:
    """A project in which `make run` was called once, and ended; one for all workers of a run."""
    project = Project(shared / "sightline")
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "made").exists():
            copy_project(project.root)
            with running(project):
                pass
            (shared / "made").touch()
    return project


def copy_with_data(project: Project, root: Path) -> Project:
    """Also what belongs to PostgreSQL's user, on ports that this copy chooses for itself."""
    subprocess.run(["cp", "-a", str(project.root), str(root)], check=True)
    forget_ports(root / ".sightline" / "stack.secrets")
    return Project(root)


@contextmanager
def running(project: Project) -> Iterator[None]:
    """`make run`, from its ready line until Ctrl-C."""
    with project.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "webapp.stack"],
            cwd=project.root,
            env=os.environ | {"PORT": str(free_port())},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + STARTUP
        while READY not in project.said:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it did not start:\n{project.said}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


class Shell:
    """One bash in which a page's blocks run one after another, as a reader pastes them."""

    def __init__(self, directory: Path, temporary: Path) -> None:
        temporary.mkdir(exist_ok=True)
        self._block = temporary / "pasted"
        self._end = secrets.token_hex(16)
        self._process = subprocess.Popen(
            ["bash"],
            cwd=directory,
            env={"PATH": os.environ["PATH"], "HOME": str(temporary), "TMPDIR": str(temporary)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def paste(self, commands: str) -> tuple[str, int]:
        """What the commands print, errors included, and the status of the last one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._block.write_text(commands)
        self._process.stdin.write(
            f". {self._block} < /dev/null; printf '\\n%s %s\\n' {self._end} $?\n"
        )
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line.startswith(self._end):
                # The newline before it ends what the commands left without one.
                return "".join(printed).removesuffix("\n"), int(line.split()[1])
            printed.append(line)
        raise RuntimeError(f"the shell has ended:\n{''.join(printed)}")

    def close(self) -> None:
        """End the shell and all that it has started."""
        self._process.communicate()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
