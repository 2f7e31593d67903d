"""Findings about rules that are valid one by one: rules that can never apply, for example, or that
contradict each other. Values in, values out."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from webapp.http.addresses import network
from webapp.rules.engine.evaluate import Candidate
from webapp.rules.engine.templates import BREAK_GLASS, Unreadable, policies_of
from webapp.rules.rule import Rule, Window, count_conditions, surfaces_covering
from webapp.scope.headers import REASON_CODES

Problem = Literal[
    "unreadable",
    "unreachable",
    "contradictory",
    "never_matched",
    "above_quota",
    "connecting_address",
]


@dataclass(frozen=True)
class RuleFinding:
    """A problem of one rule, or of several."""

    problem: Problem
    rule_id: UUID | None
    """`None` if several rules have the problem."""
    tenant: str | None
    name: str | None
    """`None` if the rule cannot be read."""
    detail: str


def find_unreadable(candidates: Iterable[Candidate]) -> Iterator[RuleFinding]:
    for candidate in candidates:
        rule = candidate.rule
        if rule is None:
            detail = "no schema can read the stored rule: it denies every access"
            yield RuleFinding("unreadable", candidate.id, None, None, detail)
        elif not is_readable(rule):
            yield _found(
                "unreadable", rule, "it cannot be made into a policy: it denies every access"
            )


def is_readable(rule: Rule) -> bool:
    try:
        policies_of(rule)
    except Unreadable:
        return False
    return True


def find_unreachable(rules: Sequence[Rule], at: datetime) -> Iterator[RuleFinding]:
    """Find rules that can never decide, among readable rules that are enabled."""
    denying = defaultdict(list)
    for rule in rules:
        if rule.effect == "deny":
            denying[rule.tenant].append(rule)
    for rule in rules:
        if rule.tenant is not None and rule.effect == "allow":
            detail = "a tenant's rule that allows has no effect: tenants can only narrow"
        elif rule.ends_at is not None and rule.ends_at <= at:
            detail = f"it ended at {rule.ends_at.isoformat()}"
        elif shadow := next((d for d in denying[rule.tenant] if _shadows(d, rule, at)), None):
            detail = f"the rule {shadow.id} denies every access that it covers"
        else:
            continue
        yield _found("unreachable", rule, detail)


def find_contradictory(rules: Iterable[Rule]) -> Iterator[RuleFinding]:
    """Find rules of one owner that have the same conditions and different effects."""
    by_conditions: defaultdict[Hashable, list[Rule]] = defaultdict(list)
    for rule in rules:
        by_conditions[rule.tenant, _conditions(rule)].append(rule)
    for first, *others in by_conditions.values():
        for other in others:
            if other.effect != first.effect:
                detail = f"under the same conditions the rule {first.id} says {first.effect}"
                yield _found("contradictory", other, f"it says {other.effect}, but {detail}")


def find_never_matched(
    rules: Iterable[Rule], matched: frozenset[UUID], days: int
) -> Iterator[RuleFinding]:
    for rule in rules:
        if rule.id not in matched:
            yield _found("never_matched", rule, f"it applied to no access of the last {days} days")


def find_above_quota(
    rules: Iterable[Rule], max_rules: int, max_conditions: int
) -> Iterator[RuleFinding]:
    """Find tenants whose rules are more, or have more conditions, than they may write today."""
    by_tenant: defaultdict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        if rule.tenant is not None:
            by_tenant[rule.tenant].append(rule)
    for tenant, owned in by_tenant.items():
        conditions = sum(map(count_conditions, owned))
        if len(owned) > max_rules or conditions > max_conditions:
            detail = (
                f"{len(owned)} rules with {conditions} entries in their lists: more than"
                f" {max_rules} rules or {max_conditions} entries may take too long to prepare, and"
                " deny every access then"
            )
            yield RuleFinding("above_quota", None, tenant, None, detail)


def find_connecting_address(rules: Iterable[Rule]) -> Iterator[RuleFinding]:
    """Find whether rules name networks although `TRUSTED_PROXIES` is not set."""
    if count := sum(bool(rule.networks) for rule in rules):
        yield RuleFinding(
            "connecting_address", None, None, None, describe_connecting_address(count)
        )


def describe_connecting_address(count: int) -> str:
    rules = "rule names" if count == 1 else "rules name"
    return (
        f"{count} {rules} networks, but TRUSTED_PROXIES is not set:"
        " networks are compared with the address that connects"
    )


def _found(problem: Problem, rule: Rule, detail: str) -> RuleFinding:
    return RuleFinding(problem, rule.id, rule.tenant, rule.name, detail)


def _conditions(rule: Rule) -> Hashable:
    return (
        frozenset(rule.subjects.roles),
        frozenset(user.lower() for user in rule.subjects.users),
        frozenset(rule.surfaces),
        frozenset(rule.reasons),
        rule.ticket,
        frozenset((frozenset(w.days), w.begins, w.ends, w.tz) for w in rule.windows),
        frozenset(map(network, rule.networks)),
        rule.mfa,
        rule.starts_at,
        rule.ends_at,
    )


def _shadows(deny: Rule, rule: Rule, at: datetime) -> bool:
    """Whether `deny` denies every access that `rule` covers.

    `True` is always right. `False` may be wrong where several rules shadow the rule together.
    """
    if deny.id == rule.id or (rule.effect == "deny" and _shadows_first(rule, deny, at)):
        return False
    return _covers(deny, rule, at)


def _shadows_first(rule: Rule, deny: Rule, at: datetime) -> bool:
    """Whether `rule` shadows `deny` and is the older one: of two equal rules one has to stay."""
    return rule.id < deny.id and _covers(rule, deny, at)


def _covers(deny: Rule, rule: Rule, at: datetime) -> bool:
    return (
        (not deny.mfa or (rule.effect == "deny" and rule.mfa))
        and _begins_before(deny, rule, at)
        and (deny.ends_at is None or (rule.ends_at is not None and rule.ends_at <= deny.ends_at))
        and _covers_subjects(deny, rule)
        and all(set(surfaces_covering(s)) & set(deny.surfaces) for s in rule.surfaces)
        and (not deny.reasons or _reasons(rule) <= set(deny.reasons))
        and _covers_ticket(deny.ticket, rule.ticket)
        and _covers_networks(deny, rule)
        and _covers_windows(deny.windows, rule.windows)
    )


def _begins_before(deny: Rule, rule: Rule, at: datetime) -> bool:
    if deny.starts_at is None or deny.starts_at <= at:
        return True
    return rule.starts_at is not None and deny.starts_at <= rule.starts_at


def _covers_subjects(deny: Rule, rule: Rule) -> bool:
    outer, inner = deny.subjects, rule.subjects
    if not outer.roles and not outer.users:
        return True
    if not inner.roles and not inner.users:
        return False
    denied = {user.lower() for user in outer.users}
    return set(inner.roles) <= set(outer.roles) and {user.lower() for user in inner.users} <= denied


def _reasons(rule: Rule) -> set[str]:
    if rule.reasons:
        return set(rule.reasons)
    every: set[str] = set(REASON_CODES)
    return every - {BREAK_GLASS} if rule.effect == "allow" else every


def _covers_ticket(glob: str | None, inner: str | None) -> bool:
    """Whether `glob` matches every ticket that `inner` matches.

    A `*` of `inner` must meet a `*` of `glob`.
    """
    if glob is None:
        return True
    if inner is None:
        return False
    pattern = ".*".join(map(re.escape, glob.split("*")))
    return re.fullmatch(pattern, inner, re.DOTALL) is not None


def _covers_networks(deny: Rule, rule: Rule) -> bool:
    if not deny.networks:
        return True
    outer = list(map(network, deny.networks))
    return bool(rule.networks) and all(
        any(
            inner.version == n.version and inner.subnet_of(n)  # type: ignore[arg-type]  # of one version
            for n in outer
        )
        for inner in map(network, rule.networks)
    )


def _covers_windows(outer: Sequence[Window], inner: Sequence[Window]) -> bool:
    if not outer:
        return True
    return bool(inner) and all(
        any(
            set(window.days) <= set(o.days)
            and (o.begins, o.ends, o.tz) == (window.begins, window.ends, window.tz)
            for o in outer
        )
        for window in inner
    )
