"""One tenant, person or address that asks for more than its share, over HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson
import requests

from bench import filling
from reliability.faults.installation import WEB_CONCURRENCY
from reliability.hostile.attack import Attack, Scene, addresses
from reliability.hostile.remote import Barrage, Shot
from tests.audit.events import make_event
from tests.factories import INCIDENT
from webapp.audit.append import append_own
from webapp.db.scopes import GlobalScope
from webapp.extensions import db
from webapp.http.rate_limits import BURST
from webapp.rules.quotas import MAX_CONDITIONS, MAX_RULES
from webapp.rules.schemas import MAX_ENTRIES
from webapp.settings import Settings

RULES, AUDITS, SIMULATE = "/admin/api/rules", "/admin/api/audits", "/admin/api/rules/simulate"
PROCESSES = int(WEB_CONCURRENCY)
CLIENTS = 12
TIMEOUT = 60
EVENTS = 200_000
"""Events that the ledger has when lists are read."""

FEW = 100
"""Requests after which a limit must have been noticed."""

TOKENS = 4_000
SLACK = 1.5
"""A window of a limit may begin a little earlier than the clients measure."""


def _send(scene: Scene, method: str, path: str, body: Any = None, **headers: str) -> Any:
    return requests.request(
        method,
        scene.installation.url + path,
        json=body,
        headers={**scene.attackers.admin.headers(), **headers},
        timeout=TIMEOUT,
    )


def _draft(number: int) -> dict[str, Any]:
    """A rule that concerns every list of rules, and nobody in particular: five conditions."""
    return {
        "name": f"rule {number}",
        "effect": "deny",
        "surfaces": ["admin.rules.*", f"admin.unused.s{number}"],
        "subjects": {"users": [f"nobody-{number}@example.org"]},
        "networks": [f"10.{number % 256}.0.0/16", f"fd00:{number:x}::/32"],
    }


def _fill_quota(scene: Scene) -> None:
    for number in range(MAX_RULES):
        _send(scene, "POST", RULES, _draft(number)).raise_for_status()


def _change_rules(scene: Scene) -> None:
    """Change one rule after another, each of which concerns what others access; ask for more."""
    page = _send(scene, "GET", f"{RULES}?limit=200").json()
    scene.expect(len(page["items"]) == MAX_RULES, f"{len(page['items'])} rules")
    assert _conditions(page["items"]) == MAX_CONDITIONS
    tags = {
        rule["id"]: f'"{rule["id"].replace("-", "")}.{rule["version"]}"' for rule in page["items"]
    }
    for number, _ in enumerate(scene.meanwhile()):
        chosen = scene.rng.choice(sorted(tags))
        change = {"enabled": number % 2 == 0, "description": f"change {number}"}
        answer = _send(scene, "PATCH", f"{RULES}/{chosen}", change, **{"If-Match": tags[chosen]})
        scene.did[f"changes {answer.status_code}"] += 1
        if answer.status_code == 200:
            tags[chosen] = answer.headers["ETag"]
        else:
            scene.breach(f"a change within the quota is {answer.status_code} {answer.text[:200]}")
        if number % 10 == 0:
            _ask_for_more(scene, number, chosen, tags[chosen])


def _conditions(rules: Sequence[Mapping[str, Any]]) -> int:
    lists = ("surfaces", "reasons", "windows", "networks")
    return sum(
        sum(len(rule[name]) for name in lists) + sum(map(len, rule["subjects"].values()))
        for rule in rules
    )


def _ask_for_more(scene: Scene, number: int, chosen: str, tag: str) -> None:
    """One rule, one condition and one entry above the quotas."""
    attempts = (
        ("POST", RULES, _draft(MAX_RULES + number), 409),
        ("PATCH", f"{RULES}/{chosen}", {"reasons": ["incident"]}, 409),
        ("POST", RULES, _draft(number) | {"surfaces": ["a.b"] * (MAX_ENTRIES + 1)}, 422),
    )
    for method, path, body, status in attempts:
        answer = _send(
            scene, method, path, body, **({"If-Match": tag} if method == "PATCH" else {})
        )
        scene.did[f"attempts above the quota {answer.status_code}"] += 1
        scene.expect(
            answer.status_code == status, f"{method} is {answer.status_code}, not {status}"
        )


def _json(value: Any) -> bytes:
    return orjson.dumps(value)


def _send_large_bodies(scene: Scene) -> None:
    admin = scene.attackers.admin.headers() | {"Content-Type": "application/json"}
    refused = frozenset({400, 413, 422, 429})
    rule = _draft(0)
    bodies = (
        b"[" * 500_000,
        b'{"a":' * 150_000 + b"1" + b"}" * 150_000,
        _json(rule | {"networks": [f"no network {n}" for n in range(50_000)]}),
        _json(rule | {"surfaces": ["admin.rules.list"] * 50_000}),
        _json(rule | {"windows": [{"days": ["mon"] * 9_000}] * 9}),
        _json(rule | {"subjects": {"users": ["x@example.org"] * 50_000, "roles": ["support"] * 9}}),
        b'{"max_minutes": ' + b"9" * 900_000 + b"}",
        b'{"name": "' + b"\\u0000" * 100_000 + b'"}',
        b"\x00" * 2**20,
        b"x" * (2**20 + 1),
    )
    shots = [
        Shot(path, admin, "POST", body, refused)
        for body in bodies
        for path in (RULES, SIMULATE, "/admin/api/grants", "/admin/api/elevations")
    ]
    # A body beyond the limit may be refused while it is still being sent; some are for others.
    shots = [Shot(s.path, s.headers, s.method, s.body, s.statuses | {0, 403}) for s in shots]
    scene.fire(Barrage(scene.installation.url, shots, addresses(3), CLIENTS, scene.seconds))


def _simulate(scene: Scene) -> None:
    """Ask what a rule would have decided about all of the past, again and again."""
    question = {"days": 90, "rule": _draft(0) | {"networks": [f"10.{n}.0.0/16" for n in range(20)]}}
    body = _json(question)
    answered = frozenset({200, 202, 409, 429, 503})
    everywhere = scene.attackers.engineer.headers("global", INCIDENT)
    shots = [
        Shot(SIMULATE, headers | {"Content-Type": "application/json"}, "POST", body, answered)
        for headers in (scene.attackers.admin.headers(), everywhere)
    ]
    scene.fire(Barrage(scene.installation.url, shots, addresses(2), 4, scene.seconds))


def _forge_queries(scene: Scene) -> None:
    """Cursors of others, changed and invented ones, and queries as long as they may be."""
    victim = scene.victims.admins[scene.victims.slugs[0]]
    url = f"{scene.installation.url}{RULES}?limit=1"
    cursor = requests.get(url, headers=victim.headers(), timeout=TIMEOUT).json()["next_cursor"]
    flipped = cursor[:-3] + ("A" if cursor[-3] != "A" else "B") + cursor[-2:]
    forged = (cursor, flipped, cursor[::-1], "A" * 4_000, uuid4().hex, "%00", "%F0%9F%92%A9")
    admin, refused = scene.attackers.admin.headers(), frozenset({400, 414, 422, 429, 431})
    paths = [
        *(f"{path}?limit=1&cursor={value}" for value in forged for path in (RULES, AUDITS)),
        *(f"{RULES}?q={'x' * size}" for size in (3_000, 30_000, 300_000)),
        RULES + "?" + "&".join(f"p{n}=1" for n in range(400)),
        AUDITS + "?from=99999-01-01T00:00:00Z",
        RULES + "?limit=" + "9" * 3_000,
        RULES + "?" + "effect=deny&" * 300,
    ]
    # A request line that is too long ends the connection, perhaps before the answer is read.
    shots = [Shot(path, admin, statuses=refused | {0}) for path in paths]
    scene.fire(Barrage(scene.installation.url, shots, addresses(2), CLIENTS, scene.seconds))


def _fill_ledger(scene: Scene) -> None:
    with scene.installation.app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        append_own(db.session, [make_event()])
        db.session.commit()
    owner = scene.installation.environment["DATABASE_OWNER_URL"]
    filling.add_events(owner, scene.attackers.tenant.id, 0, EVENTS)


def _read_lists(scene: Scene) -> None:
    """Use every filter, in both orders, in a tenant and in all of them."""
    filters = (
        *("actor=user-7@example.org", "actor=rare@example.org", "surface=admin.*"),
        *("surface=rarely.*", "ticket=T-rare", "effect=denied", "outcome=interrupted"),
        *("reason=legal", "kind=change", "tenant=bench-7", "request_id=rare", "limit=200"),
        "actor=user-7@example.org&surface=rarely.*&ticket=T-9&reason=legal&effect=denied",
        "from=2000-01-01T00:00:00Z&to=2100-01-01T00:00:00Z",
    )
    scopes = (
        scene.attackers.auditor.headers("global", INCIDENT),
        scene.attackers.admin.headers(),
    )
    shots = [
        Shot(f"{AUDITS}?sort={sort}&{query}", headers)
        for query in filters
        for sort in ("-occurred_at", "occurred_at")
        for headers in scopes
    ]
    scene.fire(Barrage(scene.installation.url, shots, addresses(4), CLIENTS, scene.seconds))


def _settings(scene: Scene) -> Settings:
    settings: Settings = scene.installation.app.extensions["settings"]
    return settings


def _most(rate: float, seconds: float) -> float:
    """How many requests all processes together let through in so many seconds."""
    return SLACK * PROCESSES * rate * (BURST + seconds)


def _guess_tokens(scene: Scene) -> None:
    shots = [
        Shot(
            RULES,
            {"Authorization": f"Bearer slt_{scene.rng.getrandbits(256):064x}"},
            statuses=frozenset({401, 429}),
        )
        for _ in range(TOKENS)
    ]
    barrage = Barrage(scene.installation.url, shots, addresses(1), CLIENTS, scene.seconds)
    impact = scene.fire(barrage)
    guessed, most = (
        impact.statuses[401],
        _most(_settings(scene).rate_limit_failures, impact.seconds),
    )
    scene.expect(guessed < most + FEW, f"{guessed} tokens were looked up, not {most:.0f}")


def _ask_as(scene: Scene, people: Sequence[Mapping[str, str]], sources: int, rate: float) -> None:
    shots = [Shot(RULES, headers) for headers in people]
    barrage = Barrage(scene.installation.url, shots, addresses(sources), CLIENTS, scene.seconds)
    impact = scene.fire(barrage)
    served, most = impact.statuses[200], _most(rate, impact.seconds)
    scene.expect(served < most + FEW, f"{served} requests were answered, not {most:.0f}")


def _one_person(scene: Scene) -> None:
    rate = _settings(scene).rate_limit_principal
    _ask_as(scene, [scene.attackers.members[0].headers()], 4, rate)


def _one_tenant(scene: Scene) -> None:
    people = [member.headers() for member in scene.attackers.members]
    _ask_as(scene, people, 6, _settings(scene).rate_limit_tenant)


def _public_routes(scene: Scene) -> None:
    """What needs no token: probes, metrics, documents, pages that are not there."""
    paths = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/nowhere", RULES)
    statuses = frozenset({200, 401, 404, 429, 503})  # /readyz within a second
    shots = [Shot(path, statuses=statuses, limited=False) for path in paths]
    scene.fire(Barrage(scene.installation.url, shots, addresses(1), CLIENTS, scene.seconds))


ATTACKS = (
    Attack("rules: at the quota, changed all the time", _change_rules, prepare=_fill_quota),
    Attack("bodies: deep, long and large", _send_large_bodies),
    Attack("simulations of 90 days", _simulate),
    Attack("queries: forged cursors, long ones", _forge_queries),
    Attack("lists: every filter, many rows", _read_lists, prepare=_fill_ledger),
    Attack("flood: unknown tokens", _guess_tokens),
    Attack("flood: one person", _one_person),
    Attack("flood: one tenant's people", _one_tenant),
    Attack("flood: public routes", _public_routes),
)
