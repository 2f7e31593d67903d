"""What the documents name is there, and what they show happens."""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client import REGISTRY
from werkzeug.routing import Rule

import tasks.ledger  # noqa: F401 - it defines metrics that workers count
from tests.docs.pages import Write, blocks_of, read_steps
from tests.processes import ROOT
from webapp.commands import Commands, LazyCommand
from webapp.identity.principal import STAFF_ROLES
from webapp.ledger.sealing.state import LogGauges
from webapp.observability.last_seen import LastSeen
from webapp.settings import Settings

DESIGNS = sorted((ROOT / "docs" / "design").glob("*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

MEASURES = (".venv/bin/python -m bench ", ".venv/bin/python -m reliability.")

document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


@document
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", path.read_text())
    inside = [link for link in links if not link.startswith("https://")]
    assert [link for link in inside if not (path.parent / link).exists()] == []


@document
def test_files_that_are_named_are_there_or_made_by_the_page(path: Path) -> None:
    named = re.findall(r"\b((?:webapp|tasks|tests|migrations)/[\w./-]*\w)", path.read_text())
    made = [step.path for step in read_steps(path) if isinstance(step, Write)]
    missing = [name for name in named if not (ROOT / name).exists()]
    assert [name for name in missing if not any(file.startswith(name) for file in made)] == []


@document
def test_tests_that_are_named_are_there(path: Path) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", path.read_text())
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not re.search(rf"\bdef {test}\(", (ROOT / file).read_text())
    ]
    assert missing == []


@pytest.mark.parametrize("path", DESIGNS, ids=lambda path: path.name)
def test_the_old_failure_fails_as_it_is_shown(path: Path, tmp_path: Path) -> None:
    shown = re.search(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", path.read_text(), re.M | re.S)
    assert shown is not None
    script, output = shown.groups()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == output, done.stderr


def test_settings_page_names_every_setting() -> None:
    page = (ROOT / "docs" / "operations" / "settings.md").read_text()
    named = re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)
    prefixed = ("env", "home", "operator")
    read = [
        f"{'SIGHTLINE_' if field.name in prefixed else ''}{field.name.upper()}"
        for field in fields(Settings)
    ]
    assert sorted(named) == sorted(read)


def test_health_page_names_every_metric(app: Flask) -> None:
    page = (ROOT / "docs" / "operations" / "health.md").read_text()
    named = re.findall(r"^\| `(sightline_\w+)` \|", page, re.MULTILINE)
    collected = [*REGISTRY.collect(), *LastSeen(app).collect(), *LogGauges(app).collect()]
    kept = [metric for metric in collected if metric.name.startswith("sightline_")]
    counted = [f"{m.name}_total" if m.type == "counter" else m.name for m in kept]
    assert app.extensions
    assert sorted(named) == sorted(counted)


def test_contributing_shows_what_make_explains() -> None:
    command = ["make", "--no-print-directory", "help"]  # since `make test` has called us
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"```text\n{done.stdout}```" in (ROOT / "CONTRIBUTING.md").read_text()


@document
def test_commands_that_no_test_pastes_are_targets_of_make_or_measure(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {f"make {name}" for name in re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)}
    shown = "".join(block.text for block in blocks_of(path.read_text()) if block.kind == "sh")
    commands = {line for line in shown.splitlines() if not line.startswith(MEASURES)}
    assert commands <= targets


def test_architecture_shows_the_layers_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    shown = blocks_of((ROOT / "docs" / "architecture.md").read_text())[0]
    assert shown.text.splitlines() == layers


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_contract_names_every_surface_and_who_may_use_it(app: Flask) -> None:
    contract = (ROOT / "docs" / "contract.md").read_text()
    rows = re.findall(r"^\| `(\w+ /admin/.*?)` \| `(.*?)` \| (.*?) \| (.*?) \|$", contract, re.M)
    described = {
        (route, name, _tenant_roles(tenant), _platform_roles(platform))
        for route, name, tenant, platform in rows
    }
    declared = {
        (_route(rule), surface.name, surface.tenant_roles, surface.platform_roles)
        for rule in app.url_map.iter_rules()
        if (surface := getattr(app.view_functions[rule.endpoint], "__surface__", None))
    }
    assert described == declared


def _route(rule: Rule) -> str:
    (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
    return f"{method} {re.sub(r'<[^>]*>', '{id}', rule.rule)}"


def _tenant_roles(named: str) -> frozenset[str]:
    return frozenset(() if named == "nobody" else named.split(", "))


def _platform_roles(named: str) -> frozenset[str]:
    return frozenset(STAFF_ROLES if named == "any platform role" else named.split(", "))


def test_the_contract_names_every_command(app: Flask) -> None:
    contract = (ROOT / "docs" / "contract.md").read_text()
    section = contract.split("\n## Commands\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)\b(.*?)\|", section, re.MULTILINE)
    described = {name: set(re.findall(r"(\w+)`", row)) for name, row in rows}
    commands = {
        name: command.loaded if isinstance(command, LazyCommand) else command
        for name, command in app.cli.commands.items()
    }
    ours = {n: group for n, group in commands.items() if isinstance(group, Commands)}
    assert ours
    assert {name: described.get(name) for name in ours} == {
        name: set(group.commands) for name, group in ours.items()
    }
