"""Clients made of /openapi.json by public generators, used on the running product."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
import requests
from flask import Flask

from tests.factories import Account, MadeTenant, add_account
from tests.processes import Web

pytestmark = pytest.mark.slow

Description = dict[str, Any]


@pytest.fixture(scope="module")
def description(web: Web) -> Description:
    answer = requests.get(f"{web.url}/openapi.json", timeout=30)
    described: Description = answer.json()
    return described


@dataclass(frozen=True)
class Generated:
    folder: Path
    said: str
    """The output of the generator."""


@pytest.fixture(scope="module")
def typed(
    description: Description, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Generated]:
    """The package `typed_client`, made by openapi-python-client."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "config.yaml").write_text("post_hooks: []\n")
    generated = _generate(
        description,
        folder,
        *("openapi_python_client", "generate", "--path", "openapi.json", "--fail-on-warning"),
        *("--output-path", "typed_client", "--meta", "none", "--config", "config.yaml"),
    )
    with _importable(generated):
        yield generated


@pytest.fixture(scope="module")
def modelled(
    description: Description, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Generated]:
    """The package `modelled_client` and the module `models`, made by datamodel-codegen."""
    generated = _generate(
        description,
        tmp_path_factory.mktemp("modelled"),
        *("datamodel_code_generator", "--input", "openapi.json", "--input-file-type", "openapi"),
        *("--output", "models.py", "--output-model-type", "pydantic_v2.BaseModel"),
        *("--formatters", "builtin", "--target-python-version", "3.11"),
        *("--openapi-scopes", "schemas", "api", "--client-model-package", "models"),
        *("--generate-client", "httpx2", "--client-output", "modelled_client"),
        *("--client-package", "modelled_client"),
    )
    with _importable(generated):
        yield generated


@pytest.fixture
def service(app: Flask) -> Account:
    return add_account(app, "service")


def _operation_ids(description: Description) -> set[str]:
    return {
        operation["operationId"]
        for methods in description["paths"].values()
        for name, operation in methods.items()
        if name != "parameters"
    }


def _example(description: Description, path: str) -> Any:
    """The described example of a body that is posted to a path."""
    operation = description["paths"][path]["post"]
    return operation["requestBody"]["content"]["application/json"]["example"]


def _question(description: Description, engineer: Account, tenant: MadeTenant) -> Any:
    """The described example of an elevation, for a user who exists."""
    person = {"email": engineer.email, "mfa": True}
    example = _example(description, "/admin/api/elevations")
    return example | {"principal": person, "tenant": tenant.slug}


def _generate(description: Description, folder: Path, *command: str) -> Generated:
    """Run a generator on the document; it must succeed."""
    (folder / "openapi.json").write_text(json.dumps(description))
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return Generated(folder, said)


@contextmanager
def _importable(generated: Generated) -> Iterator[None]:
    """Let Python import the generated modules, and forget them afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(generated.folder)
        yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(generated.folder)):
            del sys.modules[name]


class TestOpenapiPythonClient:
    def test_makes_every_operation_without_a_warning(
        self, description: Description, typed: Generated
    ) -> None:
        assert "warning" not in typed.said.lower()
        api = typed.folder / "typed_client" / "api"
        assert {path.stem for path in api.rglob("*.py")} - {"__init__"} == _operation_ids(
            description
        )

    def test_client_lists_creates_simulates_and_asks_for_an_elevation(
        self,
        description: Description,
        typed: Generated,
        web: Web,
        tenant: MadeTenant,
        admin: Account,
        engineer: Account,
        service: Account,
    ) -> None:
        package: Any = importlib.import_module("typed_client")
        models: Any = importlib.import_module("typed_client.models")
        rules, elevations = "typed_client.api.rules", "typed_client.api.elevations"
        with package.AuthenticatedClient(web.url, admin.token) as client:
            draft = models.RuleCreate.from_dict(_example(description, "/admin/api/rules"))
            created = _operation(rules, "create_rule").sync(client=client, body=draft)
            assert isinstance(created, models.Rule)
            assert (created.tenant, created.version) == (tenant.slug, 1)

            page = _operation(rules, "list_rules").sync(client=client, limit=10)
            assert isinstance(page, models.RulePage)
            assert [rule.id for rule in page.items] == [created.id]

            tried = _example(description, "/admin/api/rules/simulate")
            request = models.SimulationRequest.from_dict(tried)
            simulation = _operation(rules, "simulate_rule").sync(client=client, body=request)
            assert isinstance(simulation, models.Simulation)
            assert simulation.past.changed <= simulation.past.examined  # of what other tests left

        with package.AuthenticatedClient(web.url, service.token) as client:
            question = _question(description, engineer, tenant)
            elevation = _operation(elevations, "create_elevation").sync(
                client=client,
                body=models.ElevationRequest.from_dict(question),
                idempotency_key=str(uuid4()),
            )
            assert isinstance(elevation, models.Elevation)
            assert (elevation.decision.value, elevation.elevated) == ("allowed", True)

        with package.AuthenticatedClient(web.url, "slt_unknown") as client:
            problem = _operation(rules, "list_rules").sync(client=client)
            assert isinstance(problem, models.Problem)
            assert problem.code == "unauthenticated"


def _operation(package: str, name: str) -> Any:
    module: ModuleType = importlib.import_module(f"{package}.{name}")
    return module


class TestDatamodelCodegen:
    def test_makes_every_operation_without_a_warning(
        self, description: Description, modelled: Generated
    ) -> None:
        assert "warning" not in modelled.said.lower()
        package = importlib.import_module("modelled_client")
        with package.Client(base_url="http://127.0.0.1:1") as client:
            made = {
                name
                for tag in description["tags"]
                for name in dir(getattr(client, tag["name"]))
                if not name.startswith(("_", "with_"))
            }
        assert made == _operation_ids(description)

    def test_client_lists_creates_simulates_and_asks_for_an_elevation(
        self,
        description: Description,
        modelled: Generated,
        web: Web,
        tenant: MadeTenant,
        admin: Account,
        engineer: Account,
        service: Account,
    ) -> None:
        package, models = map(importlib.import_module, ("modelled_client", "models"))
        errors = importlib.import_module("modelled_client.errors")
        with package.Client(base_url=web.url, token=admin.token) as client:
            draft = models.RuleCreate.model_validate(_example(description, "/admin/api/rules"))
            created = client.rules.create_rule(body=draft)
            assert isinstance(created, models.Rule)
            assert (created.tenant, created.version) == (tenant.slug, 1)

            page = client.rules.list_rules(limit=10)
            assert isinstance(page, models.RulePage)
            assert [rule.id for rule in page.items] == [created.id]

            tried = _example(description, "/admin/api/rules/simulate")
            request = models.SimulationRequest.model_validate(tried)
            simulation = client.rules.simulate_rule(body=request)
            assert isinstance(simulation, models.Simulation)
            assert simulation.past.changed <= simulation.past.examined  # of what other tests left

        with package.Client(base_url=web.url, token=service.token) as client:
            elevation = client.elevations.create_elevation(
                Idempotency_Key=str(uuid4()),
                body=models.ElevationRequest.model_validate(
                    _question(description, engineer, tenant)
                ),
            )
            assert isinstance(elevation, models.Elevation)
            assert (elevation.decision.value, elevation.elevated) == ("allowed", True)

        with package.Client(base_url=web.url, token="slt_unknown") as client:  # noqa: S106 - of nobody
            with pytest.raises(errors.AuthenticationError) as refused:
                client.rules.list_rules()
            assert refused.value.body.code == "unauthenticated"
