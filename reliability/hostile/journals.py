"""Somebody who can change the files of journals at rest, and has no key."""

import json
import shutil
from pathlib import Path
from time import sleep
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, select

from reliability.hostile.attack import Attack, Scene
from reliability.verification import verify
from tests.audit.events import make_event, make_request
from tests.audit.ledgers import sign
from tests.audit.receipts import second_connection
from webapp.audit.event import EventOrigin, dump_event
from webapp.audit.journal import file as journal_file
from webapp.audit.journal.reader import Row
from webapp.audit.models import AuditEventRow
from webapp.settings import Settings

EVENTS = 20
NAMED = 120.0
"""Seconds until verify has to name what was changed, on a busy machine."""

MAX_BYTES = 2**24
TRUE, INVENTED = "engineer@example.org", "somebody@example.org"
"""Whose events they are, and whose they become."""

AT_REST = "at-rest"
"""The request ids of events in files of dead processes begin so."""


def _directory(scene: Scene) -> Path:
    settings: Settings = scene.installation.app.extensions["settings"]
    return settings.journal_dir


def _write_elsewhere(scene: Scene, journal: UUID) -> tuple[Path, list[UUID]]:
    """Write what a process leaves that dies, where no process looks for it; with its events."""
    directory = scene.installation.web.log.with_name("at-rest")
    file = journal_file.create(directory, journal, MAX_BYTES)
    rows, ids = [], []
    for seq in range(1, EVENTS + 1):
        request = make_request(f"{AT_REST}.{uuid4().hex}")
        event = make_event(request=request, origin=EventOrigin(journal, seq))
        data = dump_event(event)
        ids.append(event.id)
        rows.append(Row(seq, str(event.id), 1, data, sign(scene.installation.app, data)))
    file.write(rows, durable=True)
    file.close()
    scene.did["files"] += 1
    return directory / f"{journal}{journal_file.SUFFIX}", ids


def _put_back(scene: Scene, path: Path) -> Path:
    """Copy it to where the web processes look, in one step."""
    place = _directory(scene) / path.name
    draft = place.with_suffix(".draft")
    shutil.copyfile(path, draft)
    draft.rename(place)
    return place


def _tamper(scene: Scene) -> None:
    """Flip bytes in texts and anywhere, cut files short: what is lost or unreadable is named."""
    for _ in scene.meanwhile():
        for change in (_change_a_text, _flip_bytes, _truncate):
            journal = uuid4()
            path, ids = _write_elsewhere(scene, journal)
            change(scene, path)
            scene.tampered[journal] = ids
            _put_back(scene, path)
        named = scene.wait_for(lambda: not _unnamed(scene), NAMED)
        scene.expect(named, f"verify names nothing of {_unnamed(scene)}")
        if not named:
            break
    found = _count(scene, AuditEventRow.actor_email == INVENTED)
    scene.expect(not found, f"{found} events of {INVENTED} are in the ledger")
    scene.expect_alarm("no event is in quarantine")


def _unnamed(scene: Scene) -> list[UUID]:
    """The changed journals that are neither named by verify nor whole in the ledger."""
    said = json.dumps(verify(scene.installation.environment))
    return [
        journal
        for journal, ids in scene.tampered.items()
        if str(journal) not in said
        and not any(str(event_id) in said for event_id in ids)
        and _count(scene, AuditEventRow.id.in_(ids)) < len(ids)
    ]


def _count(scene: Scene, which: ColumnElement[bool]) -> int:
    with second_connection(scene.installation.app) as session:
        return session.scalars(select(func.count()).where(which)).one()


def _change_a_text(scene: Scene, path: Path) -> None:
    """Another person's name in an event in the middle."""
    data = path.read_bytes()
    place = data.find(TRUE.encode(), len(data) // 2)
    path.write_bytes(data[:place] + INVENTED.encode() + data[place + len(TRUE) :])
    scene.did["texts changed"] += 1


def _flip_bytes(scene: Scene, path: Path) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(200):
        data[scene.rng.randrange(100, len(data))] ^= 1 << scene.rng.randrange(8)
    path.write_bytes(data)
    scene.did["files with flipped bytes"] += 1


def _truncate(scene: Scene, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    scene.did["files cut short"] += 1


def _copy_back(scene: Scene) -> None:
    """Put files back whose events the ledger has: under their names, and under other names."""
    for _ in scene.meanwhile():
        path, _ = _write_elsewhere(scene, uuid4())
        place = _put_back(scene, path)
        gone = scene.wait_for(lambda: not place.exists(), NAMED)  # noqa: B023 - called here
        scene.expect(gone, "a dead process's file is not drained")
        for name in (path.name, f"{uuid4()}{journal_file.SUFFIX}"):
            _put_back(scene, path.rename(path.with_name(name)))
            scene.did["old files put back"] += 1
            path = path.with_name(name)
        sleep(1)


def _remove_unreadable(scene: Scene) -> None:
    """Move what verify has named out of the way, as an operator does."""
    for journal in scene.tampered:
        for path in _directory(scene).glob(f"{journal}*"):
            path.unlink()


ATTACKS = (
    Attack("journals at rest: changed, cut short", _tamper, repair=_remove_unreadable),
    Attack("journals at rest: old ones put back", _copy_back),
)
