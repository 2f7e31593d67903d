"""For gunicorn: the product, whose process dies once, where the file DIES says so: when an access
has been noted, or when the answer has been committed."""

import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import event

from webapp import create_app
from webapp.db.scopes import PrincipalScope
from webapp.db.session import ScopedSession
from webapp.elevations import service
from webapp.scope import enter as scopes

DIES = Path(os.environ["DIES"])


def die_if(moment: str) -> None:
    if DIES.exists() and DIES.read_text() == moment:
        DIES.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def note(*arguments: Any) -> Any:
    noted = scopes.note(*arguments)
    die_if("noted")
    return noted


mock.patch.object(service, "note", note).start()


@event.listens_for(ScopedSession, "after_commit")
def committed(session: ScopedSession) -> None:
    if isinstance(session.scope, PrincipalScope):
        die_if("committed")


app = create_app()
