"""Everything in a request has a bound, and what exceeds one is refused before it costs anything."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import INCIDENT, Account, add_account
from tests.http.routes import EVERY
from webapp.http.json_bounds import MAX_DEPTH, MAX_FIELDS

Json = dict[str, Any]

BOUNDED_FORMATS = {"uuid", "date-time"}
SELF_BOUNDED_HEADERS = {
    *("Sightline-Scope", "Sightline-Reason", "Idempotency-Key", "If-Match", "If-None-Match")
}
"""Headers, which are limited as such. Those of ours have tests of their own."""


@dataclass(frozen=True)
class Field:
    """A list or a string in a request's body."""

    method: str
    path: str
    steps: tuple[str | int, ...]
    """The way to it from the body: names of fields, and 0 for the first item of a list."""
    schema: Json
    example: Json

    @property
    def id(self) -> str:
        return f"{self.method} {self.path} {'.'.join(map(str, self.steps))}"

    @property
    def kinds(self) -> set[str]:
        kind = self.schema.get("type", [])
        return {kind} if isinstance(kind, str) else set(kind)

    def body(self, value: Any) -> Json:
        """The example, with a value in this field's place."""
        body = deepcopy(self.example)
        place: Any = body
        for step, following in zip(self.steps, self.steps[1:], strict=False):
            if isinstance(step, str) and place.get(step) in (None, []):
                place[step] = [{}] if following == 0 else {}
            if isinstance(step, int) and not place:
                place.append({})
            place = place[step]
        if isinstance(place, list):
            place[:] = [value]
        else:
            place[self.steps[-1]] = value
        return body


class Description:
    """The API's description."""

    def __init__(self, document: Json) -> None:
        self.document = document

    def resolve(self, schema: Json) -> Json:
        while "$ref" in schema:
            found: Any = self.document
            for step in schema["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            schema = found
        return schema

    def operations(self) -> Iterator[tuple[str, str, Json]]:
        for path, methods in self.document["paths"].items():
            for method in methods.keys() - {"parameters"}:
                yield method.upper(), path, methods[method]

    def fields(self) -> Iterator[Field]:
        for method, path, operation in self.operations():
            media = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if media is not None:
                body = Field(method, path, (), media["schema"], media["example"])
                yield from self._inside(body)

    def _inside(self, field: Field) -> Iterator[Field]:
        schema = self.resolve(field.schema)
        for choice in (schema, *schema.get("anyOf", ()), *schema.get("allOf", ())):
            found = Field(
                field.method, field.path, field.steps, self.resolve(choice), field.example
            )
            if found.kinds & {"array", "string"}:
                yield found
            for name, inner in found.schema.get("properties", {}).items():
                yield from self._inside(_below(found, name, inner))
            if "items" in found.schema:
                yield from self._inside(_below(found, 0, found.schema["items"]))


def _below(field: Field, step: str | int, schema: Json) -> Field:
    return Field(field.method, field.path, (*field.steps, step), schema, field.example)


@pytest.fixture(scope="module")
def description(app: Flask) -> Description:
    return Description(app.test_client().get("/openapi.json").get_json())


@pytest.fixture(scope="module")
def people(app: Flask) -> dict[str, Account]:
    return {role: add_account(app, role) for role in ("owner", "engineer", "service")}


def send(client: FlaskClient, people: dict[str, Account], field: Field, body: Any) -> TestResponse:
    """Send a body to the field's route, as somebody who may use it."""
    use = next(
        use
        for use in EVERY.values()
        if use.method == field.method and _as_described(use.rule) == field.path
    )
    role = next(role for role in use.platform_roles if role in people)
    path = field.path
    while "{" in path:
        path = path.replace(path[path.index("{") : path.index("}") + 1], str(uuid4()))
    headers = people[role].headers("global", INCIDENT)
    headers |= {"If-Match": "*", "Idempotency-Key": f'"{uuid4()}"'}
    return client.open(path, method=field.method, headers=headers, json=body)


def _as_described(rule: str) -> str:
    return rule.replace("<uuid:", "{").replace(">", "}")


def test_each_list_and_each_string_in_a_body_has_a_bound(description: Description) -> None:
    fields = list(description.fields())
    assert sum("array" in field.kinds for field in fields) > 20
    for field in fields:
        if "array" in field.kinds:
            assert field.schema.get("maxItems", 0) > 0, field.id
        if "string" in field.kinds:
            bounded = "maxLength" in field.schema or "enum" in field.schema
            assert bounded or field.schema.get("format") in BOUNDED_FORMATS, field.id


def test_each_string_in_a_query_or_a_header_has_a_bound(description: Description) -> None:
    for method, path, operation in description.operations():
        for given in operation.get("parameters", ()):
            parameter = description.resolve(given)
            schema = description.resolve(parameter["schema"])
            named = f"{method} {path} {parameter['name']}"
            assert schema["type"] != "array", named
            if schema["type"] == "string" and parameter["name"] not in SELF_BOUNDED_HEADERS:
                bounded = "maxLength" in schema or "enum" in schema
                assert bounded or schema.get("format") in BOUNDED_FORMATS, named


def test_list_that_is_too_long_is_one_error_however_many_items_are_wrong(
    client: FlaskClient, people: dict[str, Account], description: Description
) -> None:
    for field in description.fields():
        if "array" not in field.kinds:
            continue
        body = field.body([{"wrong": "item"}] * (field.schema["maxItems"] + 1))
        answer = send(client, people, field, body)
        assert answer.status_code == 422, field.id
        errors = answer.get_json()["errors"]
        wrong = {name: said for name, said in errors.items() if name.startswith(_name(field))}
        assert list(wrong) == [_name(field)], field.id
        assert len(wrong[_name(field)]) == 1, field.id
        assert str(field.schema["maxItems"]) in wrong[_name(field)][0], field.id


def test_string_that_is_too_long_is_refused_by_name(
    client: FlaskClient, people: dict[str, Account], description: Description
) -> None:
    for field in description.fields():
        if "maxLength" not in field.schema:
            continue
        body = field.body("1" * (field.schema["maxLength"] + 1))
        answer = send(client, people, field, body)
        assert answer.status_code == 422, field.id
        assert _name(field) in answer.get_json()["errors"], field.id


def _name(field: Field) -> str:
    return ".".join(map(str, field.steps))


def test_body_that_is_too_deep_or_too_wide_is_one_error(
    client: FlaskClient, people: dict[str, Account], description: Description
) -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    wide = {f"field {number}": 1 for number in range(MAX_FIELDS + 1)}
    routes = {(field.method, field.path): field for field in description.fields()}
    assert len(routes) > 4
    for field in routes.values():
        for body, said in (
            ({"name": deep}, "levels deep"),
            (wide, "fields"),
            ({"windows": [wide]}, "fields"),
        ):
            answer = send(client, people, field, body)
            assert answer.status_code == 422, field.id
            errors = answer.get_json()["errors"]
            assert list(errors) == ["json"], field.id
            assert said in errors["json"][0], field.id
        for body in ({"name": deep[0]}, dict.fromkeys(list(wide)[1:], 1)):
            assert "json" not in send(client, people, field, body).get_json()["errors"], field.id
