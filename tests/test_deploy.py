"""The files of `deploy/` say what the product is: its commands, its metrics, its alarms."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

import tasks.ledger  # noqa: F401 - it defines those that workers count
import webapp.application  # noqa: F401 - imports every module that defines a metric
from tests.processes import ROOT, command_of

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "sightline.json"
PROMTOOL, SYSTEMD = shutil.which("promtool"), shutil.which("systemd-analyze")
BESIDE_OUR_OWN = {"up"}


def alerts() -> list[dict[str, str]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    return [*shown, *(alert["expr"] for alert in alerts())]


def known_metrics(client: FlaskClient) -> set[str]:
    """The metrics of this process, and those that are read from the database."""
    read = text_string_to_metric_families(client.get("/metrics").get_data(as_text=True))
    families = [*REGISTRY.collect(), *read]
    names = {sample.name for family in families for sample in family.samples}
    for family in families:
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return names


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_runs_what_the_procfile_runs(unit: Path) -> None:
    name = unit.stem.removeprefix("sightline-")
    (first, *_) = re.findall(r"^ExecStart=/opt/sightline/.venv/bin/(.*)$", unit.read_text(), re.M)
    command = first.split()
    assert command[: len(command_of(name))] == command_of(name)


@pytest.mark.skipif(SYSTEMD is None, reason="systemd is not installed: no unit was verified")
def test_systemd_takes_every_unit() -> None:
    done = subprocess.run(
        [str(SYSTEMD), "verify", *map(str, UNITS)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "/opt/sightline" not in line]
    assert complaints == []


def test_every_secret_of_a_unit_is_a_file() -> None:
    text = "".join(unit.read_text() for unit in UNITS)
    given = re.findall(r"^Environment=(\w+)=(\S+)", text, re.MULTILINE)
    files = {name for name, value in given if value.startswith("%d/")}
    assert all(name.endswith("_FILE") for name in files)
    assert {"SECRET_KEY_FILE", "JOURNAL_SIGNING_KEY_FILE", "DATABASE_URL_FILE"} <= files


def test_alarms_and_panels_go_by_metrics_that_there_are(client: FlaskClient) -> None:
    named = {name for text in expressions() for name in re.findall(r"\bsightline_\w+", text)}
    assert named
    assert sorted(named - known_metrics(client)) == []


def test_every_alarm_has_its_paragraph_and_no_paragraph_is_left_over() -> None:
    page = (ROOT / "docs" / "operations" / "alarms.md").read_text()
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == [each["alert"] for each in alerts()]


def test_every_metric_that_the_docs_call_an_alarm_has_one() -> None:
    page = (ROOT / "docs" / "operations" / "health.md").read_text()
    wanted = re.findall(r"^\| `(\w+)` \|.*\*\*Alarm", page, re.MULTILINE)
    text = " ".join(alert["expr"] for alert in alerts())
    assert wanted
    assert [name for name in wanted if name not in text] == []


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: no alarm was tried")
@pytest.mark.parametrize(
    "command",
    [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *command], cwd=ALERTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_takes_the_configuration() -> None:
    done = subprocess.run(
        [str(PROMTOOL), "check", "config", "--syntax-only", "prometheus.yml"],
        cwd=ALERTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
