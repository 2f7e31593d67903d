"""Rules as Cedar text, for other Cedar tools.

The text has the policies that the engine evaluates, with their slots filled, and the entities that
they refer to. Names that people have chosen are annotations, which Cedar writes from JSON. So no
name can end a string or a comment and continue as a policy.
"""

from collections.abc import Iterable, Iterator

import cedarpy
import orjson

from webapp.rules.engine.cedar import entities_of
from webapp.rules.engine.templates import Policy, dumps, policies_of
from webapp.rules.rule import Rule


def policies_text(rules: Iterable[Rule]) -> str:
    """Write the policies of rules. Raises `Unreadable` for a rule that cannot be read."""
    effective = _effective(rules)
    return "\n".join(_text(rule, policy) for rule in effective for policy in policies_of(rule))


def entities_text(rules: Iterable[Rule]) -> str:
    """Write the subjects and surfaces that the policies name, in Cedar's JSON form.

    The principal, the surface and the clocks belong to each request, so they are not included.
    """
    policies = [policy for rule in _effective(rules) for policy in policies_of(rule)]
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(entities_of(policies), option=options).decode()


def _effective(rules: Iterable[Rule]) -> Iterator[Rule]:
    """The rules that the engine evaluates: enabled ones, without tenants' rules that allow."""
    for rule in rules:
        if rule.enabled and (rule.tenant is None or rule.effect != "allow"):
            yield rule


def _text(rule: Rule, policy: Policy) -> str:
    """Write one policy. Its `@id` names the rule and the part, since a rule may have several."""
    filled = {
        **orjson.loads(policy.template),
        "principal": _in("Subjects", policy.subjects),
        "resource": _in("Surfaces", policy.surfaces),
        "annotations": {
            "id": f"{rule.id}.{policy.part}",
            "rule": str(rule.id),
            "owner": "platform" if rule.tenant is None else f"tenant:{rule.tenant}",
            "name": rule.name,
        },
    }
    document = {"templates": {}, "staticPolicies": {"one": filled}, "templateLinks": []}
    return cedarpy.format_policies(cedarpy.policies_from_json_str(dumps(document)))


def _in(kind: str, name: str) -> dict[str, object]:
    return {"op": "in", "entity": {"type": kind, "id": name}}
