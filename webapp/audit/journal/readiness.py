"""The readiness check of the journal: whether this process can record an access."""

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
"""The part of JOURNAL_MAX_MB that a process may use before it should get no more work."""


def init_app(app: Flask) -> None:
    """Add the check to `/readyz`; call this after observability's and the pipeline's `init_app`."""
    add_check(app, "journal", check_journal)


def check_journal() -> None:
    """Raise `CheckFailed` where accesses have to be refused, or nearly so."""
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
    """Try to write to the directory, or check that the first event can create it."""
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
