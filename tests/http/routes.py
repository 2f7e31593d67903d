"""Every route of the product, and how to use it. A route that is missing here fails the probe."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import Account, MadeTenant
from tests.grants.calls import request_body
from tests.rules.calls import draft
from webapp.identity.principal import STAFF_ROLES, TENANT_ROLES, PlatformRole, TenantRole

RULES, RULE = "/admin/api/rules", "/admin/api/rules/<uuid:rule_id>"
GRANTS, GRANT = "/admin/api/grants", "/admin/api/grants/<uuid:grant_id>"
TENANTS, TENANT = "/admin/api/tenants", "/admin/api/tenants/<uuid:tenant_id>"
MEMBERS, MEMBER = "/admin/api/members", "/admin/api/members/<uuid:member_id>"
TOKENS, TOKEN = "/admin/api/tokens", "/admin/api/tokens/<uuid:token_id>"
AUDITS, AUDIT = "/admin/api/audits", "/admin/api/audits/<uuid:event_id>"

NAMES = ("rule_id", "event_id", "tenant_id", "member_id", "token_id")

PUBLIC = {
    "/healthz": "/healthz",
    "/readyz": "/readyz",
    "/metrics": "/metrics",
    "/openapi.json": "/openapi.json",
    "/docs/": "/docs/",
    "/docs/<name>": "/docs/swagger-ui.css",
    "/log/policy": "/log/policy",
    "/log/keys": "/log/keys",
    "/log/checkpoint": "/log/checkpoint",
    "/log/tile/<level>/<path:index>": "/log/tile/0/000.p/1",
    "/log/tile/entries/<path:index>": "/log/tile/entries/000.p/1",
    "/log/<int(min=2):number>/checkpoint": "/log/2/checkpoint",
    "/log/<int(min=2):number>/tile/<level>/<path:index>": "/log/2/tile/0/000.p/1",
    "/log/<int(min=2):number>/tile/entries/<path:index>": "/log/2/tile/entries/000.p/1",
}
"""The public routes, and a path of each."""


@dataclass(frozen=True)
class Place:
    """A tenant, its people, and one object of each kind."""

    tenant: MadeTenant
    admin: Account
    member: Account
    ids: Mapping[str, UUID]
    """The ids of the objects, by their names in paths."""

    @property
    def scope(self) -> str:
        return f"tenant:{self.tenant.slug}"

    def person(self, role: TenantRole) -> Account:
        return self.admin if role == "admin" else self.member


@dataclass(frozen=True)
class Use:
    """How to call a route, and who may call it."""

    method: str
    rule: str
    surface: str
    tenant_roles: tuple[TenantRole, ...]
    platform_roles: tuple[PlatformRole, ...]
    success: int = 200
    """The status of its answer to those who may call it."""
    body: Mapping[str, Any] | None = None
    names_version: bool = False
    """Whether it needs an If-Match."""
    lists: str = ""
    """The kind of objects that it lists."""
    unsealed: int | None = None
    """The status of its answer while the event is not sealed yet; `None` where that is the same."""
    streams: bool = False
    """Whether its answer is made while it is sent, so that it has neither a tag nor a length."""
    only_in: Literal["tenant", "global"] | None = None
    """The only scope in which it can be used, if there is one."""

    @property
    def successes(self) -> set[int]:
        return {self.success, self.unsealed or self.success}

    def statuses_in(self, scope: str) -> set[int]:
        """The statuses of its answer in a scope to those who may call it."""
        return self.successes if self.only_in in (None, scope) else {422}

    @property
    def id(self) -> str:
        return f"{self.method} {self.rule}"

    @property
    def names(self) -> str | None:
        """The kind of object that its path names."""
        return next((name for name in NAMES if name in self.rule), None)

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
            versions = {"rule_id": f'"{ids["rule_id"].hex}.1"'}
            sent["If-Match"] = versions.get(self.names or "", "*")
        return client.open(
            self.path(ids), method=self.method, headers=sent, json=self.body, buffered=True
        )


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
    Use(  # a result is shown to the person who has asked for it, and nobody here has
        *("GET", f"{RULES}/simulations/<uuid:simulation_id>", "admin.rules.simulation"),
        *(("admin",), ("owner", "engineer", "auditor"), 404),
    ),
    Use("GET", AUDITS, "admin.audits.list", ("admin",), ("auditor", "owner"), lists="event_id"),
    Use(
        *("GET", f"{AUDITS}/export", "admin.audits.export", ("admin",), ("auditor", "owner")),
        streams=True,
    ),
    Use("GET", AUDIT, "admin.audits.read", ("admin",), ("auditor", "owner")),
    Use("GET", f"{GRANTS}/all", "admin.grants.all", ("admin",), STAFF_ROLES),
    Use(
        *("GET", f"{AUDIT}/proof", "admin.audits.proof", ("admin",), ("auditor", "owner")),
        unsealed=409,
    ),
    Use("GET", f"{AUDIT}/excluded", "admin.audits.excluded", ("admin",), ("auditor", "owner")),
    _reads(TENANTS, "admin.tenants.list", lists="tenant_id"),
    Use(
        *("POST", TENANTS, "admin.tenants.create", (), ("owner",), 201),
        body={"slug": "probed"},
        only_in="global",
    ),
    _reads(TENANT, "admin.tenants.read"),
    Use(
        *("PATCH", TENANT, "admin.tenants.update", (), ("owner",)),
        body={"name": "Probed"},
        names_version=True,
        only_in="tenant",
    ),
    Use(
        *("DELETE", TENANT, "admin.tenants.end", (), ("owner",), 204),
        names_version=True,
        only_in="tenant",
    ),
    Use(
        *("GET", MEMBERS, "admin.members.list", ("admin",), STAFF_ROLES),
        lists="member_id",
        only_in="tenant",
    ),
    Use(
        *("POST", MEMBERS, "admin.members.add", ("admin",), ("owner",), 201),
        body={"email": "probed@example.org"},
        only_in="tenant",
    ),
    Use("GET", MEMBER, "admin.members.read", ("admin",), STAFF_ROLES, only_in="tenant"),
    Use(
        *("PATCH", MEMBER, "admin.members.update", ("admin",), ("owner",)),
        body={"role": "admin"},
        names_version=True,
        only_in="tenant",
    ),
    Use(
        *("DELETE", MEMBER, "admin.members.remove", ("admin",), ("owner",), 204),
        names_version=True,
        only_in="tenant",
    ),
    Use("GET", TOKENS, "admin.tokens.list", ("admin",), ("auditor", "owner"), lists="token_id"),
    Use(  # whom it is for depends on the place: `directory` tests who gets one
        *("POST", TOKENS, "admin.tokens.create", ("admin",), ("owner",), 422),
        body={"user": "nobody@example.org", "name": "probed"},
    ),
    Use("GET", TOKEN, "admin.tokens.read", ("admin",), ("auditor", "owner")),
    Use(  # it is no service's
        *("POST", f"{TOKEN}/bind", "admin.tokens.bind", (), ("owner",), 422),
        body={"surfaces": ["billing.*"]},
    ),
    Use(
        *("POST", f"{TOKEN}/revoke", "admin.tokens.revoke", ("admin",), ("owner",)),
        only_in="tenant",
    ),
)

PERSONAL: tuple[Use, ...] = (
    Use("POST", "/admin/api/elevations", "admin.elevations.create", (), ("service",)),
    _reads(GRANTS, "admin.grants.list"),
    Use("POST", GRANTS, "admin.grants.ask", (), STAFF_ROLES, 201, request_body(None)),
    _reads(GRANT, "admin.grants.read"),
    *(
        Use("POST", f"{GRANT}/{action}", f"admin.grants.{action}", TENANT_ROLES, STAFF_ROLES)
        for action in ("approve", "deny", "revoke")
    ),
    Use("POST", f"{GRANT}/review", "admin.grants.review", ("admin",), STAFF_ROLES),
)
"""Uses of personal surfaces, whose rooms test what they show to whom."""


def only(uses: Iterable[Use], attribute: str) -> dict[str, Use]:
    """The uses that have a value for `attribute`, by their ids."""
    return {use.id: use for use in uses if getattr(use, attribute)}


ALL = {use.id: use for use in USES}
EVERY = ALL | {use.id: use for use in PERSONAL}
