"""Reference evaluator in plain Python, by the contract's words, to compare the engine with.

It shares only the input and output values with the engine.
"""

import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from webapp.rules.engine.evaluate import Candidate, GrantMatch, Verdict
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.rule import Rule, Window

RuleEffect = Literal["deny", "approve", "allow"]

WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ZONES = available_timezones() - {"Factory", "localtime"}
MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True)
class ReferenceOutcome:
    """The part of a verdict that is compared."""

    ruling: str
    decided_by: tuple[UUID, ...]
    excluded: frozenset[UUID] = frozenset()
    grants: tuple[UUID, ...] = ()
    bypassed_approvals: tuple[UUID, ...] = ()
    minutes: int | None = None


def outcome_of(verdict: Verdict) -> ReferenceOutcome:
    return ReferenceOutcome(
        verdict.ruling,
        _ids(verdict.decided_by),
        verdict.excluded.tenants,
        verdict.grants,
        _ids(verdict.bypassed_approvals),
        verdict.minutes,
    )


def decide_by_reference(
    platform: Iterable[Candidate],
    tenants: Iterable[Candidate],
    access: AuthorizationRequest,
    at: datetime,
    *,
    everywhere: bool,
    find_grant: Callable[[Candidate], GrantMatch | None],
) -> ReferenceOutcome:
    """Decide an access. `tenants` holds the rules of the tenant accessed, or of all tenants."""
    if not everywhere:
        return _decide(list(platform), list(tenants), access, at, find_grant)
    by_platform = _decide(list(platform), [], access, at, find_grant)
    if by_platform.ruling != "allowed":
        return by_platform
    rules_of: dict[UUID | None, list[Candidate]] = {}
    for candidate in tenants:
        rules_of.setdefault(candidate.tenant_id, []).append(candidate)
    excluded, grants, bypassed_approvals, limits = (
        set(),
        set(by_platform.grants),
        [*by_platform.bypassed_approvals],
        [],
    )
    if by_platform.minutes is not None:
        limits.append(by_platform.minutes)
    for tenant, rules in rules_of.items():
        assert tenant is not None
        denying, approving, _ = _evaluate(rules, access, at)
        matches = [] if access.reason == "break_glass" else [find_grant(c) for c in approving]
        if denying or None in matches:
            excluded.add(tenant)
        elif access.reason == "break_glass":
            bypassed_approvals += [candidate.id for candidate in approving]
        else:
            grants |= {match.grant_id for match in matches if match is not None}
            limits += _limits(approving)
    return ReferenceOutcome(
        "allowed",
        by_platform.decided_by,
        frozenset(excluded),
        tuple(sorted(grants)),
        tuple(sorted(bypassed_approvals)),
        min(limits, default=None),
    )


def _decide(
    platform: Sequence[Candidate],
    tenant: Sequence[Candidate],
    access: AuthorizationRequest,
    at: datetime,
    find_grant: Callable[[Candidate], GrantMatch | None],
) -> ReferenceOutcome:
    denying, approving, allowing = _evaluate(platform, access, at)
    tenant_denying, tenant_approving, _ = _evaluate(tenant, access, at)
    if denying or tenant_denying:
        return ReferenceOutcome("denied", _ids([*denying, *tenant_denying]))
    required = [*approving, *tenant_approving]
    if access.reason == "break_glass":
        if not allowing:
            return ReferenceOutcome("denied", ())
        return ReferenceOutcome(
            "allowed",
            _ids(allowing),
            bypassed_approvals=_ids(required),
            minutes=_longest(allowing),
        )
    if not approving and not allowing:
        return ReferenceOutcome("denied", ())
    matches = {candidate.id: find_grant(candidate) for candidate in required}
    missing = [candidate for candidate in required if matches[candidate.id] is None]
    if missing:
        return ReferenceOutcome("approval_required", _ids(missing))
    longest = _longest(allowing)
    limits = [*_limits(required), *([] if longest is None else [longest])]
    return ReferenceOutcome(
        "allowed",
        _ids([*allowing, *required]),
        grants=tuple(sorted({match.grant_id for match in matches.values() if match is not None})),
        minutes=min(limits, default=None),
    )


def _evaluate(
    candidates: Iterable[Candidate], access: AuthorizationRequest, at: datetime
) -> tuple[list[Candidate], list[Candidate], list[Candidate]]:
    """The rules that deny, that require an approval, and that allow."""
    found: dict[RuleEffect, list[Candidate]] = {"deny": [], "approve": [], "allow": []}
    for candidate in candidates:
        effect = says(candidate.rule, access, at)
        if effect is not None:
            found[effect].append(candidate)
    return found["deny"], found["approve"], found["allow"]


