"""Request bodies, answers and parameters in the document, from the marshmallow schemas."""

from collections.abc import Iterator
from typing import Any

import marshmallow as ma
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from webapp.http.schema import Text

LINE = "x-line"
"""Marks a text that people give. Generators of clients warn of formats that they do not know."""


class ShapesPlugin(MarshmallowPlugin):
    """apispec's plugin, which also adds examples and descriptions, and takes null from queries."""

    def init_spec(self, spec: APISpec) -> None:
        super().init_spec(spec)
        if self.converter is not None:
            add: Any = self.converter.add_attribute_function  # apispec does not type it
            add(_describe)
            add(_mark_line)

    def operation_helper(
        self, path: str | None = None, operations: dict[str, Any] | None = None, **options: Any
    ) -> None:
        described = operations or {}
        for operation in described.values():
            for media in _media(operation):
                _add_example(media)
        super().operation_helper(path, operations, **options)
        for operation in described.values():
            for parameter in operation.get("parameters", ()):
                if isinstance(parameter, dict) and parameter["in"] == "query":
                    _remove_null(parameter["schema"])


def _media(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The bodies of an operation, one for each content type."""
    bodies = [operation.get("requestBody"), *operation.get("responses", {}).values()]
    for body in bodies:
        if isinstance(body, dict):  # a string refers to a component
            yield from body.get("content", {}).values()


def _add_example(media: dict[str, Any]) -> None:
    example = getattr(media.get("schema"), "example", None)
    if example is not None:
        media["example"] = example


def _remove_null(schema: dict[str, Any]) -> None:
    """Remove null from a parameter: an absent filter is `None`, but no query can send null."""
    if isinstance(schema.get("type"), list):
        (schema["type"],) = [kind for kind in schema["type"] if kind != "null"]
    if schema.get("default", ...) is None:
        del schema["default"]
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]


def _mark_line(_: Any, field: ma.fields.Field[Any], **__: Any) -> dict[str, bool]:
    return {LINE: True} if isinstance(field, Text) else {}


def _describe(_: Any, field: ma.fields.Field[Any], **__: Any) -> dict[str, str]:
    """The description that a field's schema, or one of its bases, has for it."""
    for kind in type(field.parent).__mro__:
        description = vars(kind).get("descriptions", {}).get(field.name)
        if description is not None:
            return {"description": description}
    return {}
