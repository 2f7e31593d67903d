"""Elevations over HTTP: /admin/api/elevations."""

from typing import Any

from flask import Response, request

from webapp.audit.recorder import EXCLUDED_HEADER
from webapp.elevations import service
from webapp.elevations.elevation import ElevationRequest
from webapp.elevations.schemas import ElevationRequestSchema, ElevationSchema, KeySchema
from webapp.http.parsing import Blueprint
from webapp.scope.answers import respond_json
from webapp.scope.surface import current_principal, surface

REPLAYED_HEADER = "Idempotency-Replayed"
HEADERS = {
    REPLAYED_HEADER: {
        "description": "`true` if this answer was stored by an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    EXCLUDED_HEADER: "Excluded",
}

blueprint = Blueprint(
    "elevations",
    __name__,
    url_prefix="/admin/api/elevations",
    description="Decisions about accesses in other services.",
)


@blueprint.route("", methods=["POST"])
@surface(
    "admin.elevations.create",
    tenant_roles=(),
    platform_roles=("service",),
    changes=True,
    personal=True,
)
@blueprint.arguments(KeySchema, location="headers")
@blueprint.arguments(ElevationRequestSchema)
@blueprint.response(200, ElevationSchema, headers=HEADERS)
def create_elevation(keyed: dict[str, Any], question: ElevationRequest) -> Response:
    """Ask for an elevation

    Decides whether a person may access something in your service, and records the decision. A
    denial is an answer too, with status 200. The same question with the same `Idempotency-Key` gets
    the same answer again, with `Idempotency-Replayed: true`, until the permission ends; after that
    it is 409 `expired`. Another question with the same key is 422.
    """
    answer = service.answer(current_principal(), keyed["key"], request.get_data(), question)
    response = respond_json(answer.body, rows=None)
    if answer.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response