def says(rule: Rule | None, access: AuthorizationRequest, at: datetime) -> RuleEffect | None:
    """The effect of one rule on an access; `None` if it does not apply."""
    if rule is None:
        return "deny"
    if not rule.enabled:
        return None
    if not is_readable(rule):
        return "deny"
    if not _concerns(rule, access, at):
        return None
    if rule.effect == "allow":
        return "allow" if access.mfa or not rule.mfa else None
    if rule.effect == "deny":
        return None if rule.mfa and access.mfa else "deny"
    return "deny" if rule.mfa and not access.mfa else "approve"


def is_readable(rule: Rule) -> bool:
    try:
        for text in rule.networks:
            _network(text)
    except (OSError, ValueError):
        return False
    return all(window.tz in ZONES for window in rule.windows)


def _concerns(rule: Rule, access: AuthorizationRequest, at: datetime) -> bool:
    return (
        _is_subject(rule, access)
        and any(_covers_surface(pattern, access.surface) for pattern in rule.surfaces)
        and _is_for(rule, access.reason)
        and (rule.ticket is None or _fits(rule.ticket, access.ticket))
        and _is_from(rule, access.ip)
        and (not rule.windows or any(is_open(window, at) for window in rule.windows))
        and (rule.starts_at is None or at >= rule.starts_at)
        and (rule.ends_at is None or at < rule.ends_at)
    )


def _is_subject(rule: Rule, access: AuthorizationRequest) -> bool:
    roles, users = rule.subjects.roles, rule.subjects.users
    if len(roles) + len(users) == 0:
        return True
    named = any(user.lower() == access.email.lower() for user in users)
    return named or any(role in access.roles for role in roles)


def _covers_surface(pattern: str, surface: str) -> bool:
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return surface.startswith(pattern[:-1])
    return pattern == surface


def _is_for(rule: Rule, reason: str) -> bool:
    if rule.reasons:
        return reason in rule.reasons
    return rule.effect != "allow" or reason != "break_glass"


def _fits(glob: str, ticket: str | None) -> bool:
    pattern = ".*".join(re.escape(piece) for piece in glob.split("*"))
    return ticket is not None and re.fullmatch(pattern, ticket, re.DOTALL) is not None


def _is_from(rule: Rule, ip: str | None) -> bool:
    if not rule.networks:
        return True
    if ip is None:
        return rule.effect != "allow"
    try:
        address = _bits(ip.split("%")[0])
    except OSError:
        return rule.effect != "allow"
    return any(address.startswith(_network(text)) for text in rule.networks)


def _bits(address: str) -> str:
    """The bits of an address, after its family."""
    if ":" not in address:
        return "4" + _binary(socket.inet_pton(socket.AF_INET, address))
    packed = socket.inet_pton(socket.AF_INET6, address)
    return "4" + _binary(packed[12:]) if packed.startswith(MAPPED) else "6" + _binary(packed)


def _binary(packed: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in packed)


def _network(text: str) -> str:
    """The bits with which the network's addresses begin."""
    address, slash, length = text.partition("/")
    bits = _bits(address)
    prefix = int(length) if slash else 128 if ":" in address else 32
    if bits[0] == "4" and ":" in address:
        prefix -= 96  # a mapped IPv4 network has at least these bits
    if prefix < 0 or "1" in bits[1 + prefix :]:
        raise ValueError(text)
    return bits[: 1 + prefix]


def is_open(window: Window, at: datetime) -> bool:
    """Whether the local time is inside the window, which may have begun yesterday."""
    wall = datetime.fromtimestamp(at.timestamp(), ZoneInfo(window.tz)).replace(tzinfo=None)
    for days in (0, 1):
        begun_on = wall.date() - timedelta(days=days)
        begins = datetime.fromisoformat(f"{begun_on} {window.begins}")
        ends = datetime.fromisoformat(f"{begun_on} {window.ends}")
        if ends <= begins:
            ends += timedelta(days=1)
        if WEEK[begun_on.weekday()] in window.days and begins <= wall < ends:
            return True
    return False


def _longest(allowing: Iterable[Candidate]) -> int | None:
    """The longest limit of these rules; `None` if one has no limit, or there is none."""
    given = [candidate.rule.max_minutes for candidate in allowing if candidate.rule]
    limits = [minutes for minutes in given if minutes is not None]
    return max(limits) if limits and len(limits) == len(given) else None


def _limits(required: Iterable[Candidate]) -> list[int]:
    """The limits of the rules that require an approval."""
    lengths = [candidate.rule.max_minutes for candidate in required if candidate.rule]
    return [minutes for minutes in lengths if minutes is not None]


def _ids(candidates: Iterable[Candidate]) -> tuple[UUID, ...]:
    return tuple(sorted(candidate.id for candidate in candidates))
