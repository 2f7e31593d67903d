"""Rules as Cedar policies: the subjects and surfaces fill two slots of a template of conditions.

A template is a policy in Cedar's JSON form
(https://docs.cedarpolicy.com/policies/json-format.html), never text. All rules with the same
conditions share one template. A rule that requires an approval becomes a `forbid`, which approved
accesses pass, and a `permit` for accesses that a grant approves. In Cedar a `forbid` beats every
`permit`, as the contract wants it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

import orjson

from webapp.http.addresses import network
from webapp.rules.rule import Day, Rule, Window

BREAK_GLASS: Final = "break_glass"
DAYS: Final = get_args(Day)
_CLOCK: Final = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")
_TZDATA: Final = files("tzdata")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Json = dict[str, Any]
Part = Literal["deny", "approve", "permit"]
"""What a policy does: it denies, requires an approval, or permits."""


class Unreadable(ValueError):
    """A rule that cannot be made into policies. Treat it as one that denies."""


@dataclass(frozen=True)
class Policy:
    """One policy of a rule: a template, and the values of its slots."""

    part: Part
    template: str
    """The policy in Cedar's JSON form. Equal texts are the same template."""
    subjects: str
    surfaces: str


def policies_of(rule: Rule) -> tuple[Policy, ...]:
    """The policies that a rule stands for. Raises `Unreadable`."""
    try:
        return tuple(
            Policy(part, template, _subjects(rule), _surfaces(rule))
            for part, template in _templates(rule)
        )
    except (ValueError, TypeError, OSError, LookupError, AttributeError, OverflowError) as error:
        raise Unreadable(f"rule {rule.id}: {error}") from error


def zone_of(name: str) -> ZoneInfo:
    """A time zone of the pinned `tzdata`, whatever zones the host has.

    Raises `ValueError` for a name that is not in its list.
    """
    if name not in time_zones():
        raise ValueError(f"{name!r} is no time zone")
    return _read_zone(name)


@cache
def time_zones() -> frozenset[str]:
    """The names of all time zones but `Factory`, which stands for none."""
    return frozenset(_TZDATA.joinpath("zones").read_text().split()) - {"Factory"}


@lru_cache(maxsize=1024)
def _read_zone(name: str) -> ZoneInfo:
    with _TZDATA.joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def microseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _subjects(rule: Rule) -> str:
    users = {user.lower() for user in rule.subjects.users}
    return dumps([sorted(set(rule.subjects.roles)), sorted(users)])


def _surfaces(rule: Rule) -> str:
    return dumps(sorted(set(rule.surfaces)))


def _templates(rule: Rule) -> Iterator[tuple[Part, str]]:
    conditions = list(_conditions(rule))
    mfa = _attribute("mfa")
    match rule.effect:
        case "allow":
            required = [_when(mfa)] if rule.mfa else []
            yield "permit", _template("permit", [*conditions, *required])
        case "deny":
            exception = [_unless(mfa)] if rule.mfa else []
            yield "deny", _template("forbid", [*conditions, *exception])
        case "require_approval":
            yield "approve", _template("forbid", [*conditions, _unless(_attribute("approved"))])
            yield "permit", _template("permit", [*conditions, _when(_attribute("granted"))])
            if rule.mfa:
                yield "deny", _template("forbid", [*conditions, _unless(mfa)])
        case unknown:
            raise ValueError(f"{unknown!r} is no effect")


def _template(effect: str, conditions: list[Json]) -> str:
    return dumps(
        {
            "effect": effect,
            "principal": {"op": "in", "slot": "?principal"},
            "action": {"op": "==", "entity": {"type": "Action", "id": "access"}},
            "resource": {"op": "in", "slot": "?resource"},
            "conditions": conditions,
        }
    )


def _conditions(rule: Rule) -> Iterator[Json]:
    reason = _attribute("reason")
    if rule.reasons:
        yield _when(_contains(sorted(set(rule.reasons)), reason))
    elif rule.effect == "allow":
        # A rule allows break-glass only if it names that reason.
        yield _unless(_binary("==", reason, _value(BREAK_GLASS)))
    if rule.ticket is not None:
        known = {"has": {"left": {"Var": "context"}, "attr": "ticket"}}
        pattern = ["Wildcard" if c == "*" else {"Literal": c} for c in rule.ticket]
        like = {"like": {"left": _attribute("ticket"), "pattern": pattern}}
        yield _when(_binary("&&", known, like))
    if rule.networks:
        yield _when(_from_networks(rule))
    if rule.windows:
        yield _when(_any([_within(window) for window in rule.windows]))
    if rule.starts_at is not None:
        yield _when(_binary(">=", _attribute("at"), _value(microseconds(rule.starts_at))))
    if rule.ends_at is not None:
        yield _when(_binary("<", _attribute("at"), _value(microseconds(rule.ends_at))))


def _from_networks(rule: Rule) -> Json:
    """The expression that the address is in the rule's networks.

    An unknown address never matches a rule that allows, and always matches one that does not.
    """
    known = {"has": {"left": {"Var": "context"}, "attr": "ip"}}
    inside = _any(
        [
            {"isInRange": [_attribute("ip"), {"ip": [_value(str(network(text)))]}]}
            for text in sorted(set(rule.networks))
        ]
    )
    if rule.effect == "allow":
        return _binary("&&", known, inside)
    return {"if-then-else": {"if": known, "then": inside, "else": _value(True)}}


def _within(window: Window) -> Json:
    """The expression that the local time is in a window. Raises `ValueError` for no window."""
    zone_of(window.tz)  # raises if there is no such zone
    if not window.days or not set(window.days) <= set(DAYS):
        raise ValueError(f"{window.days} are no days")
    place = {"Value": {"__entity": {"type": "Clock", "id": window.tz}}}
    minute = _of(place, "minute")
    begins, ends = map(minutes_of, (window.begins, window.ends))
    today = _contains(list(window.days), _of(place, "day"))
    begun = _binary(">=", minute, _value(begins))
    not_over = _binary("<", minute, _value(ends))
    if begins < ends:
        return _binary("&&", _binary("&&", today, begun), not_over)
    since_yesterday = _contains(list(window.days), _of(place, "before"))
    return _binary("||", _binary("&&", today, begun), _binary("&&", since_yesterday, not_over))


def minutes_of(time: str) -> int:
    if not _CLOCK.fullmatch(time):
        raise ValueError(f"{time} is no time")
    hours, _, minutes = time.partition(":")
    return int(hours) * 60 + int(minutes)


def _when(body: Json) -> Json:
    return {"kind": "when", "body": body}


def _unless(body: Json) -> Json:
    return {"kind": "unless", "body": body}


def _value(value: str | int | bool) -> Json:
    return {"Value": value}


def _of(left: Json, attribute: str) -> Json:
    return {".": {"left": left, "attr": attribute}}


def _attribute(name: str) -> Json:
    return _of({"Var": "context"}, name)


def _binary(operator: str, left: Json, right: Json) -> Json:
    return {operator: {"left": left, "right": right}}


def _contains(values: list[str], value: Json) -> Json:
    return _binary("contains", {"Set": [_value(v) for v in values]}, value)


def _any(bodies: list[Json]) -> Json:
    """Any of these expressions, joined as a balanced tree, since Cedar limits the depth."""
    if len(bodies) == 1:
        return bodies[0]
    half = len(bodies) // 2
    return _binary("||", _any(bodies[:half]), _any(bodies[half:]))


def dumps(value: object) -> str:
    return orjson.dumps(value).decode()
