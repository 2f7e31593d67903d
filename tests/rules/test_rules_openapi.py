"""/openapi.json on the rules, and on every surface."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

LIST, ONE = "/admin/api/rules", "/admin/api/rules/{rule_id}"


@pytest.fixture
def description(client: FlaskClient) -> dict[str, Any]:
    described: dict[str, Any] = client.get("/openapi.json").get_json()
    return described


def _parameters(description: dict[str, Any], operation: dict[str, Any]) -> dict[str, str]:
    """Where each parameter of an operation is, by name."""
    known = description["components"]["parameters"]
    found = [
        known[parameter["$ref"].rpartition("/")[2]] if "$ref" in parameter else parameter
        for parameter in operation["parameters"]
    ]
    return {parameter["name"]: parameter["in"] for parameter in found}


def test_rules_list_describes_its_query_and_headers(description: dict[str, Any]) -> None:
    query = ("limit", "cursor", "sort", "tenant", "effect", "surface", "enabled", "q")
    assert _parameters(description, description["paths"][LIST]["get"]) == {
        **dict.fromkeys(query, "query"),
        "If-None-Match": "header",
        "Sightline-Scope": "header",
        "Sightline-Reason": "header",
    }


def test_change_of_a_rule_describes_its_body_and_if_match(description: dict[str, Any]) -> None:
    operation = description["paths"][ONE]["patch"]
    assert _parameters(description, operation)["If-Match"] == "header"
    (body,) = operation["requestBody"]["content"].values()
    assert body["schema"] == {"$ref": "#/components/schemas/RulePatch"}
    patch = description["components"]["schemas"]["RulePatch"]
    assert "required" not in patch
    assert all("default" not in field for field in patch["properties"].values())


def test_every_surface_describes_its_scope_reason_and_receipt(
    app: Flask, description: dict[str, Any]
) -> None:
    surfaces = {
        (rule.rule.replace("<uuid:", "{").replace(">", "}"), method.lower()): view.__surface__
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if hasattr(view := app.view_functions[rule.endpoint], "__surface__")
    }
    assert (LIST, "get") in surfaces
    for (path, method), declared in surfaces.items():
        operation = description["paths"][path][method]
        asked = {"Sightline-Scope", "Sightline-Reason"} & _parameters(description, operation).keys()
        assert len(asked) == (0 if declared.personal else 2)
        answers = [code for code in operation["responses"] if code[0] in "23"]
        assert answers
        for code in answers:
            assert "Sightline-Audit" in operation["responses"][code]["headers"]
