"""A tenant denies accesses and allows them again: each change counts from the next access on."""

from dataclasses import replace

import orjson
import requests

from reliability.stress.client import Call, Client
from reliability.stress.people import Caller, Effect
from webapp.audit.recorder import EXCLUDED_HEADER

REASON = "legal"
"""A reason that no other request gives."""

NARROWINGS: tuple[tuple[str, Effect], ...] = (
    ("deny", "denied"),
    ("require_approval", "approval_required"),
)
"""The effect of a rule, and of an access to its tenant alone while the rule is there."""


def deny_and_allow(client: Client) -> None:
    """Deny accesses to the client's own tenant, expect its exclusion, and allow them again."""
    private_tenant = client.people.private_tenant(client.name)
    admin = Caller(private_tenant.admin, None, None, private_tenant.slug, None)
    access = replace(client.people.in_all_tenants(client.rng, "engineer", "support"), reason=REASON)
    rule, effect_alone = client.rng.choice(NARROWINGS)
    written = client.send(
        Call(
            admin,
            "admin.rules.create",
            "POST",
            body={
                "name": client.new_name(private_tenant.slug),
                "effect": rule,
                "surfaces": [client.rng.choice(("admin.rules.list", "admin.*", "*"))],
                "reasons": [REASON],
            },
            statuses=(201,),
            effect="allowed",
        )
    )
    if written is None:
        return
    path, tag = written.headers["Location"], written.headers["ETag"]
    _expect(client, access, private_tenant.slug, excluded=True)
    alone = replace(access, scope=f"tenant:{private_tenant.slug}")
    client.send(Call(alone, statuses=(403,), effect=effect_alone))
    lifted = client.send(_change(admin, path, tag))
    if lifted is not None:
        _expect(client, access, private_tenant.slug, excluded=False)
        client.send(
            Call(
                admin,
                "admin.rules.delete",
                "DELETE",
                path,
                headers={"If-Match": lifted.headers["ETag"]},
                statuses=(204,),
                effect="allowed",
            )
        )


def _change(admin: Caller, path: str, tag: str) -> Call:
    return Call(
        admin,
        "admin.rules.update",
        "PATCH",
        path,
        headers={"If-Match": tag},
        body={"effect": "allow"},
        effect="allowed",
    )


def _expect(client: Client, access: Caller, slug: str, *, excluded: bool) -> None:
    """Expect that an access to all tenants leaves this one out, or shows its rules."""
    response = client.send(Call(access, query={"tenant": slug}, effect="allowed"))
    if response is None:
        return
    shown = orjson.loads(response.content)["total"]
    if (shown == 0) != excluded:
        fault = "leaves out" if not excluded else "shows"
        client.fault("stale", f"an access {fault} {slug}, whose mind has changed")
    if excluded and _left_out(response) < 1:
        client.fault("wrong answers", f"an access without {slug} says that it left out nobody")


def _left_out(response: requests.Response) -> int:
    return int(response.headers.get(EXCLUDED_HEADER, 0))
