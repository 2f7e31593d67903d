"""Checks of every answer: its type, whose rules it shows, and which versions of them."""

from collections.abc import Iterator, Mapping
from typing import TypeVar
from uuid import UUID

import marshmallow as ma
import orjson
import requests

from reliability.stress.known_rules import Floor, KnownRules
from reliability.stress.people import Caller
from webapp.rules.rule import Rule, RulePage
from webapp.rules.schemas import RulePageSchema, RuleSchema

PLATFORM = "stress-platform"
"""The first word in the name of a rule of the platform; in a tenant's it is the slug."""

_PAGE, _RULE = RulePageSchema(), RuleSchema()

T = TypeVar("T")


class WrongType(Exception):
    """The body is not, byte for byte, what the schema dumps of the frozen dataclass."""


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
    """Whether an error has the contract's form and belongs to this request."""
    body = response.json()
    return (
        response.headers["Content-Type"] == "application/problem+json"
        and body["status"] == response.status_code
        and body["request_id"] == response.headers["X-Request-ID"]
    )


def text_of(tenant: str | None, version: int) -> str:
    """A description that names the rule's owner and its version."""
    return f"{tenant or PLATFORM} version {version}"


def foreign_rules(page: RulePage, caller: Caller, ours: frozenset[str]) -> Iterator[str]:
    """Rules that the caller must not see, or whose content is another tenant's."""
    for rule in page.items:
        if caller.tenant is not None and rule.tenant != caller.tenant:
            yield f"{caller.tenant} was shown {rule.name!r} of {rule.tenant}"
        whose = rule.name.partition(" ")[0]
        if (rule.tenant in ours or whose in ours) and not (
            whose == rule.tenant and rule.description.startswith(f"{rule.tenant} ")
        ):
            yield f"{rule.tenant} has {rule.name!r}: {rule.description!r}"
        if rule.tenant is not None and whose == PLATFORM:
            yield f"{rule.tenant} has the platform's {rule.name!r}"


def outdated_rules(page: RulePage, floor: Floor) -> Iterator[str]:
    """Rules in an older state than one that was committed before the request was sent."""
    for rule in page.items:
        known = floor.get(rule.id)
        if known is None:
            continue
        if known.deleted:
            yield f"{rule.name!r} is listed, but was deleted"
        elif rule.version < known.version:
            yield f"{rule.name!r} has version {rule.version} of {known.version}"


def missing_rules(
    seen: set[UUID], tenant: str | None, floor: Floor, known: KnownRules
) -> Iterator[str]:
    """Rules that a tenant's complete list lacks, although nobody has begun to delete them."""
    for rule in floor.values():
        wanted = rule.tenant == tenant and not rule.deleted
        if wanted and rule.id not in seen and not known.is_being_deleted(rule.id):
            yield f"{rule.name!r} is not in the list"


def unfit_rules(page: RulePage, query: Mapping[str, str]) -> Iterator[str]:
    """Rules, and an order, that the query does not ask for: the page belongs to another query."""
    if len(page.items) > int(query.get("limit", 50)):
        yield f"{len(page.items)} rules for {query}"
    for rule in page.items:
        if not _fits(rule, query):
            yield f"{rule.name!r} for {query}"
    key = query.get("sort", "name")
    order = [(getattr(rule, key.removeprefix("-")), rule.id) for rule in page.items]
    if order != sorted(order, reverse=key.startswith("-")):
        yield f"out of order for {query}"


def has_content_of_another_version(rule: Rule) -> bool:
    """Whether the rule has the content of another version."""
    return rule.description != text_of(rule.tenant, rule.version)


def _fits(rule: Rule, query: Mapping[str, str]) -> bool:
    word = query.get("q", "").lower()
    return (
        query.get("effect") in (None, rule.effect)
        and query.get("enabled") in (None, str(rule.enabled).lower())
        and query.get("tenant") in (None, rule.tenant)
        and (word in rule.name.lower() or word in rule.description.lower())
    )
