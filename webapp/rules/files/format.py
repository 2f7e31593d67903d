"""Rules as a file: YAML in which each rule stands under whose it is.

    platform:
    - name: Staff access
      effect: allow
      …
    tenants:
      acme:
      - name: Nights
        …

A field at its default is left out. What is written reads back as the same rules.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import marshmallow as ma
import yaml
from marshmallow import fields, validate

from webapp.http.errors import Invalid
from webapp.http.schema import Schema
from webapp.rules.drafts import rule_of_draft
from webapp.rules.rule import Rule
from webapp.rules.schemas import RuleCreateSchema, RuleSchema
from webapp.scope.schemas import SLUG

Draft = Mapping[str, Any]
"""As the schema loads it, every field there."""

_NOBODY = UUID(int=0)
_FIELDS = tuple(name for name in RuleCreateSchema().fields if name != "tenant")
_TENANT = re.compile(r"tenants(\.[^\]]*|\[\d+\])")
"""The path to a tenant's rules."""
_ALWAYS = ("name", "effect", "surfaces")


class BadFile(Exception):
    """What is wrong with a file, a line for each problem, each with the place it is at."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Entry:
    """A rule in a file, and where it stands there."""

    tenant: str | None
    place: str
    draft: Draft

    @property
    def key(self) -> tuple[str | None, str]:
        """What makes it the same rule as one that there is."""
        return self.tenant, self.draft["name"]


@dataclass(frozen=True)
class RuleFile:
    entries: tuple[Entry, ...]
    owners: frozenset[str | None]
    """Those that it names, with rules or without: the platform is `None`."""


class _Loader(yaml.SafeLoader):
    """Reads a time of day as the text it is, which YAML 1.1 takes for a number to base 60, and a
    moment likewise; refuses a key that is there twice, of which it takes the last."""

    yaml_implicit_resolvers = {
        first: [
            (tag, pattern)
            for tag, pattern in known
            if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int")
        ]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for twice in {key for key in keys if isinstance(key, str) and keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789")
)


class _Dumper(yaml.SafeDumper):
    """Escapes what is not printed: some of it, between single quotes, YAML folds into a space."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        style = None if text.replace("\n", "").isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_str)


class RuleFileSchema(Schema):
    """A file as a whole. Where a rule stands says whose it is."""

    platform = fields.List(fields.Nested(RuleCreateSchema(exclude=("tenant",))))
    tenants = fields.Dict(
        keys=fields.String(validate=SLUG),
        values=fields.List(fields.Nested(RuleCreateSchema(exclude=("tenant",)))),
        validate=validate.Length(max=100_000),
    )


def read_file(text: str) -> RuleFile:
    """Raises `BadFile`."""
    try:
        found: dict[str, Any] = RuleFileSchema().load(_parse(text) or {})
    except ma.ValidationError as error:
        raise BadFile(_problems(error.normalized_messages())) from error  # type: ignore[no-untyped-call]  # marshmallow left it untyped
    owners: dict[str | None, list[Draft]] = dict(found.get("tenants", {}))
    if "platform" in found:
        owners[None] = found["platform"]
    entries = tuple(
        Entry(tenant, f"{_place_of(tenant)}[{number}]", draft)
        for tenant, drafts in owners.items()
        for number, draft in enumerate(drafts)
    )
    problems = [*_doubled(entries), *_impossible(entries)]
    if problems:
        raise BadFile(problems)
    return RuleFile(entries, frozenset(owners))


def read_draft(text: str) -> Draft:
    """A file with one rule, whose `tenant` it may name; raises `BadFile`."""
    try:
        draft: Draft = RuleCreateSchema().load(_parse(text) or {})
    except ma.ValidationError as error:
        raise BadFile(_problems(error.normalized_messages())) from error  # type: ignore[no-untyped-call]  # marshmallow left it untyped
    return draft


def write_file(rules: Iterable[Rule], owners: Iterable[str | None] = ()) -> str:
    """The same rules are always the same text. `owners` are named though they have no rules."""
    by_owner: dict[str | None, list[Rule]] = {owner: [] for owner in owners}
    for rule in rules:
        by_owner.setdefault(rule.tenant, []).append(rule)
    document: dict[str, Any] = {}
    if None in by_owner:
        document["platform"] = _entries(by_owner.pop(None))
    tenants = {slug: _entries(found) for slug, found in sorted(by_owner.items(), key=str)}
    if tenants:
        document["tenants"] = tenants
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def wire_of(rule: Rule) -> dict[str, Any]:
    """What a client may write of it, as on the wire."""
    dumped: dict[str, Any] = RuleSchema().dump(rule)
    return {name: dumped[name] for name in _FIELDS}


def wire_of_draft(draft: Draft, tenant: str | None) -> dict[str, Any]:
    return wire_of(rule_of_draft(draft, _NOBODY, tenant))


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader that reads less
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadFile([f"It is not YAML: {' '.join(str(error).split())}"]) from error


def _entries(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    return [_entry(rule) for rule in sorted(rules, key=lambda rule: (rule.name, rule.id))]


def _entry(rule: Rule) -> dict[str, Any]:
    defaults = _defaults()
    return {
        name: value
        for name, value in wire_of(rule).items()
        if name in _ALWAYS or value != defaults[name]
    }


@cache
def _defaults() -> dict[str, Any]:
    """The fields of a draft that says no more than it has to."""
    return wire_of_draft(
        RuleCreateSchema().load({"name": "-", "effect": "deny", "surfaces": ["*"]}), None
    )


def _doubled(entries: Iterable[Entry]) -> Iterator[str]:
    places: dict[tuple[str | None, str], str] = {}
    for entry in entries:
        first = places.setdefault(entry.key, entry.place)
        if first != entry.place:
            yield f"{entry.place}.name: It is that of {first} too."


def _impossible(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        try:
            rule_of_draft(entry.draft, _NOBODY, entry.tenant)
        except Invalid as error:
            for name, said in (error.errors or {}).items():
                yield f"{entry.place}.{name}: {' '.join(said)}"


def _problems(messages: Any, path: str = "") -> Iterator[str]:
    """Each with the path to what it is about."""
    if isinstance(messages, Mapping):
        for key, inner in messages.items():
            if isinstance(key, int):
                yield from _problems(inner, f"{path}[{key}]")
            elif key == "_schema" or (key in ("key", "value") and _TENANT.fullmatch(path)):
                yield from _problems(inner, path)
            else:
                yield from _problems(inner, f"{path}.{key}" if path else str(key))
    else:
        said = " ".join(map(str, messages)) if isinstance(messages, list) else str(messages)
        yield f"{path or 'the file'}: {said}"


def _place_of(tenant: str | None) -> str:
    return "platform" if tenant is None else f"tenants.{tenant}"
