"""Files of rules: YAML in which each rule stands under its owner.

    platform:
    - name: Staff access
      effect: allow
      …
    tenants:
      acme:
      - name: Nights
        …

A field with its default value is left out. A written file reads back as the same rules.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import marshmallow as ma
import yaml
from marshmallow import fields, validate

from webapp.http.errors import Invalid
from webapp.http.schema import MapOf, Schema, TupleOf
from webapp.rules.drafts import rule_of_draft
from webapp.rules.rule import Rule
from webapp.rules.schemas import RuleCreateSchema, RuleSchema
from webapp.scope.schemas import SLUG
from webapp.text import escaped_lines

Draft = Mapping[str, Any]
"""A rule as `RuleCreateSchema` loads it, with every field."""

MAX_FILE = 64 * 2**20
"""Characters of a file."""

MAX_TENANTS, MAX_RULES = 100_000, 10_000
"""How many tenants a file may name, and how many rules of one owner it may have."""

_NO_ID = UUID(int=0)
_FIELDS = tuple(name for name in RuleCreateSchema().fields if name != "tenant")
_TENANT = re.compile(r"tenants(\.[^\]]*|\[\d+\])")
"""Matches the path to a tenant's rules."""
_ALWAYS = ("name", "effect", "surfaces")


class BadFile(Exception):
    """The problems of a file. The message has one line for each, with its place in the file."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class RuleFileEntry:
    """A rule in a file, and its place there."""

    tenant: str | None
    place: str
    draft: Draft

    @property
    def key(self) -> tuple[str | None, str]:
        """The owner and the name, which identify the rule."""
        return self.tenant, self.draft["name"]


@dataclass(frozen=True)
class RuleFile:
    """The content of a file of rules."""

    entries: tuple[RuleFileEntry, ...]
    owners: frozenset[str | None]
    """The owners that the file names, also those without rules. The platform is `None`."""


class _Loader(yaml.SafeLoader):
    """YAML loader that reads times as text and refuses duplicate keys.

    YAML 1.1 would read a time of day as a number to base 60, and would keep the last duplicate.
    """

    yaml_implicit_resolvers = {
        first: [
            (tag, pattern)
            for tag, pattern in known
            if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int")
        ]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
        for key, times in keys.most_common(1):
            if times > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789")
)


class _Dumper(yaml.SafeDumper):
    """YAML dumper that escapes unprintable text, which YAML might otherwise fold into a space."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        style = None if text == escaped_lines(text) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _rules_of_an_owner() -> TupleOf:
    rule = fields.Nested(RuleCreateSchema(exclude=("tenant",)))
    return TupleOf(rule, validate=validate.Length(max=MAX_RULES))


class RuleFileSchema(Schema):
    """A file of rules. A rule's place in the file names its owner."""

    platform = _rules_of_an_owner()
    tenants = MapOf(
        keys=fields.String(validate=SLUG),
        values=_rules_of_an_owner(),
        validate=validate.Length(max=MAX_TENANTS),
    )


def read_file(text: str) -> RuleFile:
    """Read a file of rules. Raises `BadFile`."""
    try:
        found: dict[str, Any] = RuleFileSchema().load(_parse(text) or {})
    except ma.ValidationError as error:
        raise BadFile(_problems(error.normalized_messages())) from error  # type: ignore[no-untyped-call]  # marshmallow left it untyped
    owners: dict[str | None, Sequence[Draft]] = dict(found.get("tenants", {}))
    if "platform" in found:
        owners[None] = found["platform"]
    entries = tuple(
        RuleFileEntry(tenant, f"{place_of(tenant)}[{number}]", draft)
        for tenant, drafts in owners.items()
        for number, draft in enumerate(drafts)
    )
    problems = [*_duplicates(entries), *_contradictions(entries)]
    if problems:
        raise BadFile(problems)
    return RuleFile(entries, frozenset(owners))


def read_draft(text: str) -> Draft:
    """Read a file with one rule, which may name its `tenant`. Raises `BadFile`."""
    try:
        draft: Draft = RuleCreateSchema().load(_parse(text) or {})
    except ma.ValidationError as error:
        raise BadFile(_problems(error.normalized_messages())) from error  # type: ignore[no-untyped-call]  # marshmallow left it untyped
    return draft


def write_file(rules: Iterable[Rule], owners: Iterable[str | None] = ()) -> str:
    """Write rules as YAML; the same rules always give the same text.

    The file names each of `owners`, even if they have no rules.
    """
    by_owner: dict[str | None, list[Rule]] = {owner: [] for owner in owners}
    for rule in rules:
        by_owner.setdefault(rule.tenant, []).append(rule)
    document: dict[str, Any] = {}
    if None in by_owner:
        document["platform"] = _entries(by_owner.pop(None))
    tenants = {slug: _entries(found) for slug, found in sorted(by_owner.items(), key=str)}
    if tenants:
        document["tenants"] = tenants
    written = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    # YAML reads the escapes: text that is not printable stands in double quotes.
    return escaped_lines(written)


def wire_of(rule: Rule) -> dict[str, Any]:
    """The fields of a rule that clients write, as on the wire."""
    dumped: dict[str, Any] = RuleSchema().dump(rule)
    return {name: dumped[name] for name in _FIELDS}


def wire_of_draft(draft: Draft, tenant: str | None) -> dict[str, Any]:
    return wire_of(rule_of_draft(draft, _NO_ID, tenant))


def _parse(text: str) -> Any:
    if len(text) > MAX_FILE:
        raise BadFile([f"It has more than {MAX_FILE:,} characters."])
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
    """The fields of a draft that names only the required ones."""
    return wire_of_draft(
        RuleCreateSchema().load({"name": "-", "effect": "deny", "surfaces": ["*"]}), None
    )


def _duplicates(entries: Iterable[RuleFileEntry]) -> Iterator[str]:
    places: dict[tuple[str | None, str], str] = {}
    for entry in entries:
        first = places.setdefault(entry.key, entry.place)
        if first != entry.place:
            yield f"{entry.place}.name: {first} has the same name."


def _contradictions(entries: Iterable[RuleFileEntry]) -> Iterator[str]:
    for entry in entries:
        try:
            rule_of_draft(entry.draft, _NO_ID, entry.tenant)
        except Invalid as error:
            for name, problems in (error.errors or {}).items():
                yield f"{entry.place}.{name}: {' '.join(problems)}"


def _problems(messages: Any, path: str = "") -> Iterator[str]:
    """The problems, each with the path to the field that has it."""
    if isinstance(messages, Mapping):
        for key, inner in messages.items():
            if isinstance(key, int):
                yield from _problems(inner, f"{path}[{key}]")
            elif key == "_schema" or (key in ("key", "value") and _TENANT.fullmatch(path)):
                yield from _problems(inner, path)
            else:
                yield from _problems(inner, f"{path}.{key}" if path else str(key))
    else:
        text = " ".join(map(str, messages)) if isinstance(messages, list) else str(messages)
        yield f"{path or 'the file'}: {text}"


def place_of(tenant: str | None) -> str:
    """The path to an owner's rules in a file."""
    return "platform" if tenant is None else f"tenants.{tenant}"
