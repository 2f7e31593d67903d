"""Elevations over HTTP: /admin/api/elevations."""

from typing import Any

from flask import Response

from webapp.audit.recorder import EXCLUDED_HEADER
from webapp.context import current_request
from webapp.elevations import service
from webapp.elevations.elevation import ElevationRequest
from webapp.elevations.schemas import ElevationRequestSchema, ElevationSchema, KeySchema
from webapp.extensions import db
from webapp.http.schema import Blueprint, etag_of, json_response
from webapp.scope.surface import current_principal, surface

REPLAYED_HEADER = "Idempotency-Replayed"
HEADERS = {
    REPLAYED_HEADER: {
        "description": "`true` where this is an earlier answer, sent again.",
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
@surface("admin.elevations.create", tenant_roles=(), platform_roles=("service",), personal=True)
@blueprint.arguments(KeySchema, location="headers")
@blueprint.arguments(ElevationRequestSchema)
@blueprint.response(200, ElevationSchema, headers=HEADERS)
def create_elevation(asked: ElevationRequest, keyed: dict[str, Any]) -> Response:
    """Ask for an elevation

    Decides whether a person may access something in your service, and records it. A denial is an
    answer too, with status 200. The same question with the same `Idempotency-Key` gets the same
    answer again, with `Idempotency-Replayed: true`; another question with it is a conflict.
    """
    answer = service.answer(current_principal(), keyed["key"], current_request().get_data(), asked)
    db.session.commit()
    response = json_response(answer.body, etag_of(answer.body))
    if answer.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response
