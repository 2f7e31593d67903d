"""Can this process record an access? What `/readyz` is told about the journal."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import NamedTemporaryFile

from flask import Flask

from webapp.audit.journal.reader import PAGE, JournalReader
from webapp.audit.relay.pipeline import current_journal
from webapp.observability.health import add_check
from webapp.observability.probes import CheckFailed

FULL = 0.9
"""The part of JOURNAL_MAX_MB from which on a process is to get no more work."""


def init_app(app: Flask) -> None:
    """Set up after observability and the pipeline."""
    add_check(app, "journal", check_journal)


def check_journal() -> None:
    """Raises `CheckFailed` where the next access would have to be refused, or soon."""
    journal = current_journal()
    _write_to(journal.directory)
    file = journal.file
    if file is None:
        return
    try:
        with closing(JournalReader(file.path)) as reader:
            used = reader.used_bytes() / journal.max_bytes
    except sqlite3.Error as error:
        raise CheckFailed("the journal of this process is gone or damaged") from error
    if used >= FULL:
        raise CheckFailed(f"the journal of this process is {used:.0%} full")


def _write_to(directory: Path) -> None:
    """Where there is none yet, the first event makes it."""
    if not directory.exists():
        above = next(parent for parent in directory.parents if parent.exists())
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise CheckFailed("the journal's directory is not there and cannot be made")
        return
    try:
        with NamedTemporaryFile(dir=directory, prefix=".probe-") as file:
            file.write(bytes(PAGE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckFailed("the journal cannot be written") from error
