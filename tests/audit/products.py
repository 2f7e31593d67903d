"""A test's own product: servers, an application, and a directory of journals."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import psycopg2
from click.testing import Result
from flask import Flask

from tests.applications import application
from tests.audit.events import make_event
from tests.audit.ledgers import sign
from tests.processes import ROOT
from webapp.audit.event import AuditEvent, EventOrigin, dump_event
from webapp.audit.journal.file import JournalFile, create
from webapp.audit.journal.reader import Row
from webapp.stack.home import Stack, open_stack, running


@dataclass(frozen=True)
class Product:
    app: Flask
    stack: Stack
    environment: Mapping[str, str]

    @property
    def journals(self) -> Path:
        directory: Path = self.app.extensions["settings"].journal_dir
        return directory

    def run(self, *arguments: str) -> Result:
        """Run `flask audit …` in this process."""
        return self.app.test_cli_runner().invoke(args=["audit", *arguments])

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `flask audit …` in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", "audit", *arguments],
            cwd=ROOT,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def tamper(self, statement: str) -> None:
        """Run a statement as the database's superuser, without triggers and policies."""
        url = self.stack.postgres.url("postgres", self.stack.postgres._password)
        with (
            closing(psycopg2.connect(url)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("set local session_replication_role = replica")
            cursor.execute(statement)

    def empty(self) -> None:
        """Empty the ledger and remove the journals."""
        self.tamper("truncate audit_events, audit_numbers, audit_contradictions, log_queue")
        for path in self.journals.glob("*"):
            path.unlink()

    def leave(self, origin: UUID, *events: AuditEvent, finalized: bool = True) -> Path:
        """Make a file as a process leaves it that has died."""
        file = self.hold(origin, *events, finalized=finalized)
        file.close()
        return file.path

    def hold(self, origin: UUID, *events: AuditEvent, finalized: bool = True) -> JournalFile:
        """Make a file as a living process holds it."""
        file = create(self.journals, origin, 2**24)
        file.write(
            [self._row(n, event, finalized=finalized) for n, event in enumerate(events, 1)],
            durable=False,
        )
        return file

    def _row(self, place: int, event: AuditEvent, *, finalized: bool) -> Row:
        data = dump_event(event)
        return Row(place, str(event.id), finalized, data, sign(self.app, data))


@contextmanager
def own_product(home: Path) -> Iterator[Product]:
    home.mkdir(exist_ok=True)
    stack = open_stack(home, durable=False)
    environment = {"SIGHTLINE_HOME": str(home), "JOURNAL_KEEP": "0", **stack.environment}
    with running(stack), application(environment, drain=0) as app:
        product = Product(app, stack, environment)
        product.empty()  # of the registered keys' events
        yield product


def numbered(origin: UUID, seqs: Sequence[int]) -> list[AuditEvent]:
    return [replace(make_event(), origin=EventOrigin(origin, seq)) for seq in seqs]
