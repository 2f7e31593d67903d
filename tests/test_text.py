"""Text that people give is one line of printable characters; what is older is shown escaped."""

import json
import logging
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import text as sql
from werkzeug.test import TestResponse

from tests.audit.ledgers import owner_connection
from tests.conftest import Run
from tests.elevations import calls as elevations
from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.grants import calls as grants
from tests.operators import WHY
from tests.rules.calls import PATH, add_rule, draft, problem
from webapp.caching import invalidate
from webapp.db.scopes import GlobalScope
from webapp.extensions import db
from webapp.grants.notices import mail
from webapp.observability import logs
from webapp.rules.rule import ALL_RULES_TAG, owner_tag
from webapp.text import escaped, escaped_json, escaped_lines, is_line

BAD: Mapping[str, str] = {
    "ESC": "\x1b[31mred",
    "a line break": "two\nlines",
    "a line separator": "two\u2028lines",
    "C1": "\x9b31mred",
    "DEL": "a\x7f",
    "a reversed line": "a\u202etxt.exe",
    "an isolate": "a\u2066b",
    "a zero width": "ad\u200bmin",
    "a byte order mark": "\ufeffa",
    "a tag": "a\U000e0041",
    "a filler": "\u3164",
    "a variation selector": "a\ufe0f",
    "private use": "\ue000",
    "another space": "a\u00a0b",
    "spaces only": "  ",
}
bad = pytest.mark.parametrize("text", BAD.values(), ids=BAD)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("".join(BAD.values()))))
@example("\ud800")
def test_escaped_text_is_a_line_and_a_line_stays_as_it_is(text: str) -> None:
    shown = escaped(text)
    assert is_line(shown) or not shown.strip()
    assert {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} == set()
    assert not is_line(text) or shown == text
    assert escaped_lines(f"{text}\n") == "\n".join(map(escaped, f"{text}\n".split("\n")))
    assert json.loads(escaped_json(json.dumps([text], ensure_ascii=False))) == [text]
    assert is_line(escaped_json(json.dumps([text], ensure_ascii=False)))


@pytest.mark.parametrize("text", ["Ünïcode 🎫: #1", "漢字", "", "a' b\"", "e\u0301"])
def test_printable_text_of_any_script_is_a_line(text: str) -> None:
    assert is_line(text)
    assert escaped(text) == text


@bad
def test_text_over_http_is_refused_with_its_field(
    client: FlaskClient, admin: Account, engineer: Account, service: Account, text: str
) -> None:
    def post(body: dict[str, Any]) -> TestResponse:
        return client.post(PATH, headers=admin.headers(), json=body)

    assert problem(post(draft(text))) == (422, "invalid", ["name"])
    assert problem(post(draft(description=text))) == (422, "invalid", ["description"])
    assert problem(post(draft(ticket=text))) == (422, "invalid", ["ticket"])
    users = draft(subjects={"users": [text]})
    assert problem(post(users)) == (422, "invalid", ["subjects.users.0"])
    found = client.get(PATH, headers=admin.headers(), query_string={"q": text})
    assert problem(found) == (422, "invalid", ["q"])
    asked = grants.ask(client, engineer, None, reason={"code": "incident", "note": text})
    assert problem(asked) == (422, "invalid", ["reason.note"])
    reviewed = client.post(
        f"{grants.PATH}/{uuid4()}/review", headers=admin.headers(), json={"text": text}
    )
    assert problem(reviewed) == (422, "invalid", ["text"])
    question = elevations.question(engineer.email, reason="incident")
    noted = question | {"reason": {"code": "incident", "note": text}}
    assert problem(elevations.ask(client, service, noted)) == (422, "invalid", ["reason.note"])
    named = question | {"principal": {"email": f"a{text}@example.org"}}
    status, code, _ = problem(elevations.ask(client, service, named))
    assert (status, code) == (422, "invalid")


