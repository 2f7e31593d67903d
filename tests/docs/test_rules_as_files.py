"""docs/rules-as-files.md: its commands run in the order that they stand in, and do what it says."""

import json
import re
import shlex
from pathlib import Path

import cedarpy
import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from tests.factories import INCIDENT, add_account, add_tenant
from tests.processes import ROOT
from webapp.rules.files.format import read_draft, read_file

DOCUMENT = (ROOT / "docs" / "rules-as-files.md").read_text()


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def acme(app: Flask) -> str:
    """The slug of the tenant that stands for it."""
    return add_tenant(app).slug


def test_the_commands_run_as_they_are_shown(
    app: Flask, acme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, draft = _blocks("yaml")
    Path("draft.yaml").write_text(draft.replace("acme", acme))
    said: dict[str, str] = {}
    for line in "".join(_blocks("bash")).splitlines():
        result = _run(app, line.replace("acme", acme))
        assert result.exit_code == 0 or "rules check" in line, f"{line}: {result.output}"
        said[line] = result.stdout

    unchanged = r"0 created, 0 changed, 0 deleted, \d+ unchanged\.\n"
    dry = "This was a dry run: nothing was changed.\n"
    imports = [output for line, output in said.items() if " import " in line]
    assert [bool(re.fullmatch(unchanged + dry, imports[0])), len(imports)] == [True, 2]
    assert re.fullmatch(unchanged, imports[1])
    assert json.loads(said["flask --app wsgi rules check --days 7 --json"])["items"]
    (simulated,) = (output for line, output in said.items() if " simulate " in line)
    assert re.match(r"\d+ of (the newest )?\d+ accesses would have changed\.\n", simulated)

    schema = cedarpy.Schema.from_str(Path("rules.cedarschema").read_text())
    assert cedarpy.validate_policies(Path("platform.cedar").read_text(), schema)
    cedarpy.Entities.from_json_str(Path("platform.entities.json").read_text(), schema)


def _run(app: Flask, line: str) -> Result:
    """As a shell does."""
    command, _, file = line.partition(" > ")
    flask, option, wsgi, *arguments = shlex.split(command)
    assert (flask, option, wsgi) == ("flask", "--app", "wsgi")
    result = app.test_cli_runner().invoke(args=arguments)
    if file:
        Path(file).write_text(result.stdout)
    return result


def test_the_files_that_are_shown_are_such() -> None:
    rules, draft = _blocks("yaml")
    assert read_file(rules).owners == {None, "acme"}
    assert read_draft(draft)["tenant"] == "acme"


def test_the_question_that_is_shown_is_answered(app: Flask, client: FlaskClient, acme: str) -> None:
    (shown,) = _blocks("json")
    asked = json.loads(shown.replace("acme", acme))
    headers = add_account(app, "owner").headers("global", INCIDENT)
    response = client.post("/admin/api/rules/simulate", headers=headers, json=asked)
    assert response.status_code == 200, response.text
    assert response.get_json()["access"]["after"]["effect"] == "approval_required"
