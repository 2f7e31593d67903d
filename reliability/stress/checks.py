"""What every answer is held against."""

from collections.abc import Iterator, Mapping
from typing import TypeVar
from uuid import UUID

import marshmallow as ma
import orjson
import requests

from reliability.stress.known import Floor, Known
from reliability.stress.people import Standpoint
from webapp.rules.rule import Rule, RulePage
from webapp.rules.schemas import RulePageSchema, RuleSchema

PLATFORM = "stress-platform"
"""The word in a rule of the platform where a tenant's has its slug."""

_PAGE, _RULE = RulePageSchema(), RuleSchema()

T = TypeVar("T")


class WrongType(Exception):
    """The body is not what the schema makes of the frozen dataclass, to the byte."""


def load_page(body: bytes) -> RulePage:
    page = _load(_PAGE, body, RulePage)
    if not all(type(rule) is Rule for rule in page.items):
        raise WrongType("an item is no Rule")
    return page


def load_rule(body: bytes) -> Rule:
    return _load(_RULE, body, Rule)


def _load(schema: ma.Schema, body: bytes, kind: type[T]) -> T:
    try:
        value: T = schema.load(orjson.loads(body))
    except Exception as error:  # whatever it is, the body is of another type
        raise WrongType(f"{error!r}: {body[:200]!r}") from error
    if type(value) is not kind or orjson.dumps(schema.dump(value)) != body:
        raise WrongType(f"loads, but into something else: {body[:200]!r}")
    return value


def is_problem(response: requests.Response) -> bool:
    """Whether an error says what the contract says of one, and is this request's."""
    body = response.json()
    return (
        response.headers["Content-Type"] == "application/problem+json"
        and body["status"] == response.status_code
        and body["request_id"] == response.headers["X-Request-ID"]
    )


def text_of(tenant: str | None, version: int) -> str:
    """A description that tells whose rule it is, and which version of it."""
    return f"{tenant or PLATFORM} version {version}"


def strangers(page: RulePage, standpoint: Standpoint, ours: frozenset[str]) -> Iterator[str]:
    """Rules that are not to be seen from here, or whose content is another tenant's."""
    for rule in page.items:
        if standpoint.tenant is not None and rule.tenant != standpoint.tenant:
            yield f"{standpoint.tenant} was shown {rule.name!r} of {rule.tenant}"
        whose = rule.name.partition(" ")[0]
        if (rule.tenant in ours or whose in ours) and not (
            whose == rule.tenant and rule.description.startswith(f"{rule.tenant} ")
        ):
            yield f"{rule.tenant} has {rule.name!r}: {rule.description!r}"
        if rule.tenant is not None and whose == PLATFORM:
            yield f"{rule.tenant} has the platform's {rule.name!r}"


def outdated(page: RulePage, floor: Floor) -> Iterator[str]:
    """Rules in a state from before one that was committed when the request was sent."""
    for rule in page.items:
        stand = floor.get(rule.id)
        if stand is None:
            continue
        if stand.deleted:
            yield f"{rule.name!r} is listed, but was deleted"
        elif rule.version < stand.version:
            yield f"{rule.name!r} has version {rule.version} of {stand.version}"


def missing(seen: set[UUID], tenant: str | None, floor: Floor, known: Known) -> Iterator[str]:
    """Rules that a complete list of a tenant's lacks, though nobody has begun to delete them."""
    for stand in floor.values():
        wanted = stand.tenant == tenant and not stand.deleted
        if wanted and stand.id not in seen and not known.is_leaving(stand.id):
            yield f"{stand.name!r} is not in the list"


def misfits(page: RulePage, query: Mapping[str, str]) -> Iterator[str]:
    """Where a page is no answer to its query; then it was made for another one."""
    if len(page.items) > int(query.get("limit", 50)):
        yield f"{len(page.items)} rules for {query}"
    for rule in page.items:
        if not _fits(rule, query):
            yield f"{rule.name!r} for {query}"
    key = query.get("sort", "name")
    order = [(getattr(rule, key.removeprefix("-")), rule.id) for rule in page.items]
    if order != sorted(order, reverse=key.startswith("-")):
        yield f"out of order for {query}"


def torn(rule: Rule) -> bool:
    """Whether the content is that of another version."""
    return rule.description != text_of(rule.tenant, rule.version)


def _fits(rule: Rule, query: Mapping[str, str]) -> bool:
    word = query.get("q", "").lower()
    return (
        query.get("effect") in (None, rule.effect)
        and query.get("enabled") in (None, str(rule.enabled).lower())
        and query.get("tenant") in (None, rule.tenant)
        and (word in rule.name.lower() or word in rule.description.lower())
    )
