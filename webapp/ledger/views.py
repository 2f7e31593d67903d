"""The views of the ledger under /admin/api/audits."""

from functools import partial
from threading import BoundedSemaphore
from uuid import UUID

from flask import Response

from webapp.extensions import db
from webapp.http.errors import RateLimited
from webapp.http.parsing import Blueprint
from webapp.ledger import disclosure, search
from webapp.ledger.export.schemas import ExportQuerySchema, ExportRequest
from webapp.ledger.export.service import Export
from webapp.ledger.schemas import (
    PATH,
    AuditPageSchema,
    AuditQuerySchema,
    AuditSchema,
    ExcludedPageSchema,
    ExcludedQuerySchema,
)
from webapp.scope.answers import (
    BEHIND_HEADER,
    respond,
    respond_file,
    respond_page,
    respond_read,
    respond_stream,
)
from webapp.scope.surface import current_tenant, surface

TEXT = "text/plain; charset=utf-8"


EXPORTS_AT_ONCE = 2
"""Exports that a process sends at the same time: each keeps one of its threads."""

_exports = BoundedSemaphore(EXPORTS_AT_ONCE)

blueprint = Blueprint(
    "audits",
    __name__,
    url_prefix=PATH,
    description="Who accessed or changed what, and why.",
)


@blueprint.route("")
@surface("admin.audits.list", tenant_roles=("admin",), platform_roles=("auditor", "owner"))
@blueprint.arguments(AuditQuerySchema, location="query")
@blueprint.response(200, AuditPageSchema, headers={BEHIND_HEADER: "Behind"})
def list_audits(query: search.AuditQuery) -> Response:
    """List audit events

    The list holds committed events. Where it is read from a replica of the database, it lacks the
    last `behind` seconds at most, and an event whose receipt one has may not be there yet. In a
    tenant's scope it holds the accesses to that tenant, the allowed accesses to all tenants that
    did not leave it out, and the changes in it.

    There a stranger's refused attempts that are alike, by surface and decision, make one line of a
    page, the first of them: `attempts` says how many they are, and where each is listed. `total`
    counts events. A page with such lines may have fewer than `limit`.
    """
    read = db.read(partial(search.list_events, query=query))
    return respond_read(AuditPageSchema(), read.value, read.behind)


@blueprint.route("/export")
@surface(
    "admin.audits.export",
    tenant_roles=("admin",),
    platform_roles=("auditor", "owner"),
    streams=True,
)
@blueprint.arguments(ExportQuerySchema, location="query")
@blueprint.response(
    200,
    {"type": "string"},
    content_type=TEXT,
    description="The events, a JSON value a line, and what proves them",
    headers={"Content-Disposition": {"schema": {"type": "string"}}},
)
def export_audits(asked: ExportRequest) -> Response:
    """Export audit events, with what proves them

    The file has what the list has with the same filters, in the order of the log, each event with
    its place in it. Whoever has the log's public key can check it without Sightline: that each
    event is as it was sealed, and, without a filter, that none is missing. Units that the scope is
    not shown are withheld. What is committed and not sealed yet comes last. A file without a
    trailer was cut. The export is recorded in one's own tenant too.
    """
    if not _exports.acquire(blocking=False):
        raise RateLimited(f"This process already sends {EXPORTS_AT_ONCE} exports.")
    try:
        export = Export(db.session, asked, current_tenant())
        response = respond_stream(
            export.parts,
            lambda: export.counts.shown,
            content_type=TEXT,
            name="audits.jsonl",
        )
    except Exception:
        _exports.release()
        raise
    if response.is_streamed:
        response.call_on_close(_exports.release)
    else:  # to HEAD, which nobody closes
        _exports.release()
    return response


@blueprint.route("/<uuid:event_id>")
@surface("admin.audits.read", tenant_roles=("admin",), platform_roles=("auditor", "owner"))
@blueprint.response(200, AuditSchema)
def read_audit(event_id: UUID) -> Response:
    """Read an audit event"""
    return respond(AuditSchema(), search.get_event(db.session, event_id), rows=1)


@blueprint.route("/<uuid:event_id>/excluded")
@surface("admin.audits.excluded", tenant_roles=("admin",), platform_roles=("auditor", "owner"))
@blueprint.arguments(ExcludedQuerySchema, location="query")
@blueprint.response(200, ExcludedPageSchema)
def list_excluded(query: search.ExcludedQuery, event_id: UUID) -> Response:
    """List the tenants that an access left out

    The items are the ids of the tenants, in order. A tenant's scope shows none.
    """
    return respond_page(ExcludedPageSchema(), search.list_excluded(db.session, event_id, query))


@blueprint.route("/<uuid:event_id>/proof")
@surface("admin.audits.proof", tenant_roles=("admin",), platform_roles=("auditor", "owner"))
@blueprint.response(
    200,
    {"type": "string"},
    content_type=TEXT,
    description="A proof, as c2sp.org/tlog-proof has it",
    headers={"Content-Disposition": {"schema": {"type": "string"}}},
)
@blueprint.doc(responses={409: "Conflict"})
def read_proof(event_id: UUID) -> Response:
    """Read the proof that an event is in the log

    The file shows the event, but for what the scope does not show, and proves that the log has it
    as it is. Whoever has the log's public key can check it without Sightline. An event that is
    committed and not sealed yet is 409.
    """
    proof = disclosure.prove_event(db.session, event_id)
    name = f"{event_id}.tlog-proof"
    return respond_file(proof.text, rows=1, content_type=TEXT, name=name)
