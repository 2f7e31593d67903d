"""The application for gunicorn, with a journal that waits while a test locks its file."""

from pathlib import Path
from unittest import mock
from uuid import UUID

from tests.server.clients import PATIENCE
from webapp.application import create_app
from webapp.audit.journal import file, writer


def create(directory: Path, journal: UUID, max_bytes: int) -> file.JournalFile:
    made = file.create(directory, journal, max_bytes)
    made._connection.execute(f"pragma busy_timeout = {PATIENCE * 1000}")
    return made


mock.patch.object(writer, "create", create).start()
app = create_app()
