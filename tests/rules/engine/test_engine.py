"""The contract's statements about rules, one by one."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.rules.engine.questions import (
    ACCESS,
    ACME,
    ALLOW,
    ASK,
    BREAK_GLASS_ACCESS,
    DENY,
    EVERY_DAY,
    GLOBEX,
    GRANT,
    NOON,
    ask,
    rule,
)
from webapp.rules.engine.evaluate import (
    Candidate,
    Verdict,
    decide,
    find_no_grant,
    prepare,
    valid_until,
)
from webapp.rules.engine.explanation import explain
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.rule import Subjects, Window


def test_access_without_a_matching_rule_is_denied() -> None:
    assert ask() == Verdict("denied", ())
    assert ask(everywhere=True) == Verdict("denied", ())


def test_deny_beats_require_approval_which_beats_allow() -> None:
    allow, approve, deny = rule(ALLOW, 10), rule(ASK, 11), rule(DENY, 12)
    assert ask(allow) == Verdict("allowed", (allow,))
    assert ask(allow, approve) == Verdict("approval_required", (approve,))
    assert ask(allow, approve, deny) == Verdict("denied", (deny,))


def test_tenant_rules_narrow_and_never_widen_an_access() -> None:
    allow = rule(ALLOW, 10)
    assert ask(rule(ALLOW, 20, of=ACME)) == Verdict("denied", ())
    assert ask(allow, deny := rule(DENY, 20, of=ACME)) == Verdict("denied", (deny,))
    approve = rule(ASK, 20, of=ACME)
    assert ask(allow, approve) == Verdict("approval_required", (approve,))
    assert ask(approve, granted=[approve]) == Verdict("denied", ())
    assert ask(approve) == Verdict("denied", ())


def test_access_is_allowed_once_grants_cover_every_required_approval() -> None:
    platform_rule, tenant_rule = rule(ASK, 10), rule(ASK, 20, of=ACME)
    both = ask(platform_rule, tenant_rule, granted=[platform_rule, tenant_rule])
    assert (both.ruling, both.decided_by) == ("allowed", (platform_rule, tenant_rule))
    assert (both.grants, both.until) == ((GRANT.grant_id,), GRANT.ends_at)
    assert ask(platform_rule, tenant_rule).decided_by == (platform_rule, tenant_rule)
    assert ask(platform_rule, tenant_rule, granted=[tenant_rule]).decided_by == (platform_rule,)
    assert ask(platform_rule, tenant_rule, granted=[platform_rule]).decided_by == (tenant_rule,)


def test_disabled_rule_has_no_effect() -> None:
    allow = rule(ALLOW, 10)
    assert ask(allow, rule(DENY, 11, enabled=False)) == Verdict("allowed", (allow,))
    assert ask(rule(ALLOW, 10, enabled=False)) == Verdict("denied", ())


@pytest.mark.parametrize(
    ("roles", "users", "meant"),
    [
        ((), (), True),
        (("support",), (), True),
        (("engineer",), (), False),
        (("engineer", "support"), (), True),
        ((), ("SUE@Example.ORG",), True),
        ((), ("sue@example.com", "support"), False),
        (("engineer",), ("sue@example.org",), True),
    ],
)
def test_rule_covers_everybody_or_the_roles_and_addresses_that_it_names(
    roles: tuple[str, ...], users: tuple[str, ...], meant: bool
) -> None:
    assert _matches(ACCESS, subjects=Subjects(roles, users)) == meant


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("*", True),
        ("admin.*", True),
        ("admin.rules.*", True),
        ("admin.rules.list", True),
        ("admin.rules.list.*", False),
        ("admin.rules", False),
        ("admin.rule.*", False),
        ("ADMIN.*", False),
    ],
)
def test_surface_is_matched_by_its_name_or_a_prefix_pattern(pattern: str, meant: bool) -> None:
    assert _matches(ACCESS, surfaces=("billing", pattern)) == meant


@pytest.mark.parametrize("effect", [DENY, ASK])
def test_rule_without_reasons_covers_any_reason_but_never_allows_break_glass(
    effect: str,
) -> None:
    assert ask(rule(ALLOW), access=BREAK_GLASS_ACCESS).ruling == "denied"
    named = rule(ALLOW, 10, reasons=("break_glass",))
    assert ask(named, access=BREAK_GLASS_ACCESS).ruling == "allowed"
    assert ask(named, access=ACCESS).ruling == "denied"
    other = ask(named, narrow := rule(effect, 11), access=BREAK_GLASS_ACCESS)
    assert narrow in (other.decided_by if effect == DENY else other.bypassed_approvals)


@pytest.mark.parametrize(
    ("glob", "ticket", "meant"),
    [
        ("*", None, False),
        ("*", "INC-1", True),
        ("INC-*", "INC-", True),
        ("INC-*", "inc-1", False),
        ("*-1", "INC-10", False),
        ("I*-*1", "INC-9-1", True),
        ("INC-?", "INC-1", False),
        ("INC-?", "INC-?", True),
        ("INC.1", "INC-1", False),
        ("\\*", "\\x", True),
        ("🎫*", "🎫7", True),
        ("*", "two\nlines", True),
    ],
)
def test_ticket_pattern_has_stars_as_its_only_wildcards(
    glob: str, ticket: str | None, meant: bool
) -> None:
    assert _matches(replace(ACCESS, ticket=ticket), ticket=glob) == meant


@pytest.mark.parametrize(
    ("network", "ip", "inside"),
    [
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("192.0.2.0/24", "::192.0.2.7", False),
        ("::ffff:192.0.2.0/120", "192.0.2.7", True),
        ("::ffff:192.0.2.0/120", "192.0.3.7", False),
        ("::/0", "192.0.2.7", False),
        ("::/0", "::ffff:192.0.2.7", False),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("192.0.2.7", "192.0.2.7", True),
    ],
)
def test_address_is_found_in_a_network_in_every_notation(
    network: str, ip: str, inside: bool
) -> None:
    assert _matches(replace(ACCESS, ip=ip), networks=("198.51.100.0/24", network)) == inside


@pytest.mark.parametrize("ip", [None, "", "unknown", "192.0.2.7:443", "192.0.2"])
def test_unknown_address_matches_no_network_of_an_allow_rule_and_every_other(
    ip: str | None,
) -> None:
    access = replace(ACCESS, ip=ip)
    inside: dict[str, Any] = {"networks": ("192.0.2.0/24",)}
    assert ask(rule(ALLOW, 10, **inside), access=access).ruling == "denied"
    assert ask(rule(ALLOW, 10), rule(DENY, 11, **inside), access=access).ruling == "denied"
    assert (
        ask(rule(ALLOW, 10), rule(ASK, 11, **inside), access=access).ruling == "approval_required"
    )


@pytest.mark.parametrize(
    ("rules", "without", "shown"),
    [
        ([rule(ALLOW, mfa=True)], "denied", "allowed"),
        ([rule(ALLOW), rule(DENY, 11, mfa=True)], "denied", "allowed"),
        ([rule(ALLOW), rule(ASK, 11, mfa=True)], "denied", "approval_required"),
        ([rule(ALLOW), rule(DENY, 11)], "denied", "denied"),
    ],
)
def test_rule_that_demands_a_second_factor_decides_differently_without_one(
    rules: list[Candidate], without: str, shown: str
) -> None:
    assert ask(*rules).ruling == without
    assert ask(*rules, access=replace(ACCESS, mfa=True)).ruling == shown


def test_grant_does_not_replace_a_second_factor_that_its_rule_demands() -> None:
    approve = rule(ASK, mfa=True)
    assert ask(approve, granted=[approve]) == Verdict("denied", (approve,))
    assert ask(approve, granted=[approve], access=replace(ACCESS, mfa=True)).ruling == "allowed"


def test_rule_applies_from_its_start_until_before_its_end() -> None:
    moment, allow = timedelta(microseconds=1), rule(ALLOW, starts_at=NOON, ends_at=GRANT.ends_at)
    fields = [
        ask(allow, at=at).ruling
        for at in (NOON - moment, NOON, GRANT.ends_at - moment, GRANT.ends_at)
    ]
    assert fields == ["denied", "allowed", "allowed", "denied"]


@pytest.mark.parametrize(
    ("window", "at", "is_open"),
    [
        (("wed", "09:00", "17:00", "UTC"), "2026-11-25T09:00Z", True),
        (("wed", "09:00", "17:00", "UTC"), "2026-11-25T08:59:59.999999Z", False),
        (("wed", "09:00", "17:00", "UTC"), "2026-11-25T16:59:59.999999Z", True),
        (("wed", "09:00", "17:00", "UTC"), "2026-11-25T17:00Z", False),
        (("thu", "09:00", "17:00", "UTC"), "2026-11-25T12:00Z", False),
        # Local time: in Kathmandu it is Thursday from 18:15 UTC on.
        (("thu", "00:00", "09:00", "Asia/Kathmandu"), "2026-11-25T18:14Z", False),
        (("thu", "00:00", "09:00", "Asia/Kathmandu"), "2026-11-25T18:15Z", True),
        # A window past midnight belongs to the day on which it begins, also on Sundays.
        (("wed", "22:00", "06:00", "UTC"), "2026-11-26T05:59Z", True),
        (("wed", "22:00", "06:00", "UTC"), "2026-11-26T06:00Z", False),
        (("wed", "22:00", "06:00", "UTC"), "2026-11-25T05:59Z", False),
        (("sun", "22:00", "06:00", "UTC"), "2026-11-30T05:59Z", True),
        # Equal times: the window lasts a whole day.
        (("wed", "09:00", "09:00", "UTC"), "2026-11-25T08:59Z", False),
        (("wed", "09:00", "09:00", "UTC"), "2026-11-26T08:59Z", True),
        (("wed", "09:00", "09:00", "UTC"), "2026-11-26T09:00Z", False),
    ],
)
def test_window_is_open_weekly_by_local_time(
    window: tuple[Any, str, str, str], at: str, is_open: bool
) -> None:
    days, *rest = window
    opened = Window((days,), *rest)
    assert _matches(ACCESS, at=datetime.fromisoformat(at), windows=(opened,)) == is_open


@pytest.mark.parametrize(
    ("zone", "day", "begins", "ends", "minutes"),
    [
        ("Europe/Berlin", "2026-03-29", "02:00", "03:00", 0),  # the hour is skipped
        ("Europe/Berlin", "2026-10-25", "02:00", "03:00", 120),  # the hour is repeated
        ("Europe/Berlin", "2026-03-29", "00:00", "06:00", 300),
        ("Europe/Berlin", "2026-10-25", "02:30", "02:45", 30),
        ("America/New_York", "2026-03-08", "02:00", "03:00", 0),
        ("America/New_York", "2026-11-01", "01:00", "02:00", 120),
        ("Australia/Lord_Howe", "2026-10-04", "02:00", "03:00", 30),  # half an hour is skipped
        ("Australia/Lord_Howe", "2026-04-05", "01:30", "02:00", 60),
        ("Europe/Berlin", "2026-03-28", "22:00", "06:00", 420),  # a short night
        ("Europe/Berlin", "2026-10-24", "22:00", "06:00", 540),
    ],
)
def test_window_follows_local_time_when_the_clock_changes(
    zone: str, day: str, begins: str, ends: str, minutes: int
) -> None:
    date = datetime.fromisoformat(f"{day}T00:00Z")
    window = Window((EVERY_DAY[date.weekday()],), begins, ends, zone)
    rules = prepare([rule(ALLOW, windows=(window,))])
    start = date - timedelta(days=1)
    opened = [
        rules.evaluate(ACCESS, start + timedelta(minutes=minute)).allowed
        for minute in range(0, 4 * 24 * 60, 5)
    ]
    assert 5 * sum(opened) == minutes


def test_break_glass_bypasses_approvals_but_no_denial() -> None:
    by_break_glass, platform_rule, tenant_rule = (
        rule(ALLOW, 10, reasons=("break_glass",)),
        rule(ASK, 11),
        rule(ASK, 20, of=ACME),
    )
    verdict = ask(
        by_break_glass,
        platform_rule,
        tenant_rule,
        access=BREAK_GLASS_ACCESS,
        granted=[platform_rule],
    )
    assert verdict == Verdict(
        "allowed", (by_break_glass,), bypassed_approvals=(platform_rule, tenant_rule)
    )
    deny = rule(DENY, 21, of=ACME)
    assert ask(by_break_glass, platform_rule, deny, access=BREAK_GLASS_ACCESS) == Verdict(
        "denied", (deny,)
    )
    assert ask(platform_rule, access=BREAK_GLASS_ACCESS, granted=[platform_rule]) == Verdict(
        "denied", ()
    )


def test_access_to_all_tenants_excludes_those_whose_rules_refuse() -> None:
    allow, deny, approve = rule(ALLOW, 10), rule(DENY, 20, of=ACME), rule(ASK, 21, of=GLOBEX)
    verdict = ask(allow, deny, approve, everywhere=True)
    assert (verdict.ruling, verdict.decided_by) == ("allowed", (allow,))
    assert verdict.excluded.tenants == {ACME, GLOBEX}
    granted = ask(allow, deny, approve, everywhere=True, granted=[approve])
    assert granted.excluded.tenants == {ACME}
    assert (granted.grants, granted.until) == ((GRANT.grant_id,), GRANT.ends_at)
    useless = rule(ASK, 22, of=ACME)
    denied = ask(allow, deny, useless, everywhere=True, granted=[useless])
    assert denied.excluded.tenants == {ACME}
    assert denied.grants == ()
    assert ask(deny, everywhere=True) == Verdict("denied", ())


def test_break_glass_access_to_all_tenants_excludes_those_who_deny() -> None:
    by_break_glass = rule(ALLOW, 10, reasons=("break_glass",))
    deny, approve, both = rule(DENY, 20, of=ACME), rule(ASK, 21, of=GLOBEX), rule(ASK, 22, of=ACME)
    verdict = ask(by_break_glass, deny, approve, both, everywhere=True, access=BREAK_GLASS_ACCESS)
    assert verdict.excluded.tenants == {ACME}
    assert verdict.bypassed_approvals == (approve,)


def test_minutes_are_the_longest_allow_limit_cut_to_the_shortest_approval_limit() -> None:
    hour, day = rule(ALLOW, 10, max_minutes=60), rule(ALLOW, 11, max_minutes=1440)
    approve, tenant_rule = (rule(ASK, 12, max_minutes=240), rule(ASK, 20, of=ACME, max_minutes=30))
    assert ask(hour).minutes == 60
    assert ask(hour, day).minutes == 1440
    assert ask(hour, rule(ALLOW, 13)).minutes is None
    assert ask(hour, day, approve, granted=[approve]).minutes == 240
    assert ask(hour, approve, granted=[approve]).minutes == 60
    for everywhere in (True, False):
        granted = ask(day, tenant_rule, granted=[tenant_rule], everywhere=everywhere)
        assert granted.minutes == 30
    assert ask(day, tenant_rule, everywhere=True).minutes == 1440


def test_verdict_that_misses_one_approval_is_valid_until_the_other_grant_ends() -> None:
    platform_rule, tenant_rule = rule(ASK, 10), rule(ASK, 20, of=ACME)
    verdict = ask(platform_rule, tenant_rule, granted=[tenant_rule])
    sets = prepare([platform_rule]), prepare([tenant_rule])
    assert valid_until(verdict, sets, NOON) == GRANT.ends_at


@pytest.mark.parametrize("seconds", [0, 1, 59.999999])
def test_verdict_on_rules_with_windows_is_valid_until_the_next_minute(seconds: float) -> None:
    window = Window(EVERY_DAY, "12:01", "13:00", "UTC")
    sets = prepare([rule(ALLOW, windows=(window,))]), prepare([])
    at = NOON + timedelta(seconds=seconds)
    verdict = decide(*sets, ACCESS, at, everywhere=False)
    assert verdict.ruling == "denied"
    assert valid_until(verdict, sets, at) == NOON + timedelta(minutes=1)


def test_verdict_on_rules_without_times_is_valid_for_ever() -> None:
    sets = prepare([rule(ALLOW)]), prepare([rule(DENY, 20, of=ACME)])
    verdict = decide(*sets, ACCESS, NOON, everywhere=False, find_grant=find_no_grant)
    assert valid_until(verdict, sets, NOON) is None


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        (ask(), "No rule of the platform lets support use admin.rules.list for incident."),
        (ask(rule(ALLOW)), "The platform's rule “allow 10” allows it."),
        (
            ask(rule(ALLOW, 10), rule(ALLOW, 11)),
            "The platform's rule “allow 10” and the platform's rule “allow 11” allow it.",
        ),
        (
            ask(rule(ALLOW), rule(ASK, 20, of=ACME)),
            "Acme's rule “require_approval 20” asks for an approval first.",
        ),
        (
            ask(*(rule(DENY, number) for number in range(10, 15))),
            "The platform's rule “deny 10” and the platform's rule “deny 11” and the platform's "
            "rule “deny 12” and 2 more deny it.",
        ),
        (
            ask(rule(ALLOW), rule(DENY, 20, of=ACME), everywhere=True),
            "The platform's rule “allow 10” allows it, without 1 tenant that said no.",
        ),
        (
            ask(
                rule(ALLOW, reasons=("break_glass",)),
                rule(ASK, 20, of=ACME),
                access=BREAK_GLASS_ACCESS,
            ),
            "The platform's rule “allow 10” allows it, by break-glass, without the approval that "
            "acme's rule “require_approval 20” asks for.",
        ),
    ],
)
def test_verdict_is_explained_in_one_sentence(verdict: Verdict, sentence: str) -> None:
    assert explain(verdict, ACCESS).sentence == sentence


def _matches(access: AuthorizationRequest, at: datetime = NOON, **fields: Any) -> bool:
    """Whether a rule with these fields, whatever its effect, covers the access."""
    allowing = ask(rule(ALLOW, **fields), access=access, at=at).ruling == "allowed"
    denying = (
        ask(rule(ALLOW, 10), rule(DENY, 11, **fields), access=access, at=at).ruling == "denied"
    )
    approving = ask(rule(ALLOW, 10), rule(ASK, 11, **fields), access=access, at=at)
    assert allowing == denying == (approving.ruling == "approval_required")
    return allowing
