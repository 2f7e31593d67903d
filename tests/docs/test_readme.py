"""The README's tour, pasted into a shell as a new user does it, on a real server."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from flask import Flask

from tests.factories import add_account, tenant_named
from tests.processes import ROOT, Web
from webapp.db.scopes import TenantScope
from webapp.demo.credentials import Credentials, write_credentials
from webapp.demo.drafts import tenant_rules
from webapp.demo.rules import add_rules
from webapp.extensions import db

PATIENCE = 120
"""Seconds; only a worker that commits nothing takes that long."""

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def tour() -> list[tuple[str, str]]:
    """The tour's blocks in their order: `bash`, or the `text` that it prints."""
    readme = (ROOT / "README.md").read_text()
    section = readme.split("\n## A tour in two minutes\n")[1].split("\n## ")[0]
    return re.findall(r"^```(bash|text)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def printed(
    tour: list[tuple[str, str]],
    app: Flask,
    web: Web,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    home = tmp_path_factory.mktemp("tour")
    acme = tenant_named(app, "acme")
    with app.app_context(), db.session.scoped(scope := TenantScope(acme.id)):
        add_rules(scope, tenant_rules("acme"), "acme-admin@sightline.example")
        db.session.commit()
    accounts = {
        "acme-admin": add_account(app, member_of={"acme": "admin"}),
        "engineer": add_account(app, "engineer"),
        "support": add_account(app, "support"),
        "auditor": add_account(app, "auditor"),
    }
    tokens = {name: account.token for name, account in accounts.items()}
    write_credentials(home, Credentials(web.url, tokens))
    done = _paste("".join(text for kind, text in tour if kind == "bash"), home)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def _paste(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-eu"],
        input=script,
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "SIGHTLINE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_every_access_is_answered_as_the_tour_says(printed: str) -> None:
    statuses = re.findall(r"^HTTP/1\.1 (\d+)", printed, re.MULTILINE)
    assert statuses[:6] == ["200", "200", "403", "304", "200", "200"]
    assert statuses[6:9] == ["201", "200", "403"]
    assert statuses[9:] == ["200", "403", "201", "200", "200", "204"]


def test_every_elevated_access_has_a_receipt_of_its_own(printed: str) -> None:
    receipts = re.findall(rf"^Sightline-Audit: ({UUID})$", printed, re.MULTILINE)
    assert len(set(receipts)) == len(receipts) == 14


def test_the_first_receipt_is_that_of_the_event_shown(printed: str) -> None:
    receipt = re.findall(rf"^Sightline-Audit: ({UUID})$", printed, re.MULTILINE)[0]
    first = re.findall(r"^\{$.*?^\}$", printed, re.MULTILINE | re.DOTALL)[0]
    event = json.loads(first)
    assert event["id"] == receipt
    assert event["outcome"] == "served"
    assert event["rows"] == 50


def test_the_second_access_comes_from_the_cache(printed: str) -> None:
    assert "\nthe same bytes\n" in printed
    assert re.search(
        r'^sightline_cache_requests_total\{function="webapp\.rules\.service\.list_rules",'
        r'outcome="(hit|hit_local)"\} [1-9]',
        printed,
        re.MULTILINE,
    )


def test_what_the_readme_shows_is_what_is_printed(
    tour: list[tuple[str, str]], printed: str
) -> None:
    """Line by line and in order, but for what differs from one run to the next."""
    remaining = iter(map(_without_particulars, printed.splitlines()))
    for kind, text in tour:
        if kind == "text":
            for line in text.splitlines():
                if line.strip() != "…":
                    assert _without_particulars(line) in remaining, line


def _without_particulars(line: str) -> str:
    return re.sub(rf'[\w.-]+@[\w.-]+|{UUID}|[0-9a-f]{{32}}|outcome="\w+"|\d+', "…", line)
