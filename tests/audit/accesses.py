"""An application with surfaces that are used several times, fail, or never answer."""

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

from tests.audit.journal.journals import events_in
from tests.isolation.rows import rule
from webapp.application import create_app
from webapp.audit import recorder
from webapp.audit.relay import pipeline
from webapp.extensions import db
from webapp.http.parsing import takes_query
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
def misbehaving_app(settings: Settings) -> Iterator[Flask]:
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
@takes_query
def several() -> Response:
    """Enter each requested `surface|reason|tenant`, nested, and count one row for each."""
    with ExitStack() as stack:
        for requested in request.args.getlist("access"):
            name, reason, slug = requested.split("|")
            target = TenantTarget(find_tenant_id(slug), slug) if slug else GlobalTarget()
            stack.enter_context(
                enter_scope(current_principal(), access(name), target, parse_reason(reason), None)
            )
            recorder.count_rows(name, 1)
    return Response("shown")


@blueprint.get("/rolled-back/<uuid:rule_id>")
@surface("accesses.rolled_back", tenant_roles=(), platform_roles=("engineer",))
def rolled_back(rule_id: UUID) -> Response:
    """Read, write, and roll the transaction back."""
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
    """Stream more than fits into the buffers between the server and a client that does not read."""
    return Response(CHUNK for _ in range(BIG // len(CHUNK)))


@blueprint.get("/open")
@surface(
    "accesses.open", tenant_roles=(), platform_roles=("engineer",), open_because="nobody is in it"
)
def open_() -> Response:
    return Response("shown")


@blueprint.get("/waits")
@surface("accesses.waits", tenant_roles=(), platform_roles=("engineer",))
@takes_query
def waits() -> NoReturn:
    """Write the process id into the file that the query names, and never answer."""
    Path(request.args["file"]).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


@blueprint.get("/process")
@surface("accesses.process", tenant_roles=(), platform_roles=("engineer",))
def process() -> Response:
    return Response(str(os.getpid()))


@blueprint.get("/journaled")
@surface("accesses.journaled", tenant_roles=(), platform_roles=("engineer",))
def journaled() -> Response:
    """Stream the outcomes that the journals' files have of this request at the first byte."""
    directory, request_id = current_settings().journal_dir, current_state().request_id

    def body() -> Iterator[str]:
        yield " ".join(e.outcome for e in events_in(directory) if e.request.id == request_id)

    return Response(body())


@blueprint.get("/late")
@surface("accesses.late", tenant_roles=(), platform_roles=("engineer",))
def late() -> Response:
    """Enter another surface after the answer has been finalized, while it is streamed."""
    principal, reason = current_principal(), parse_reason("incident")

    def body() -> Iterator[str]:
        yield "shown"
        with enter_scope(principal, access("accesses.late.again"), GlobalTarget(), reason, None):
            yield "never shown"

    return Response(stream_with_context(body()))
