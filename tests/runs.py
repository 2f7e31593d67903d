"""A run of the tests as a whole: what belongs to it, and that nothing of it stays behind."""

import getpass
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil

RUN = "SIGHTLINE_TEST_RUN"
"""The variable by which every process is known that a run has started, at whatever remove."""


def begin() -> None:
    os.environ[RUN] = uuid4().hex


def end() -> None:
    """Also end what the workers of an interrupted run had no time to end."""
    _kill_left()
    _remove_empty()


def _kill_left() -> None:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(RUN) == os.environ[RUN]:
                process.kill()


def _remove_empty() -> None:
    """The directory that pytest makes above those of its runs, and that it never removes."""
    above = Path(tempfile.gettempdir()) / f"pytest-of-{getpass.getuser()}"
    with suppress(OSError):
        for link in above.glob("*-current"):
            if not link.exists():
                link.unlink()
        above.rmdir()