@bad
def test_text_of_a_command_is_refused(
    run: Run, tenant: MadeTenant, support: Account, tmp_path: Path, text: str
) -> None:
    rules = [draft(text)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"platform": rules}))
    for words in (
        ("tenants", "create", f"t-{uuid4().hex}", "--name", text),
        ("tenants", "rename", tenant.slug, "--name", text),
        ("users", "create", f"a{text}@example.org"),
        ("users", "rename", *WHY, support.email, f"a{text}@example.org"),
        ("tokens", "create", support.email, "--name", text),
        ("rules", "import", *WHY, str(file)),
        ("rules", "simulate", *WHY, str(file)),
    ):
        done = run(*words)
        assert done.exit_code == 1, words
        assert done.output.startswith("Error: ")
        assert is_line(done.output.rstrip("\n").replace("\n", " "))


OLD = "old\x1b]0;pwned\x07\x1b[31m\u202e\u200b\x9b”"
SHOWN = r"old\x1b]0;pwned\x07\x1b[31m\u202e\u200b\x9b”"
QUOTED = SHOWN.replace("”", r"\u201d")


@pytest.fixture
def old_rule(app: Flask, client: FlaskClient, owner: Account, surface: str) -> dict[str, Any]:
    """A rule of the platform's that has its name since before the rule for names."""
    everywhere = owner.headers("global", INCIDENT)
    rule = add_rule(client, everywhere, uuid4().hex, effect="allow", surfaces=[surface])
    with owner_connection(app) as connection:
        found = {"id": rule["id"], "name": rule["name"] + OLD}
        connection.execute(sql("alter table rules no force row level security"))
        connection.execute(sql("update rules set name = :name where id = :id"), found)
        connection.execute(sql("alter table rules force row level security"))
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        invalidate(ALL_RULES_TAG, owner_tag(None))
        db.session.commit()
    return rule


@pytest.fixture
def surface() -> str:
    return f"s{uuid4().hex}.read"


@pytest.fixture
def service(app: Flask) -> Account:
    return add_account(app, "service")


def test_old_name_is_shown_escaped(
    client: FlaskClient,
    run: Run,
    engineer: Account,
    service: Account,
    tenant: MadeTenant,
    surface: str,
    old_rule: dict[str, Any],
) -> None:
    own = old_rule["name"]
    table = run("rules", "list", *WHY, "--q", own).output
    assert own + SHOWN in table
    printed = run("rules", "list", *WHY, "--q", own, "--json").output
    assert [rule["name"] for rule in json.loads(printed)["items"]] == [own + OLD]
    exported = run("rules", "export", *WHY, "--platform").output
    assert own in exported
    for output in (table, printed, exported):
        assert escaped_lines(output) == output
    answer = elevations.answered(
        client, service, elevations.question(engineer.email, tenant, surface=surface)
    )
    assert f"the platform's rule “{own}{QUOTED}”" in answer["explanation"]
    assert {"id": old_rule["id"], "owner": None, "name": own + OLD} in answer["named"]


def test_mail_shows_old_text_escaped() -> None:
    grant = {
        "holder": f"a{OLD}@example.org",
        "tenant": None,
        "surfaces": ["admin.rules.list"],
        "minutes": 5,
        "url": "https://sightline.example",
        **dict.fromkeys(("reason", "ticket", "note", "review", "ends_at"), OLD),
        **dict.fromkeys(("closed_by", "reviewed_by"), OLD),
    }
    message = mail.compose(
        uuid4(), "s@example.org", "t@example.org", {"type": "grant.asked", "data": grant}
    )
    assert message["Subject"] == f"a{SHOWN}@example.org asks to access all tenants"
    assert message.get_content().count(SHOWN) == 8
    assert escaped_lines(message.get_content()) == message.get_content()


@pytest.mark.parametrize("render", [logs.render_json, logs.render_pretty])
def test_log_line_shows_old_text_escaped(render: Callable[..., str]) -> None:
    line = render(logging.getLogger(), "info", {"event": "seen", "name": f"{OLD}\nforged"})
    line = line.replace("\x1b[0m", "")
    assert "\\u202e" in line
    assert "\u202e" not in line
    assert "\x9b" not in line
