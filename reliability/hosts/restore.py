"""The restore that journals cannot make good: of what they have forgotten, each number is named."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from flask import Flask
from sqlalchemy import select

from reliability.faults.load import Load
from reliability.hosts.site import Site, WebHost
from reliability.parts import await_until
from reliability.verification import verify
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import LedgerScope
from webapp.extensions import db

KEEP = "1"
"""Seconds that journals keep what the ledger has, so that they have forgotten it by the restore."""

LOAD = 8.0

Number = tuple[UUID, int]
"""A journal, and the number of an event in it."""


@dataclass(frozen=True)
class RestoreOutcome:
    gone: int
    """Events that the ledger had before the restore, and has no more."""
    unnamed: int
    """Those of them that `flask audit verify --complete` names on no web host."""
    misnamed: int
    """Numbers that it names and that are there."""

    @property
    def is_clean(self) -> bool:
        return self.gone > 0 and not self.unnamed and not self.misnamed

    def __str__(self) -> str:
        return (
            f"After a restore beyond JOURNAL_KEEP {self.gone:,} events were gone for good, and of"
            f" them `flask audit verify --complete` did not name {self.unnamed:,}. It named"
            f" {self.misnamed:,} that were there."
        )


def restore_what_journals_forgot(
    site: Site, home: Path, seed: int, report: Callable[[str], object]
) -> RestoreOutcome:
    """Restore a backup once journals have forgotten what the ledger had meanwhile."""
    report("a backup is restored that journals cannot complete")
    for web in site.webs:
        web.environment["JOURNAL_KEEP"] = KEEP
        web.part.stop()
        web.part.start()
    site.await_well()
    load = Load(
        site.app, site.url, f"restore-{uuid4().hex[:12]}", seed, certificate=site.certificate
    )
    backup = home / "backup"
    site.database.primary.copy(site.database.primary, backup)
    load.start()
    time.sleep(LOAD)
    load.stop()
    for web in site.webs:
        await_until(f"{web.host.name} does not forget", partial(_has_forgotten, web))
    before = _read_numbers(site.app)
    site.database.restore(backup)
    site.database.rebuild_standby()
    site.await_well()
    gone = before - _read_numbers(site.app)
    named = {number for web in site.webs for number in _name_missing(site, web.journal)}
    return RestoreOutcome(len(gone), len(gone - named), len(named - gone))


def _has_forgotten(web: WebHost) -> bool:
    """Whether a host's journals hold no event, and keep none."""
    metrics = web.metrics()
    return not any(metrics[f"sightline_journal_{name}events"] for name in ("", "kept_"))


def _read_numbers(app: Flask) -> set[Number]:
    columns = (AuditEventRow.origin_journal, AuditEventRow.origin_seq)
    with app.app_context(), db.scoped(LedgerScope()):
        return {(journal, seq) for journal, seq in db.session.execute(select(*columns))}


def _name_missing(site: Site, journal: Path) -> set[Number]:
    found = verify({**site.environment, "JOURNAL_DIR": str(journal)})
    return {
        (UUID(gap["journal"]), seq)
        for gap in found["missing"]
        for seq in range(gap["first"], gap["last"] + 1)
    }
