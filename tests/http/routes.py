"""Every route of the product, and how it is used. A route that is not here fails the probe."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import Account, MadeTenant
from tests.grants.calls import want
from tests.rules.calls import draft
from webapp.identity.principal import STAFF_ROLES, TENANT_ROLES, PlatformRole, TenantRole

RULES, RULE = "/admin/api/rules", "/admin/api/rules/<uuid:rule_id>"
GRANTS, GRANT = "/admin/api/grants", "/admin/api/grants/<uuid:grant_id>"
AUDITS, AUDIT = "/admin/api/audits", "/admin/api/audits/<uuid:event_id>"

PUBLIC = {
    "/healthz": "/healthz",
    "/readyz": "/readyz",
    "/metrics": "/metrics",
    "/openapi.json": "/openapi.json",
    "/docs/": "/docs/",
    "/docs/<name>": "/docs/swagger-ui.css",
}
"""The routes that anybody may read, and a path of each."""


@dataclass(frozen=True)
class Place:
    """A tenant, the people in it, and an object of each kind that it has."""

    tenant: MadeTenant
    admin: Account
    member: Account
    ids: Mapping[str, UUID]
    """By the name that a path has for it."""

    @property
    def scope(self) -> str:
        return f"tenant:{self.tenant.slug}"

    def person(self, role: TenantRole) -> Account:
        return self.admin if role == "admin" else self.member


@dataclass(frozen=True)
class Use:
    """How a route is called so that it succeeds, and who may."""

    method: str
    rule: str
    surface: str
    tenant_roles: tuple[TenantRole, ...]
    platform_roles: tuple[PlatformRole, ...]
    success: int = 200
    body: Mapping[str, Any] | None = None
    names_version: bool = False
    """It wants an If-Match."""
    lists: str = ""
    """Which kind of objects it lists."""

    @property
    def id(self) -> str:
        return f"{self.method} {self.rule}"

    @property
    def names(self) -> str | None:
        """Which kind of object its path names."""
        return next((name for name in ("rule_id", "event_id") if name in self.rule), None)

    def path(self, ids: Mapping[str, UUID]) -> str:
        filled = self.rule
        for name, value in ids.items():
            filled = filled.replace(f"<uuid:{name}>", str(value))
        assert "<" not in filled
        return filled

    def call(
        self, client: FlaskClient, ids: Mapping[str, UUID], headers: Mapping[str, str]
    ) -> TestResponse:
        sent = dict(headers)
        if self.names_version:
            sent["If-Match"] = f'"{ids["rule_id"].hex}.1"'
        return client.open(self.path(ids), method=self.method, headers=sent, json=self.body)


def _reads(rule: str, surface: str, lists: str = "") -> Use:
    return Use("GET", rule, surface, TENANT_ROLES, STAFF_ROLES, lists=lists)


USES = (
    _reads(RULES, "admin.rules.list", lists="rule_id"),
    Use("POST", RULES, "admin.rules.create", ("admin",), ("owner",), 201, draft("probed")),
    _reads(RULE, "admin.rules.read"),
    Use(
        *("PATCH", RULE, "admin.rules.update", ("admin",), ("owner",)),
        body={"mfa": True},
        names_version=True,
    ),
    Use(
        *("DELETE", RULE, "admin.rules.delete", ("admin",), ("owner",), 204),
        names_version=True,
    ),
    _reads(f"{RULE}/history", "admin.rules.history"),
    Use(
        *("POST", f"{RULES}/simulate", "admin.rules.simulate"),
        *(("admin",), ("owner", "engineer", "auditor")),
        body={"rule": draft("tried"), "days": 1},
    ),
    Use("GET", AUDITS, "admin.audits.list", ("admin",), ("auditor", "owner"), lists="event_id"),
    Use("GET", AUDIT, "admin.audits.read", ("admin",), ("auditor", "owner")),
)

PERSONAL: tuple[Use, ...] = (
    Use("POST", "/admin/api/elevations", "admin.elevations.create", (), ("service",)),
    _reads(GRANTS, "admin.grants.list"),
    Use("POST", GRANTS, "admin.grants.ask", (), STAFF_ROLES, 201, want(None)),
    _reads(GRANT, "admin.grants.read"),
    *(
        Use("POST", f"{GRANT}/{action}", f"admin.grants.{action}", TENANT_ROLES, STAFF_ROLES)
        for action in ("approve", "deny", "revoke")
    ),
    Use("POST", f"{GRANT}/review", "admin.grants.review", ("admin",), STAFF_ROLES),
)
"""Those of no tenant's scope: each has tests of its own for what it shows to whom."""


def only(uses: Iterable[Use], attribute: str) -> dict[str, Use]:
    """Those uses by their ids that say something of `attribute`."""
    return {use.id: use for use in uses if getattr(use, attribute)}


ALL = {use.id: use for use in USES}
EVERY = ALL | {use.id: use for use in PERSONAL}
