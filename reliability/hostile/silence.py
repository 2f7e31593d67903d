"""A PostgreSQL that accepts and does not answer, whole and in one of its backends."""

import time
from contextlib import suppress
from signal import SIGSTOP

import psutil
import requests

from reliability.faults.history import Harm
from reliability.hostile.attack import Attack, Scene
from reliability.parts import send
from webapp.settings import Settings

MARGIN = 8.0
"""Seconds that a statement's end may take on a busy machine, beyond DATABASE_TIMEOUT and one."""


def _silence_all(scene: Scene) -> None:
    """Stop all of it for longer than a statement may take. Who asks meanwhile is told so."""
    settings: Settings = scene.installation.app.extensions["settings"]
    scene.installation.postgres.pause()
    until = time.monotonic() + max(scene.seconds, settings.database_timeout + 1 + MARGIN)
    statuses: list[int] = []
    unready = False
    while time.monotonic() < until:
        statuses.append(_ask(scene))
        ready = requests.get(f"{scene.installation.url}/readyz", timeout=60)
        unready |= ready.status_code == 503 and not ready.json()["checks"]["database"]["ok"]
        time.sleep(0.2)
    scene.did["new tokens refused with 503"] += statuses.count(503)
    scene.expect(503 in statuses, f"a request with a token is answered {set(statuses)}, never 503")
    scene.expect(unready, "/readyz never says that the database does not answer")


def _ask(scene: Scene) -> int:
    """Send a token that the process has not seen, for which it has to ask the database."""
    headers = {"Authorization": f"Bearer slt_{scene.rng.getrandbits(128):032x}"}
    url = f"{scene.installation.url}/admin/api/rules"
    try:
        return requests.get(url, headers=headers, timeout=60).status_code
    except requests.RequestException:
        return 0


def _silence_one(scene: Scene) -> None:
    """Stop one backend after another, each of a connection that the product has."""
    for _ in scene.meanwhile():
        backends = [child for child in scene.installation.postgres.children if _serves(child)]
        if backends:
            send(SIGSTOP, [scene.rng.choice(backends)])
            scene.did["backends stopped"] += 1
        time.sleep(scene.seconds / 4)


def _serves(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "127.0.0.1(" in " ".join(process.cmdline())
    return False


def _resume(scene: Scene) -> None:
    """PostgreSQL answers again."""
    scene.installation.postgres.resume()


_DATABASE: frozenset[Harm] = frozenset({"database"})

ATTACKS = (
    Attack("PostgreSQL: silent", _silence_all, harms=_DATABASE, repair=_resume),
    Attack("PostgreSQL: one backend after another silent", _silence_one, _DATABASE, repair=_resume),
)
