"""The API's description as a document: complete, valid, with an example of every body."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.applications import application_of
from webapp.http.errors import PROBLEM_TYPE
from webapp.http.openapi import Api
from webapp.http.openapi.shapes import LINE
from webapp.version import VERSION

Description = dict[str, Any]

PAGES = {"/docs/", "/docs/<name>"}
"""The page of the description and its files, which the document does not describe."""

LATER_LOGS = "/log/<int(min=2):number>/"
"""What logs have that take the place of the first one: the same as that, which is described."""

PUBLIC = {
    *("get_health", "get_readiness"),
    *("read_checkpoint", "read_entries", "read_keys", "read_policy", "read_tile"),
}
FOR_OPERATORS = {"get_metrics", "get_description"}
OPERATIONS_TOKEN = "of-operators"  # noqa: S105 - of this test only


@pytest.fixture(scope="module")
def description(app: Flask) -> Description:
    described: Description = app.test_client().get("/openapi.json").get_json()
    return described


def _operations(description: Description) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The path, the method and the object of each operation."""
    for path, methods in description["paths"].items():
        for method in methods.keys() - {"parameters"}:
            yield path, method, methods[method]


def _resolved(description: Description, part: dict[str, Any]) -> dict[str, Any]:
    """The object that a reference refers to."""
    while "$ref" in part:
        target: Any = description
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        part = target
    return part


def _bodies(description: Description) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON body of a request or an answer, under a name that is readable in a log."""
    for _, _, operation in _operations(description):
        name = operation["operationId"]
        answers = {
            status: _resolved(description, answer)
            for status, answer in operation["responses"].items()
        }
        for kind, body in {"request": operation.get("requestBody", {}), **answers}.items():
            for content_type, media in body.get("content", {}).items():
                if "json" in content_type and "$ref" in media["schema"]:
                    yield f"{name} {kind}", media


def _path_of(rule: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def test_every_route_but_the_page_is_described_and_nothing_else_is(
    app: Flask, description: Description
) -> None:
    routes = {
        (_path_of(rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule not in PAGES and not rule.rule.startswith(LATER_LOGS)
    }
    assert {(path, method) for path, method, _ in _operations(description)} == routes


def test_document_says_what_it_is_and_where_it_is_served(
    app: Flask, description: Description
) -> None:
    public_url = app.extensions["settings"].public_url
    info = description["info"]
    assert description["openapi"].startswith("3.1.")
    assert "PaginationMetadata" not in description["components"]["schemas"]
    assert (info["title"], info["version"]) == ("Sightline", VERSION)
    assert "tokens create" in info["description"]
    assert "demo.json" in info["description"]
    assert [server["url"] for server in description["servers"]] == [public_url]


def test_document_is_a_valid_openapi_document(description: Description) -> None:
    """OpenAPI 3.1 takes each schema to be one of JSON Schema 2020-12."""
    for schema in description["components"]["schemas"].values():
        jsonschema_rs.meta.validate(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        )


def test_operation_ids_are_unique_and_in_snake_case(description: Description) -> None:
    ids = [operation["operationId"] for _, _, operation in _operations(description)]
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    assert [name for name in ids if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name)] == []


def test_every_operation_has_a_summary_and_a_described_tag(description: Description) -> None:
    described = {tag["name"] for tag in description["tags"] if tag["description"]}
    for path, method, operation in _operations(description):
        assert operation["summary"], (path, method)
        assert set(operation["tags"]) <= described, (path, method)


def test_only_public_operations_need_no_token(description: Description) -> None:
    assert description["security"] == [{"token": []}]
    schemes = description["components"]["securitySchemes"]
    assert {name: scheme["scheme"] for name, scheme in schemes.items()} == {
        "token": "bearer",
        "operations": "bearer",
    }
    assert _secured_by(description, []) == PUBLIC | FOR_OPERATORS


def test_deployed_description_asks_operators_for_their_token(app: Flask) -> None:
    settings = replace(
        app.extensions["settings"], env="production", operations_token=OPERATIONS_TOKEN
    )
    with application_of(settings) as deployed:
        shown = {"Authorization": f"Bearer {OPERATIONS_TOKEN}"}
        described = deployed.test_client().get("/openapi.json", headers=shown).get_json()
    assert _secured_by(described, []) == PUBLIC
    assert _secured_by(described, [{"operations": []}]) == FOR_OPERATORS
    for path in ("/metrics", "/openapi.json"):
        assert {"401", "404"} <= described["paths"][path]["get"]["responses"].keys()


def _secured_by(description: Description, security: list[dict[str, list[str]]]) -> set[str]:
    """The operations with this security of their own, in place of the description's."""
    return {
        o["operationId"] for _, _, o in _operations(description) if o.get("security") == security
    }


