"""What an export may be asked for: the filters of the list, and an older tree to prove it from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from webapp.http.schema import Digits
from webapp.ledger.schemas import AuditQuerySchema
from webapp.ledger.search import AuditQuery

OF_LISTS = ("limit", "cursor", "sort", "grouped")
"""The parameters that only lists have."""


@dataclass(frozen=True)
class ExportRequest:
    """A request for an export."""

    filters: AuditQuery
    anchor: int | None

    @property
    def given(self) -> Mapping[str, str]:
        """The filters that were given, by their names over HTTP."""
        filters = AuditQuerySchema(exclude=OF_LISTS).dump(self.filters)
        return {name: str(value) for name, value in filters.items() if value is not None}


class ExportQuerySchema(AuditQuerySchema):
    class Meta(AuditQuerySchema.Meta):
        exclude = OF_LISTS

    format = fields.String(
        load_default="jsonl",
        validate=validate.OneOf(["jsonl"]),
        metadata={"description": "The form of the file: a JSON value a line."},
    )
    anchor = Digits(
        load_default=None,
        validate=validate.Range(1),
        metadata={
            "description": "The size of the log at which its root is known. The export then shows"
            " that root too."
        },
    )

    @ma.post_load
    def _make(self, data: dict[str, Any], **_: Any) -> ExportRequest:
        anchor = data.pop("anchor")
        del data["format"]  # there is one
        return ExportRequest(AuditQuery(**data), anchor)
