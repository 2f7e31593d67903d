"""The contract's words on rules once more, in plain Python: what the engine is compared with.

Nothing here is shared with the engine but the values that go in and come out.
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

Saying = Literal["deny", "approve", "allow"]

WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ZONES = available_timezones()
MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True)
class Outcome:
    """What is compared of a verdict: the rest says the same in other words."""

    ruling: str
    decided_by: tuple[UUID, ...]
    excluded: frozenset[UUID] = frozenset()
    grants: tuple[UUID, ...] = ()
    bypassed_approvals: tuple[UUID, ...] = ()
    minutes: int | None = None


def outcome_of(verdict: Verdict) -> Outcome:
    return Outcome(
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
) -> Outcome:
    """What an access is to get, `tenants` being the rules of the tenant accessed, or of all."""
    if not everywhere:
        return _decide(list(platform), list(tenants), access, at, find_grant)
    ours = _decide(list(platform), [], access, at, find_grant)
    if ours.ruling != "allowed":
        return ours
    rules_of: dict[UUID | None, list[Candidate]] = {}
    for candidate in tenants:
        rules_of.setdefault(candidate.tenant_id, []).append(candidate)
    excluded, grants, bypassed_approvals, limits = (
        set(),
        set(ours.grants),
        [*ours.bypassed_approvals],
        [],
    )
    if ours.minutes is not None:
        limits.append(ours.minutes)
    for tenant, rules in rules_of.items():
        assert tenant is not None
        denying, approving, _ = _evaluate(rules, access, at)
        covered = [] if access.reason == "break_glass" else [find_grant(c) for c in approving]
        if denying or None in covered:
            excluded.add(tenant)
        elif access.reason == "break_glass":
            bypassed_approvals += [candidate.id for candidate in approving]
        else:
            grants |= {cover.grant_id for cover in covered if cover is not None}
            limits += _limits(approving)
    return Outcome(
        "allowed",
        ours.decided_by,
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
) -> Outcome:
    denying, approving, allowing = _evaluate(platform, access, at)
    tenant_denying, tenant_approving, _ = _evaluate(tenant, access, at)
    if denying or tenant_denying:
        return Outcome("denied", _ids([*denying, *tenant_denying]))
    wanted = [*approving, *tenant_approving]
    if access.reason == "break_glass":
        if not allowing:
            return Outcome("denied", ())
        return Outcome(
            "allowed",
            _ids(allowing),
            bypassed_approvals=_ids(wanted),
            minutes=_longest(allowing),
        )
    if not approving and not allowing:
        return Outcome("denied", ())
    covered = {candidate.id: find_grant(candidate) for candidate in wanted}
    missing = [candidate for candidate in wanted if covered[candidate.id] is None]
    if missing:
        return Outcome("approval_required", _ids(missing))
    longest = _longest(allowing)
    limits = [*_limits(wanted), *([] if longest is None else [longest])]
    return Outcome(
        "allowed",
        _ids([*allowing, *wanted]),
        grants=tuple(sorted({cover.grant_id for cover in covered.values() if cover is not None})),
        minutes=min(limits, default=None),
    )


def _evaluate(
    candidates: Iterable[Candidate], access: AuthorizationRequest, at: datetime
) -> tuple[list[Candidate], list[Candidate], list[Candidate]]:
    """Those that deny, that ask for an approval, and that allow."""
    found: dict[Saying, list[Candidate]] = {"deny": [], "approve": [], "allow": []}
    for candidate in candidates:
        said = says(candidate.rule, access, at)
        if said is not None:
            found[said].append(candidate)
    return found["deny"], found["approve"], found["allow"]


def says(rule: Rule | None, access: AuthorizationRequest, at: datetime) -> Saying | None:
    """What one rule says of an access."""
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
    """The family and the address, bit for bit."""
    if ":" not in address:
        return "4" + _binary(socket.inet_pton(socket.AF_INET, address))
    packed = socket.inet_pton(socket.AF_INET6, address)
    return "4" + _binary(packed[12:]) if packed.startswith(MAPPED) else "6" + _binary(packed)


def _binary(packed: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in packed)


def _network(text: str) -> str:
    """What its addresses begin with."""
    address, slash, length = text.partition("/")
    bits = _bits(address)
    given = int(length) if slash else 128 if ":" in address else 32
    if bits[0] == "4" and ":" in address:
        given -= 96  # with fewer bits it would not begin with those of IPv4
    if given < 0 or "1" in bits[1 + given :]:
        raise ValueError(text)
    return bits[: 1 + given]


def is_open(window: Window, at: datetime) -> bool:
    """Whether the clock on the wall shows a time between this window's beginning and end, one day
    or another."""
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
    """What the most generous allowance gives; `None` is without a limit, or nobody's."""
    given = [candidate.rule.max_minutes for candidate in allowing if candidate.rule]
    limits = [minutes for minutes in given if minutes is not None]
    return max(limits) if limits and len(limits) == len(given) else None


def _limits(wanted: Iterable[Candidate]) -> list[int]:
    """What approvals limit an access to."""
    lengths = [candidate.rule.max_minutes for candidate in wanted if candidate.rule]
    return [minutes for minutes in lengths if minutes is not None]


def _ids(candidates: Iterable[Candidate]) -> tuple[UUID, ...]:
    return tuple(sorted(candidate.id for candidate in candidates))