def test_every_error_is_described_by_its_status_as_a_problem(description: Description) -> None:
    for path, method, operation in _operations(description):
        responses = operation["responses"]
        assert "default" not in responses
        errors = {status for status in responses if status >= "400"}
        public = operation.get("security") == []
        assert errors >= ({"500"} if public else {"401", "403", "500", "503"}), (path, method)
        for status in errors - ({"503"} if public else set()):
            answer = _resolved(description, responses[status])
            assert list(answer["content"]) == [PROBLEM_TYPE], (path, method, status)
            assert answer["content"][PROBLEM_TYPE]["example"]["status"] == int(status)


@pytest.mark.parametrize(
    ("operation_id", "errors"),
    [
        ("list_rules", "400 401 403 404 422 429 500 503"),
        ("create_rule", "400 401 403 404 409 413 422 429 500 503"),
        ("update_rule", "400 401 403 404 409 412 413 422 428 429 500 503"),
        ("delete_rule", "400 401 403 404 409 412 422 428 429 500 503"),
        ("list_grants", "401 403 422 429 500 503"),
        ("approve_grant", "401 403 404 409 412 422 429 500 503"),
        ("create_elevation", "401 403 409 413 422 429 500 503"),
    ],
)
def test_operation_describes_just_the_errors_that_it_can_answer(
    description: Description, operation_id: str, errors: str
) -> None:
    (operation,) = [o for _, _, o in _operations(description) if o["operationId"] == operation_id]
    assert [s for s in sorted(operation["responses"]) if s >= "400"] == errors.split()


def test_every_body_has_an_example_that_its_schema_allows(description: Description) -> None:
    seen = 0
    for name, media in _bodies(description):
        assert "example" in media, name
        schema = {**media["schema"], "components": description["components"]}
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        assert [error.message for error in validator.iter_errors(media["example"])] == [], name
        seen += 1
    assert seen > 100


def test_every_field_of_a_request_is_described_or_says_all_by_its_name(
    description: Description,
) -> None:
    plain = {"description", "email", "id", "slug", "text"}
    for _, _, operation in _operations(description):
        for parameter in operation.get("parameters", []):
            assert _resolved(description, parameter).get("description"), operation["operationId"]
    for name in ("RuleCreate", "GrantRequest", "SimulationRequest", "ElevationRequest"):
        properties = description["components"]["schemas"][name]["properties"]
        undescribed = {field for field, shape in properties.items() if "description" not in shape}
        assert undescribed <= plain, name


def test_null_is_a_type_in_bodies_and_none_in_queries(description: Description) -> None:
    rule = description["components"]["schemas"]["Rule"]["properties"]
    assert rule["tenant"]["type"] == ["string", "null"]
    assert rule["starts_at"]["format"] == "date-time"
    assert '"nullable"' not in str(description).replace("'", '"')
    audit = description["components"]["schemas"]["Audit"]["properties"]
    assert {"type": "null"} in audit["reason"]["anyOf"]
    for _, _, operation in _operations(description):
        for parameter in operation.get("parameters", []):
            found = _resolved(description, parameter)
            if found["in"] == "query":
                assert isinstance(found["schema"]["type"], str), found
                assert found["schema"].get("default", "") is not None, found


def test_patterns_are_readable_for_clients_of_any_language(description: Description) -> None:
    """No lookahead or lookbehind: neither Go nor Rust has any."""
    patterns = re.findall(r"'pattern': '(.*?)'", str(description))
    assert patterns
    assert [pattern for pattern in patterns if "(?" in pattern] == []


CHECKED_OTHERWISE = {
    "tz": "a name from a list",
    "networks": "parsed",
    "ip": "parsed",
    "cursor": "under a MAC",
    "Idempotency-Key": "parsed",
}


def _strings(
    description: Description, name: str, shape: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every string in a shape, under the name of the field that has it."""
    shape = _resolved(description, shape)
    for part in shape.get("anyOf", shape.get("allOf", ())):
        yield from _strings(description, name, part)
    for field, inner in shape.get("properties", {}).items():
        yield from _strings(description, field, inner)
    if "items" in shape:
        yield from _strings(description, name, shape["items"])
    if "string" in (shape.get("type"), *(shape.get("type") or ())):
        yield name, shape


def test_every_text_that_a_client_sends_is_one_line_or_narrower(description: Description) -> None:
    lines = 0
    for _, _, operation in _operations(description):
        bodies = operation.get("requestBody", {}).get("content", {}).values()
        sent = [("body", body["schema"]) for body in bodies]
        parameters = [_resolved(description, p) for p in operation.get("parameters", ())]
        sent += [(p["name"], p["schema"]) for p in parameters if p["in"] == "query"]
        for name, shape in (found for part in sent for found in _strings(description, *part)):
            narrower = {"enum", "pattern", "format", LINE} & shape.keys()
            assert narrower or name in CHECKED_OTHERWISE, (operation["operationId"], name)
            lines += LINE in shape
    assert lines >= 15


def test_document_is_read_by_anybody_and_says_that_it_is_json(client: FlaskClient) -> None:
    answer = client.get("/openapi.json")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")


class TestApi:
    def test_application_may_set_its_own_title(self) -> None:
        app = Flask("docs")
        app.config["API_TITLE"] = "Another"
        assert Api(app).spec.title == "Another"
