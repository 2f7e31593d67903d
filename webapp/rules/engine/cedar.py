"""Rule sets in Cedar (https://docs.cedarpolicy.com), prepared once and evaluated many times.

The schema says what policies may read. A set holds each template once, and a link for each policy
of a rule. Each request adds the principal, the surface and the local times.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from itertools import chain
from typing import Any, Final

import cedarpy
import orjson

from webapp.http.addresses import address
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import (
    DAYS,
    Json,
    Part,
    Policy,
    Unreadable,
    dumps,
    microseconds,
    policies_of,
    zone_of,
)
from webapp.rules.rule import Rule, surfaces_covering

SCHEMA_TEXT: Final = """\
entity Subjects;
entity Everyone in [Subjects];
entity Role in [Subjects];
entity User in [Subjects];
entity Principal in [Everyone, Role, User];
entity Surfaces;
entity Pattern in [Surfaces];
entity Surface in [Pattern];
entity Clock = { "day": String, "before": String, "minute": Long };

action "access" appliesTo {
  principal: Principal,
  resource: Surface,
  context: {
    "reason": String,
    "ticket"?: String,
    "ip"?: ipaddr,
    "mfa": Bool,
    "at": Long,
    "approved": Bool,
    "granted": Bool,
  }
};
"""
RELEASE_FROM = 100_000
"""The length of a set from which other threads run while Cedar parses it."""

SCHEMA: Final = cedarpy.Schema.from_str(SCHEMA_TEXT)


@dataclass(frozen=True)
class CedarResponse:
    """Cedar's answer to one request."""

    allowed: bool
    policies: tuple[tuple[int, Part], ...]
    """The policies that decided, each with its rule's place in the prepared set.

    If any policy forbids, these are all that forbid; otherwise all that permit.
    """
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A set of rules, ready for evaluation."""

    policies: cedarpy.PolicySet
    entities: cedarpy.Entities
    zones: tuple[str, ...]
    links: Sequence[tuple[int, Part]] = field(repr=False)


def check(rule: Rule) -> None:
    """Raise `Unreadable` unless the rule's policies are valid by the schema."""
    templates = {str(n): orjson.loads(p.template) for n, p in enumerate(policies_of(rule))}
    # Cedar writes templates without links as an empty text, which is always valid: link each.
    links = [_link(name, f"of {name}", "anybody", "anything") for name in templates]
    text = cedarpy.policies_from_json_str(_policy_set(templates, links))
    found = cedarpy.validate_policies(text, SCHEMA)
    if not found:
        raise Unreadable("; ".join(error.error for error in found.errors))


def prepare(rules: Sequence[Sequence[Policy]]) -> Prepared:
    """Prepare a set of rules, each given as its policies.

    Raises `ValueError` if Cedar refuses one of them.
    """
    every = [(place, policy) for place, policies in enumerate(rules) for policy in policies]
    names = {text: _name(text) for text in {policy.template for _, policy in every}}
    links = [
        _link(names[policy.template], str(number), _name(policy.subjects), _name(policy.surfaces))
        for number, (_, policy) in enumerate(every)
    ]
    templates = {name: orjson.loads(text) for text, name in names.items()}
    policies = _policy_set(templates, links)
    entities = dumps(entities_of((policy for _, policy in every), name=_name))
    # Getting the interpreter's lock back takes longer than parsing a small set.
    release = len(policies) + len(entities) > RELEASE_FROM
    return Prepared(
        policies=cedarpy.PolicySet.from_json_str(policies, release_gil=release),
        entities=cedarpy.Entities.from_json_str(entities, SCHEMA, release_gil=release),
        zones=tuple(sorted(set(chain.from_iterable(map(_zones, templates.values()))))),
        links=[(place, policy.part) for place, policy in every],
    )


def ask(
    prepared: Prepared,
    request: AuthorizationRequest,
    at: datetime,
    *,
    approved: bool,
    granted: bool,
) -> CedarResponse:
    """Ask Cedar about one access.

    `approved` lets the access pass rules that require an approval. `granted` says that a grant
    gives this approval. A request that Cedar cannot read is answered with an error.
    """
    try:
        return _ask(prepared, request, at, approved=approved, granted=granted)
    except (ValueError, TypeError, OverflowError) as error:
        return CedarResponse(allowed=False, policies=(), errors=(str(error),))


