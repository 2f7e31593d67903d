"""The proof of the ledger: an export of it, and what a verifier takes for that.

The verifier is measured beside SHA-256 over the same lines, which nothing that reads them can beat.
"""

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from statistics import median
from uuid import uuid4

from flask import Flask

from bench.result import Figure, Ratio, Results, ratios
from tests.applications import application
from tests.audit.events import make_event
from tests.processes import ROOT
from verifier import sightline_verify as verifier
from webapp.audit import append
from webapp.db.scopes import GlobalScope, LedgerScope, SealingScope
from webapp.extensions import db
from webapp.ledger.export.schemas import ExportRequest
from webapp.ledger.export.service import Export
from webapp.ledger.sealing import published, sealer
from webapp.ledger.sealing.following import this_host
from webapp.ledger.sealing.policy import policy_of
from webapp.ledger.search import AuditQuery
from webapp.settings import current_settings
from webapp.stack.home import open_stack, running

FEW, MANY = 20_000, 100_000
"""Events in the ledger: the memory of an export is measured at both."""
BATCH = 1_000
LINE = "a line of an export, verified on one core"
RATE = "events exported"


def measure_proofs(home: Path, rounds: int, results: Results) -> None:
    stack = open_stack(home, durable=True)
    environment = {**stack.environment, "SIGHTLINE_ENV": "qa", "SIGHTLINE_HOME": str(home)}
    with running(stack), application(environment) as app:
        _commit(app, FEW)
        _seal(app)
        memory = [_memory_of_export(environment, home)]
        _commit(app, MANY - FEW)
        _seal(app)
        memory.append(_memory_of_export(environment, home))
        rates = [_export(app, home / "export.jsonl", results) for _ in range(rounds)]
        (home / "policy").write_text(_policy(app))
    ours, limit = [], []
    for _ in range(rounds):
        ours.append(_verify(home, results))
        limit.append(_hash_lines(home / "export.jsonl"))
    results.ratios.append(Ratio(LINE, "sha256 of the same lines", ratios(ours, limit), 0.015))
    results.figures.append(Figure(RATE, median(rates), "/s", f"{MANY:,} events in the ledger"))
    for events, kib in zip((FEW, MANY), memory, strict=True):
        results.figures.append(
            Figure("memory of an export's process", kib / 1024, "MB", f"{events:,} events")
        )


def _commit(app: Flask, count: int) -> None:
    """Append events as a command does."""
    with app.app_context(), db.scoped(LedgerScope()):
        for _ in range(-(-count // BATCH)):
            append.append_own(db.session, [make_event(origin=None) for _ in range(BATCH)])
            db.session.commit()


def _seal(app: Flask) -> None:
    """Seal what waits."""
    with app.app_context(), db.scoped(SealingScope()):
        host = this_host(current_settings())
        while sealer.seal(db.session, host.keys, host.copies, host.name):
            db.session.commit()
        db.session.rollback()


def _export(app: Flask, file: Path, results: Results) -> float:
    """Export everything into a file; returns how many events in a second."""
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())), file.open("wb") as out:
        export = Export(db.session, ExportRequest(AuditQuery(), None), None)
        began = time.perf_counter()
        out.writelines(export.parts)
        seconds = time.perf_counter() - began
    results.expect(export.counts.shown >= MANY, "the export has not all events")
    return export.counts.shown / seconds


def _policy(app: Flask) -> str:
    with app.app_context(), db.scoped(SealingScope()):
        # Without the keys that sign events: the signatures are a measurement of their own.
        return policy_of(published.list_logs(db.session), [], current_settings())


def _memory_of_export(environment: dict[str, str], home: Path) -> int:
    """The most memory that `flask ledger export` takes, in KiB."""
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "ledger", "export"]
    process = subprocess.Popen(
        [*command, "--reason", "maintenance", "-o", str(home / "memory.jsonl")],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError("flask ledger export has failed")
    return used.ru_maxrss


def _verify(home: Path, results: Results) -> float:
    """Verify the export on one core; returns lines in a second."""
    arguments = ["export", str(home / "export.jsonl"), "--policy", str(home / "policy")]
    said = io.StringIO()
    began = time.perf_counter()
    with contextlib.redirect_stdout(said):
        code = verifier.main([*arguments, "--jobs", "1"])
    seconds = time.perf_counter() - began
    results.expect(code == verifier.GOOD, f"the export does not hold: {said.getvalue()}")
    return MANY / seconds


def _hash_lines(file: Path) -> float:
    lines = list(_lines(file))
    began = time.perf_counter()
    for line in lines:
        sha256(line).digest()
    return MANY / (time.perf_counter() - began)


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as exported:
        yield from exported
