"""Rules as Cedar text, for other tools of Cedar's: the policies that the engine asks, with their
slots filled, and the entities that they refer to.

What people have named stands in annotations, which Cedar writes from their JSON form: no name can
end a comment or a string and go on as a policy.
"""

from collections.abc import Iterable, Iterator

import cedarpy
import orjson

from webapp.rules.engine.cedar import entities_of
from webapp.rules.engine.templates import Policy, dumps, policies_of
from webapp.rules.rule import Rule


def policies_text(rules: Iterable[Rule]) -> str:
    """Raises `Unreadable`, as there is no policy of a rule that cannot be read."""
    return "\n".join(_text(rule, policy) for rule in _asked(rules) for policy in policies_of(rule))


def entities_text(rules: Iterable[Rule]) -> str:
    """Whom and which surfaces the policies name, in Cedar's JSON form. Who asks, the surface and
    the clocks are the question's, and are added to it."""
    policies = [policy for rule in _asked(rules) for policy in policies_of(rule)]
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(entities_of(policies), option=options).decode()


def _asked(rules: Iterable[Rule]) -> Iterator[Rule]:
    """What a tenant allows changes nothing, and the engine does not ask it."""
    for rule in rules:
        if rule.enabled and (rule.tenant is None or rule.effect != "allow"):
            yield rule


def _text(rule: Rule, policy: Policy) -> str:
    """`@id` is the rule's and the part of it that the policy says: one rule may say several."""
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
