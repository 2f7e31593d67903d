"""A tenant that says no, and takes it back: each counts from the very next access on."""

from dataclasses import replace

import orjson
import requests

from reliability.stress.client import Call, Client
from reliability.stress.people import Effect, Standpoint
from webapp.audit.recorder import EXCLUDED_HEADER

REASON = "legal"
"""One that nobody searches for but here."""

RULINGS: tuple[tuple[str, Effect], ...] = (
    ("deny", "denied"),
    ("require_approval", "approval_required"),
)
"""What a rule says, and what an access to its tenant alone then is."""


def change_ones_mind(client: Client) -> None:
    """In a tenant that no other client writes to."""
    host = client.people.host(client.name)
    admin = Standpoint(host.admin, None, None, host.slug, None)
    access = replace(client.people.everywhere(client.dice, "engineer", "support"), reason=REASON)
    rule, ruling = client.dice.choice(RULINGS)
    written = client.send(
        Call(
            admin,
            "admin.rules.create",
            "POST",
            body={
                "name": client.new_name(host.slug),
                "effect": rule,
                "surfaces": [client.dice.choice(("admin.rules.list", "admin.*", "*"))],
                "reasons": [REASON],
            },
            statuses=(201,),
            effect="allowed",
        )
    )
    if written is None:
        return
    path, tag = written.headers["Location"], written.headers["ETag"]
    _expect(client, access, host.slug, excluded=True)
    alone = replace(access, scope=f"tenant:{host.slug}")
    client.send(Call(alone, statuses=(403,), effect=ruling))
    lifted = client.send(_change(admin, path, tag))
    if lifted is not None:
        _expect(client, access, host.slug, excluded=False)
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


def _change(admin: Standpoint, path: str, tag: str) -> Call:
    return Call(
        admin,
        "admin.rules.update",
        "PATCH",
        path,
        headers={"If-Match": tag},
        body={"effect": "allow"},
        effect="allowed",
    )


def _expect(client: Client, access: Standpoint, slug: str, *, excluded: bool) -> None:
    """Of this tenant an access to all of them shows nothing, or what there is."""
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
