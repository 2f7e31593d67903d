"""The product for gunicorn, with a process that kills itself once.

The file that `DIES` names says when: `begun`, once an access has begun, or `committed`, once the
answer is committed.
"""

import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import event

from webapp.application import create_app
from webapp.db.scopes import PrincipalScope
from webapp.db.session import ScopedSession
from webapp.elevations import service
from webapp.scope import enter

DIES = Path(os.environ["DIES"])


def die_if(moment: str) -> None:
    if DIES.exists() and DIES.read_text() == moment:
        DIES.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def begin_access(*arguments: Any) -> Any:
    begun = enter.begin_access(*arguments)
    die_if("begun")
    return begun


mock.patch.object(service, "begin_access", begin_access).start()


@event.listens_for(ScopedSession, "after_commit")
def committed(session: ScopedSession) -> None:
    if isinstance(session.scope, PrincipalScope):
        die_if("committed")


app = create_app()
