"""The product that is measured, run as the Procfile says, and what it counts itself."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import orjson
import requests
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select

from bench.machine import Cores
from bench.servers import Place, run_product
from tests.applications import application
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.processes import Web, run_worker
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import GlobalScope
from webapp.extensions import db
from webapp.rules.service import list_rules
from webapp.stack.home import open_stack, running

RULES = 50
TENANT = "acme"
SURFACE = "admin.rules.list"
CACHES = "sightline_cache_requests"
OPERATIONS_TOKEN = secrets.token_urlsafe(48)
NOT_COMPUTED = {"hit", "hit_local", "stale"}


@dataclass(frozen=True)
class Product:
    app: Flask
    web: Web
    tenant: MadeTenant
    accounts: Mapping[str, Account]
    rule_url: str
    """The URL of one of the rules."""

    @property
    def url(self) -> str:
        return self.web.url

    @property
    def rules_url(self) -> str:
        return _rules_url(self.web)

    def session(self, account: str) -> requests.Session:
        return _session(self.accounts[account])

    def change_a_rule(self, session: requests.Session, number: int) -> None:
        read = session.get(self.rule_url)
        read.raise_for_status()
        session.patch(
            self.rule_url,
            headers={"If-Match": read.headers["ETag"]},
            json={"description": f"changed {number}"},
        ).raise_for_status()

    def loads(self) -> int:
        """How often the list was computed, by the product's own metrics."""
        shown = {"Authorization": f"Bearer {OPERATIONS_TOKEN}"}
        metrics = requests.get(f"{self.url}/metrics", headers=shown, timeout=30).text
        samples = (
            sample
            for family in text_string_to_metric_families(metrics)
            if family.name == CACHES
            for sample in family.samples
        )
        return sum(
            int(sample.value)
            for sample in samples
            if sample.name == f"{CACHES}_total"
            and sample.labels["function"] == list_rules.name
            and sample.labels["outcome"] not in NOT_COMPUTED
        )

    def elevated_answers(self) -> int:
        """How many elevated accesses to the list were answered, by the product's own log."""
        wanted = {"event": "request", "surface": SURFACE, "scope": "global", "status": 200}
        with self.web.log.open("rb") as lines:
            logged = (orjson.loads(line) for line in lines if b'"global"' in line)
            return sum(wanted.items() <= line.items() for line in logged)

    def committed_accesses(self) -> int:
        """How many accesses to the list are in the ledger by now."""
        accesses = select(func.count()).where(AuditEventRow.surface == SURFACE)
        with self.app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
            return db.session.scalars(accesses).one()


@contextmanager
def run(home: Path, cores: Cores) -> Iterator[tuple[Product, Place]]:
    """The whole product on servers of its own, and the place for its peers beside it."""
    stack = open_stack(home, durable=True)
    metrics = home / "metrics"
    metrics.mkdir()
    environment = {
        **stack.environment,
        "SIGHTLINE_ENV": "qa",
        "SIGHTLINE_HOME": str(home),
        "WEB_CONCURRENCY": "1",
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "OPERATIONS_TOKEN": OPERATIONS_TOKEN,
    }
    place = Place(cores, environment, home)
    with running(stack), application(environment) as app:
        tenant = add_tenant(app, TENANT)
        accounts = {
            "acme-admin": add_account(app, member_of={TENANT: "admin"}),
            "engineer": add_account(app, "engineer"),
        }
        with run_worker(environment, home / "worker.log"), run_product(place) as web:
            rule_url = _add_rules(web, accounts["acme-admin"])
            yield Product(app, web, tenant, accounts, rule_url), place


def _add_rules(web: Web, admin: Account) -> str:
    with _session(admin) as session:
        for number in range(RULES):
            added = session.post(_rules_url(web), json=draft_rule(number))
            added.raise_for_status()
    return web.url + added.headers["Location"]


def draft_rule(number: int) -> dict[str, object]:
    """A short rule: a long one would slow the peers that load it field by field."""
    return {
        "name": f"rule {number:02}",
        "description": "not at night",
        "effect": "deny",
        "surfaces": ["billing.invoices.*"],
        "reasons": ["incident"],
    }


def _rules_url(web: Web) -> str:
    return f"{web.url}/admin/api/rules"


def _session(account: Account) -> requests.Session:
    session = requests.Session()
    session.headers.update(account.headers())
    return session
