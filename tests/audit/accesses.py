"""An application with surfaces that access several times, fail, or never come to an end."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn
from uuid import UUID

from flask import Blueprint, Flask, Response, abort, request, stream_with_context
from sqlalchemy import select, text

from tests.audit.journal.journals import said
from tests.isolation.rows import rule
from webapp import create_app
from webapp.audit import recorder
from webapp.audit.relay import pipeline
from webapp.extensions import db
from webapp.http.state import current_state
from webapp.identity.lookup import find_tenant_id
from webapp.rules.models import RuleRow
from webapp.scope.decision import GlobalTarget, Surface, TenantTarget
from webapp.scope.enter import enter_scope
from webapp.scope.headers import parse_reason
from webapp.scope.surface import current_principal, surface
from webapp.settings import Settings, current_settings

STOPPING = 10.0
BIG = 64 * 2**20
CHUNK = b"x" * 2**16

blueprint = Blueprint("accesses", __name__, url_prefix="/admin/accesses")


@contextmanager
def accessing_app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    app.register_blueprint(blueprint)

    @app.after_request
    def _break(response: Response) -> Response:
        if request.path == "/admin/accesses/hook":
            raise RuntimeError("after the access, before it was finalized")
        return response

    yield app
    pipeline.stop(app, STOPPING)
    app.extensions["celery"].close()
    with app.app_context():
        db.engine.dispose()


def access(name: str) -> Surface:
    return Surface(name, tenant_roles=frozenset(), platform_roles=frozenset({"engineer"}))


@blueprint.get("/several")
@surface("accesses.several", tenant_roles=(), platform_roles=("engineer",))
def several() -> Response:
    """Enter every `surface|reason|tenant` asked for, one in the other, each showing one row."""
    with ExitStack() as stack:
        for asked in request.args.getlist("access"):
            name, reason, slug = asked.split("|")
            target = TenantTarget(find_tenant_id(slug), slug) if slug else GlobalTarget()
            stack.enter_context(
                enter_scope(current_principal(), access(name), target, parse_reason(reason), None)
            )
            recorder.count_rows(name, 1)
    return Response("shown")


@blueprint.get("/rolled-back/<uuid:rule_id>")
@surface("accesses.rolled_back", tenant_roles=(), platform_roles=("engineer",))
def rolled_back(rule_id: UUID) -> Response:
    """Access, write, and have the transaction rolled back."""
    db.session.scalars(select(RuleRow).limit(1)).all()
    db.session.add(rule(None, id=rule_id))
    db.session.flush()
    db.session.rollback()
    return Response("shown")


@blueprint.get("/raises")
@surface("accesses.raises", tenant_roles=(), platform_roles=("engineer",))
def raises() -> NoReturn:
    db.session.scalars(select(RuleRow).limit(1)).all()
    raise ValueError("after the access")


@blueprint.get("/breaks-transaction")
@surface("accesses.breaks", tenant_roles=(), platform_roles=("engineer",))
def breaks_transaction() -> NoReturn:
    db.session.execute(text("select nonsense"))
    raise AssertionError


@blueprint.get("/exits")
@surface("accesses.exits", tenant_roles=(), platform_roles=("engineer",))
def exits() -> NoReturn:
    sys.exit(3)


@blueprint.get("/hook")
@surface("accesses.hook", tenant_roles=(), platform_roles=("engineer",))
def hook() -> Response:
    return Response("shown")


@blueprint.get("/not-found")
@surface("accesses.not_found", tenant_roles=(), platform_roles=("engineer",))
def not_found() -> NoReturn:
    abort(404)


@blueprint.get("/streams")
@surface("accesses.streams", tenant_roles=(), platform_roles=("engineer",))
def streams() -> Response:
    """Far more than fits into the buffers between a server and a client that does not read."""
    return Response(CHUNK for _ in range(BIG // len(CHUNK)))


@blueprint.get("/open")
@surface(
    "accesses.open", tenant_roles=(), platform_roles=("engineer",), open_because="nobody is in it"
)
def open_() -> Response:
    return Response("shown")


@blueprint.get("/waits")
@surface("accesses.waits", tenant_roles=(), platform_roles=("engineer",))
def waits() -> NoReturn:
    """Say in which process, in the file that is named by the query, and search for ever."""
    Path(request.args["file"]).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


@blueprint.get("/process")
@surface("accesses.process", tenant_roles=(), platform_roles=("engineer",))
def process() -> Response:
    return Response(str(os.getpid()))


@blueprint.get("/tells")
@surface("accesses.tells", tenant_roles=(), platform_roles=("engineer",))
def tells() -> Response:
    """Stream what the journals' files say of this request when its first byte is made."""
    directory, request_id = current_settings().journal_dir, current_state().request_id

    def body() -> Iterator[str]:
        yield " ".join(e.outcome for e in said(directory) if e.request.id == request_id)

    return Response(body())


@blueprint.get("/late")
@surface("accesses.late", tenant_roles=(), platform_roles=("engineer",))
def late() -> Response:
    """Access once more when the answer has been finalized, and is on its way."""
    principal, reason = current_principal(), parse_reason("incident")

    def body() -> Iterator[str]:
        yield "shown"
        with enter_scope(principal, access("accesses.late.again"), GlobalTarget(), reason, None):
            yield "never shown"

    return Response(stream_with_context(body()))
