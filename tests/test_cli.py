"""Common parts of all `flask` commands: list, help, version and tables."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

import click
import orjson
import pytest
from flask import Flask

from tests.conftest import Run
from tests.processes import ROOT
from webapp.commands import Commands, LazyCommand, print_rows
from webapp.version import VERSION

LIST_COMMANDS = """
import gc
import sys
from flask.cli import main
sys.argv = ["flask", "--app", "wsgi", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
assert gc.isenabled()
print("imported", *sorted(sys.modules))
"""
NARROW = 50


@dataclass(frozen=True)
class Thing:
    id: UUID
    name: str
    request: str | None
    rules: tuple[UUID, ...]


def own_commands(app: Flask) -> Iterator[tuple[str, click.Command]]:
    """Every command of the product with its path, without commands of Flask and its extensions."""
    for name, listed in app.cli.commands.items():
        command = listed.loaded if isinstance(listed, LazyCommand) else listed
        if isinstance(command, Commands):
            yield from ((f"{name} {inner}", c) for inner, c in command.commands.items())
        elif name in ("doctor", "version"):
            yield name, command


def test_listing_the_commands_imports_none_of_them(environment: Mapping[str, str]) -> None:
    listed = subprocess.run(
        [sys.executable, "-c", LIST_COMMANDS],
        cwd=ROOT,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=True,
    )
    shown, imported = listed.stdout.split("imported ")
    for name in ("audit", "cache", "db", "demo", "doctor", "grants", "rules", "scope", "tenants"):
        assert f"\n  {name} " in shown
    modules = set(imported.split())
    assert "webapp.cli" in modules
    assert not {m for m in modules if m.startswith("webapp.") and m.endswith(".cli")} - {
        "webapp.cli"
    }
    assert not {"alembic", "webapp.doctor", "webapp.scope.lint", "webapp.demo"} & modules


def test_every_command_and_every_option_has_help(app: Flask) -> None:
    commands = dict(own_commands(app))
    assert {"audit search", "cache clear", "doctor", "tenants create"} <= commands.keys()
    silent = [path for path, command in commands.items() if not command.help]
    silent += [
        f"{path} {option.opts[0]}"
        for path, command in commands.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert silent == []


def test_version_is_that_of_the_project(run: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert run("version").stdout == f"Sightline, version {VERSION}\n"
    assert orjson.loads(run("version", "--json").stdout) == {"version": VERSION}


def test_every_group_prints_the_version(app: Flask, run: Run) -> None:
    groups = {path.split()[0] for path, _ in own_commands(app)} - {"doctor", "version"}
    assert groups
    for name in groups:
        assert run(name, "--version").stdout == f"Sightline, version {VERSION}\n"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.commands.PIPED_WIDTH", NARROW)


@pytest.mark.usefixtures("narrow")
def test_narrow_table_folds_names_and_no_id(capsys: pytest.CaptureFixture[str]) -> None:
    name = " ".join(f"word{number}" for number in range(12))
    things = [
        Thing(uuid4(), name, str(uuid4()), (uuid4(), uuid4())),
        Thing(uuid4(), "short", None, ()),
    ]
    print_rows(Thing, things, as_json=False)
    shown = capsys.readouterr().out
    for thing in things:
        for shown_id in (thing.id, thing.request, *thing.rules):
            assert shown_id is None or str(shown_id) in shown
    assert name not in shown
    assert all(word in shown for word in name.split())
    assert len({len(line) for line in shown.splitlines()}) == 1


@pytest.mark.usefixtures("narrow")
def test_table_without_ids_is_as_wide_as_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(Thing, [Thing("x" * 30, "y" * 30, None, ())], as_json=False)  # type: ignore[arg-type]  # no id at all
    assert {len(line) for line in capsys.readouterr().out.splitlines()} == {NARROW}


def test_empty_table_says_that_nothing_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(Thing, [], as_json=False)
    assert capsys.readouterr().out == "Nothing found.\n"
    print_rows(Thing, [], as_json=True)
    assert orjson.loads(capsys.readouterr().out) == {"items": []}
