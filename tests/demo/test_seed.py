"""The command `flask demo seed`."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

import orjson
import pytest
from flask import Flask
from sqlalchemy import func, select
from uuid_utils.compat import uuid7

from tests.demo.conftest import Place
from webapp.application import create_app
from webapp.db.scopes import DirectoryScope, GlobalScope
from webapp.demo import accounts, drafts
from webapp.demo.rules import add_rules
from webapp.directory import service
from webapp.extensions import db
from webapp.identity import lookup, tokens
from webapp.rules.models import RuleRow, RuleVersionRow

pytestmark = pytest.mark.slow(seconds=1)

ROLES = {
    "acme-admin": ("acme:admin",),
    "acme-member": ("acme:member",),
    "globex-admin": ("globex:admin",),
    "initech-admin": ("initech:admin",),
    "support": ("support",),
    "engineer": ("engineer",),
    "auditor": ("auditor",),
    "owner": ("owner",),
}
SEEDED = {"acme": 60, "globex": 60, "initech": 60, None: 11}


def seed(place: Place, *arguments: str) -> str:
    result = place.run("seed", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def kept(place: Place) -> dict[str, Any]:
    file = place.home / "demo.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(place.home) == ["demo.json"]
    read: dict[str, Any] = orjson.loads(file.read_bytes())
    return read


def roles_of(app: Flask, secrets: dict[str, str]) -> dict[str, tuple[str, ...]]:
    with app.app_context():
        principals = {name: tokens.verify(token) for name, token in secrets.items()}
    assert all(who.email == f"{name}@sightline.example" for name, who in principals.items())
    return {name: who.roles for name, who in principals.items()}


def count_rules(app: Flask, model: type[RuleRow] | type[RuleVersionRow]) -> dict[str | None, int]:
    """The number of rules of each tenant and of the platform."""
    with app.app_context():
        with db.scoped(DirectoryScope()):
            slugs: dict[UUID | None, str] = {
                service.get_tenant(slug).id: slug for slug in drafts.CUSTOMERS
            }
        with db.scoped(GlobalScope(access_id=uuid7())):
            rows = db.session.execute(
                select(model.tenant_id, func.count()).group_by(model.tenant_id)
            )
            return {slugs.get(tenant_id): count for tenant_id, count in rows}


def test_seed_fills_an_empty_database(place: Place) -> None:
    said = seed(place, "--port", "8123")
    assert "Seeded" in said
    assert str(place.home / "demo.json") in said
    credentials = kept(place)
    assert credentials["base_url"] == "http://127.0.0.1:8123"
    assert credentials["passwords"] == {}
    assert roles_of(place.app, credentials["tokens"]) == ROLES
    assert not any(token in said for token in credentials["tokens"].values())
    assert count_rules(place.app, RuleRow) == SEEDED
    assert count_rules(place.app, RuleVersionRow) == SEEDED


def test_second_seed_changes_only_the_address(place: Place) -> None:
    seed(place, "--port", "8123")
    first = kept(place)
    assert "nothing to seed" in seed(place, "--port", "8124")
    assert kept(place) == first | {"base_url": "http://127.0.0.1:8124"}
    assert count_rules(place.app, RuleVersionRow) == SEEDED
    assert not place.app.extensions[
        "identity.last_use"
    ]._due  # reading the tokens from the file does not use them


@pytest.mark.parametrize("damage", ["missing", "garbage", "null", "of another kind", "one short"])
def test_seed_replaces_an_unusable_file(place: Place, damage: str) -> None:
    seed(place)
    file, first = place.home / "demo.json", kept(place)
    del first["tokens"]["owner"]
    contents = {
        "garbage": b"\x00{",
        "null": b"null",
        "of another kind": b'{"base_url": [], "tokens": [], "passwords": 1}',
        "one short": orjson.dumps(first),
    }
    file.unlink() if damage == "missing" else file.write_bytes(contents[damage])
    seed(place)
    assert roles_of(place.app, kept(place)["tokens"]) == ROLES


def test_seed_replaces_tokens_that_have_ended(place: Place) -> None:
    seed(place)
    first = kept(place)
    with place.app.app_context():
        ended = tokens.verify(first["tokens"]["auditor"]).token_id
        assert ended is not None
        with db.scoped(DirectoryScope()):
            service.revoke_token(ended)
            db.session.commit()
    seed(place)
    second = kept(place)
    assert second["tokens"]["auditor"] != first["tokens"]["auditor"]
    assert roles_of(place.app, second["tokens"]) == ROLES


def test_seed_replaces_a_file_that_others_may_read(place: Place) -> None:
    seed(place)
    (place.home / "demo.json").chmod(0o644)
    seed(place)
    kept(place)


@pytest.mark.parametrize("at", ["first rules", "later rules", "accounts", "tokens"])
def test_seed_completes_an_interrupted_seed(
    place: Place, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    with monkeypatch.context() as cut:
        match at:
            case "first rules":
                cut.setattr("webapp.demo.cli.add_rules", _ends_at_call(1, add_rules))
            case "later rules":
                cut.setattr("webapp.demo.cli.add_rules", _ends_at_call(3, add_rules))
            case "accounts":
                ends = _ends_at_call(2, service.set_membership)
                cut.setattr(service, "set_membership", ends)
            case "tokens":
                cut.setattr(service, "create_token", _ends_at_call(4, service.create_token))
        assert place.run("seed").exit_code == 1
        assert not (place.home / "demo.json").exists()
    seed(place)
    assert roles_of(place.app, kept(place)["tokens"]) == ROLES
    assert count_rules(place.app, RuleVersionRow) == SEEDED


def _ends_at_call(last: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = count(1)

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == last:
            raise SystemError
        return function(*args, **kwargs)

    return call


def test_seed_changes_no_database_with_other_tenants(place: Place) -> None:
    with place.app.app_context(), db.scoped(DirectoryScope()):
        service.create_tenant("hooli", "Hooli")
        db.session.commit()
    assert "nothing to seed" in seed(place)
    assert not place.home.exists()
    with place.app.app_context(), db.scoped(DirectoryScope()):
        assert lookup.find_tenant_id("acme") is None
        assert not accounts.is_seeded()


def test_seeded_rules_differ_as_real_ones_do() -> None:
    made = [draft for slug in drafts.CUSTOMERS for draft in drafts.tenant_rules(slug)]
    made += drafts.PLATFORM_RULES
    assert {draft["effect"] for draft in made} == {"allow", "deny", "require_approval"}
    assert {draft.get("enabled", True) for draft in made} == {True, False}
    assert len({draft.get("ticket") for draft in made}) > 2
    assert len({str(draft.get("windows")) for draft in made}) > 4
    assert len({str(draft.get("networks")) for draft in made}) > 4
    assert len({str(draft.get("reasons")) for draft in made}) > 4


def test_demo_command_exists_in_development_only(app: Flask) -> None:
    deployed = create_app(replace(app.extensions["settings"], env="qa"))
    assert "demo" in app.cli.commands
    assert "demo" not in deployed.cli.commands
