"""The answers of `/healthz` and `/readyz` on the wire."""

from marshmallow import fields, validate

from webapp.http.schema import Schema


class HealthSchema(Schema):
    example = {"status": "ok"}

    status = fields.String(required=True, validate=validate.OneOf(["ok"]))


class CheckSchema(Schema):
    ok = fields.Boolean(required=True)
    detail = fields.String(
        required=True,
        metadata={"description": "`ok`, or what there is to say, fit for anybody to read."},
    )


class ReadinessSchema(Schema):
    example = {
        "status": "ok",
        "checks": {
            "database": {"ok": True, "detail": "ok"},
            "migrations": {"ok": True, "detail": "ok"},
            "cache": {"ok": True, "detail": "ok"},
            "broker": {"ok": True, "detail": "ok"},
            "worker": {"ok": True, "detail": "seen 4 s ago"},
            "beat": {"ok": True, "detail": "seen 31 s ago"},
            "journal": {"ok": True, "detail": "ok"},
        },
    }

    status = fields.String(
        required=True, validate=validate.OneOf(["ok", "degraded", "unavailable"])
    )
    checks = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(CheckSchema),
        required=True,
        metadata={"description": "How each thing is that the process needs, by its name."},
    )
