"""`flask ledger keys`: the registry of public keys, and what is recorded of its changes."""

import json
import secrets
from unittest import mock

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import select

from tests.audit.ledgers import ledger_session
from tests.audit.receipts import second_connection
from webapp.audit.models import AuditEventRow
from webapp.audit.signing_keys import read_keys
from webapp.settings import Settings
from webapp.signing_key import SigningKey, signing_key


class Host:
    """A host with a key of its own, whose operator runs commands."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.seed = secrets.token_urlsafe(32)
        self.key: SigningKey = signing_key(self.seed)

    def run(self, *arguments: str, seed: str | None = "own") -> Result:
        settings: Settings = self.app.extensions["settings"]
        own = {"journal_signing_key": self.seed if seed == "own" else seed}
        changed = type(settings)(**{**vars(settings), **own})
        with mock.patch.dict(self.app.extensions, settings=changed):
            return self.app.test_cli_runner().invoke(args=["ledger", "keys", *arguments])

    def recorded(self) -> list[str]:
        """What the ledger says of the key."""
        path = AuditEventRow.event["request"]["path"].as_string()
        of_key = select(path).where(path.contains(self.key.fingerprint))
        with second_connection(self.app) as session:
            return list(session.scalars(of_key.order_by(AuditEventRow.origin_seq)))


@pytest.fixture
def host(app: Flask) -> Host:
    return Host(app)


def test_key_is_registered_retired_and_restored_each_on_record(host: Host) -> None:
    name = host.key.fingerprint
    said = [
        host.run("register", "web", "--label", "web 7"),
        host.run("register", "web", "--label", "web 7"),
        host.run("retire", name),
        host.run("retire", name),
        host.run("register", "web"),
    ]
    assert [result.output.strip() for result in said] == [
        f"Registered {name} for web.",
        f"{name} is registered for web already.",
        f"Retired {name}.",
        f"{name} is retired already.",
        f"{name} was retired, and is registered for web again.",
    ]
    assert host.recorded() == [
        f"flask ledger keys {act} web {name} web 7" for act in ("register", "retire", "register")
    ]
    with ledger_session(host.app) as session:
        (found,) = read_keys(session, [name]).values()
    assert (found.public, found.process, found.retired) == (host.key.public, "web", False)


def test_keys_are_listed_without_anything_secret(host: Host) -> None:
    host.run("register", "worker", "--label", "worker 3")
    host.run("retire", host.key.fingerprint)
    listed = host.run("list", "--json")
    (found,) = (
        k for k in json.loads(listed.output)["items"] if k["fingerprint"] == host.key.fingerprint
    )
    assert found.pop("registered_at") < found.pop("retired_at")
    assert found == {
        "fingerprint": host.key.fingerprint,
        "process": "worker",
        "label": "worker 3",
        "public_key": host.key.public.hex(),
    }
    assert host.seed not in listed.output
    assert host.key.fingerprint in host.run("list").output


def test_key_of_one_kind_of_process_is_not_registered_for_another(host: Host) -> None:
    host.run("register", "worker")
    refused = host.run("register", "web")
    assert refused.exit_code == 1
    assert f"Key {host.key.fingerprint} is registered for worker already." in refused.output


@pytest.mark.parametrize("label", ["", " ", "two\nlines", "x" * 256, "\u202e"])
def test_label_that_is_no_line_of_text_is_refused(host: Host, label: str) -> None:
    refused = host.run("register", "web", "--label", label)
    assert refused.exit_code == 1
    assert "The label must be one line of printable text" in refused.output
    assert host.recorded() == []


def test_command_without_a_key_says_which_setting_is_missing(host: Host) -> None:
    refused = host.run("register", "web", seed=None)
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: JOURNAL_SIGNING_KEY is not set")


def test_key_that_nobody_has_registered_is_not_retired(host: Host) -> None:
    refused = host.run("retire", host.key.fingerprint)
    assert (refused.exit_code, host.recorded()) == (1, [])
    assert f"There is no key {host.key.fingerprint}." in refused.output