def _ask(
    prepared: Prepared,
    request: AuthorizationRequest,
    at: datetime,
    *,
    approved: bool,
    granted: bool,
) -> CedarResponse:
    entities = prepared.entities.with_added_json_str(
        dumps(_request_entities(request, at, prepared.zones))
    )
    question = {
        "principal": {"type": "Principal", "id": request.email},
        "action": {"type": "Action", "id": "access"},
        "resource": {"type": "Surface", "id": request.surface},
        "context": _context(request, at, approved=approved, granted=granted),
    }
    result = cedarpy.is_authorized(question, prepared.policies, entities, SCHEMA)
    return CedarResponse(
        allowed=result.allowed,
        policies=tuple(prepared.links[int(name)] for name in result.diagnostics.reasons),
        errors=tuple(result.diagnostics.errors),
    )


def entities_of(policies: Iterable[Policy], name: Callable[[str], str] = str) -> list[Json]:
    """The entities that the policies refer to: subjects, surfaces and their members.

    Each member repeats the name of its group. So a short `name` keeps large groups small.
    """
    every = list(policies)
    parents: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for subjects in {policy.subjects for policy in every}:
        group = ("Subjects", name(subjects))
        parents.setdefault(group, set())
        for member in _members(subjects):
            parents.setdefault(member, set()).add(group)
    for surfaces in {policy.surfaces for policy in every}:
        group = ("Surfaces", name(surfaces))
        parents.setdefault(group, set())
        for pattern in orjson.loads(surfaces):
            parents.setdefault(("Pattern", pattern), set()).add(group)
    return [_entity(kind, name, above) for (kind, name), above in sorted(parents.items())]


def clock(zone: str, at: datetime) -> Json:
    """The local time in a zone, as a `Clock` entity has it."""
    local = at.astimezone(zone_of(zone))
    return {
        "day": DAYS[local.weekday()],
        "before": DAYS[(local - timedelta(days=1)).weekday()],
        "minute": local.hour * 60 + local.minute,
    }


def _request_entities(
    request: AuthorizationRequest, at: datetime, zones: Iterable[str]
) -> list[Json]:
    """The entities of one request: the principal, the surface and the clocks."""
    groups = [
        ("Everyone", "everyone"),
        ("User", request.email.lower()),
        *(("Role", role) for role in request.roles),
    ]
    patterns = [("Pattern", pattern) for pattern in surfaces_covering(request.surface)]
    return [
        _entity("Principal", request.email, groups),
        _entity("Surface", request.surface, patterns),
        *({**_entity("Clock", zone, ()), "attrs": clock(zone, at)} for zone in zones),
    ]


def _context(request: AuthorizationRequest, at: datetime, *, approved: bool, granted: bool) -> Json:
    context: Json = {
        "reason": request.reason,
        "mfa": request.mfa,
        "at": microseconds(at),
        "approved": approved,
        "granted": granted,
    }
    if request.ticket is not None:
        context["ticket"] = request.ticket
    if (ip := address(request.ip)) is not None:
        context["ip"] = {"__extn": {"fn": "ip", "arg": str(ip)}}
    return context


def _entity(kind: str, name: str, parents: Iterable[tuple[str, str]]) -> Json:
    return {
        "uid": {"type": kind, "id": name},
        "attrs": {},
        "parents": [{"type": kind, "id": name} for kind, name in sorted(parents)],
    }


def _members(subjects: str) -> Iterator[tuple[str, str]]:
    roles, users = orjson.loads(subjects)
    if not roles and not users:
        yield "Everyone", "everyone"
    yield from (("Role", role) for role in roles)
    yield from (("User", user) for user in users)


def _zones(template: Any) -> Iterator[str]:
    """The time zones that a template names."""
    if isinstance(template, dict):
        if template.get("type") == "Clock":
            yield template["id"]
        for inner in template.values():
            yield from _zones(inner)
    elif isinstance(template, list):
        for inner in template:
            yield from _zones(inner)


def _link(template: str, name: str, subjects: str, surfaces: str) -> Json:
    slots = {
        "?principal": {"type": "Subjects", "id": subjects},
        "?resource": {"type": "Surfaces", "id": surfaces},
    }
    return {"templateId": template, "newId": name, "values": slots}


def _policy_set(templates: Json, links: list[Json]) -> str:
    return dumps({"templates": templates, "staticPolicies": {}, "templateLinks": links})


def _name(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
