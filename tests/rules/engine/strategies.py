"""Hypothesis strategies for rules and questions, of so few words that rules often apply."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, get_args
from uuid import UUID

from hypothesis import strategies as st

from tests.rules.engine.questions import ACME, GLOBEX, RULE
from webapp.rules.engine.evaluate import Candidate, GrantMatch
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.rule import Day, Rule, Subjects, Window

T = TypeVar("T")

TENANTS = {ACME: "acme", GLOBEX: "globex"}
GRANTS = (UUID(int=101), UUID(int=102))

NAMES = ("A rule", 'permit(principal, action, resource);"', "Ünïcode 🎫")
BROKEN: tuple[dict[str, Any], ...] = (
    {"networks": ("192.0.2.7/24",)},
    {"windows": (Window(("mon",), "09:00", "17:00", "Mars/Olympus"),)},
)
ROLES = ("support", "engineer", "admin")
USERS = ("sue@example.org", "SUE@Example.org", "ÄÖÜ@exämple.org", "İ@example.org", 'x"]],\\@e.org')
EMAILS = ("sue@example.org", "Sue@EXAMPLE.org", "äöü@exämple.org", "i̇@example.org", 'X"]],\\@e.org')
SURFACES = ("admin.rules.list", "admin.rules", "admin", "billing.invoices.show", "admin.rulesets")
PATTERNS = ("*", "*", "*", "admin.*", "admin.*", "admin.rules.*", *SURFACES)
REASONS = ("incident", "support_case", "break_glass")
TICKETS = ("INC-1", "inc-1", "INC-", "", "I*C-1", "INC-1\n", "a.c", "abc", "🎫-1", '"] || true')
GLOBS = ("*", "INC-*", "*-1", "I*C*1", "**", "a.c", "🎫*", "", "INC-1", "?*", '"]*', "\\*")
NETWORKS = (
    "192.0.2.0/24",
    "192.0.2.7",
    "::ffff:192.0.2.0/120",
    "::ffff:0:0/96",
    "::fffe:0:0/95",
    "0.0.0.0/0",
    "::/0",
    "2001:db8::/32",
    "2001:db8::7/128",
    "198.51.100.0/31",
)
ADDRESSES = (
    "192.0.2.7",
    "192.0.2.255",
    "192.0.3.0",
    "::ffff:192.0.2.7",
    "::ffff:192.0.2.7%eth0",
    "::192.0.2.7",
    "2001:db8::7",
    "2001:db9::",
    "fe80::1%eth0",
    "198.51.100.1",
    "unknown",
    "",
    None,
)
DAYS: tuple[Day, ...] = get_args(Day)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
TIMES = ("00:00", "00:01", "01:30", "02:00", "02:30", "03:00", "09:00", "17:00", "23:59")
MOMENTS = (
    "2026-03-29T01:00Z",  # Berlin: from 02:00 to 03:00
    "2026-10-25T01:00Z",  # from 03:00 back to 02:00
    "2026-03-08T07:00Z",  # New York: the same
    "2026-11-01T06:00Z",
    "2026-10-03T15:30Z",  # Lord Howe: from 02:00 to 02:30
    "2026-04-04T15:00Z",  # from 02:00 back to 01:30
    "2026-11-25T00:00Z",
    "2026-11-25T08:00Z",
    "2026-11-29T23:00Z",
    "1970-01-01T00:00Z",
)
INSTANTS = tuple(
    datetime.fromisoformat(moment) + timedelta(minutes=minutes, microseconds=microseconds)
    for moment in MOMENTS
    for minutes in (-1441, -60, -30, 0, 29, 30, 60, 90, 480)
    for microseconds in (-1, 0, 1, 29_999_999)
)
EDGES = tuple(
    datetime.fromisoformat("2026-11-25T08:00Z") + timedelta(microseconds=microseconds)
    for microseconds in (-1, 0, 1)
)
"""Moments at which rules begin and end, and for which many questions are."""

RARE = 7
"""One rule in so many has a certain condition. If it were more, too few rules would apply."""


@dataclass
class Dice:
    """Choices made by one number.

    Hypothesis draws and shrinks a few bytes much faster than each field of each rule.
    """

    number: int

    def roll(self, sides: int) -> int:
        self.number, rolled = divmod(self.number, sides)
        return rolled

    def pick(self, options: Sequence[T]) -> T:
        return options[self.roll(len(options))]

    def some(self, options: Sequence[T], most: int, least: int = 0) -> tuple[T, ...]:
        return tuple(self.pick(options) for _ in range(least + self.roll(most - least + 1)))

    def seldom(self, options: Sequence[T], otherwise: T) -> T:
        """Choose a condition for a few rules only, or nothing would match."""
        return self.pick(options) if self.roll(RARE) == RARE - 1 else otherwise


def dice(size: int) -> st.SearchStrategy[Dice]:
    return st.binary(min_size=size, max_size=size).map(
        lambda drawn: Dice(int.from_bytes(drawn, "little"))
    )


def window_of(dice: Dice) -> Window:
    days = dice.some(DAYS, most=4, least=1)
    return Window(days, dice.pick(TIMES), dice.pick(TIMES), dice.pick(ZONES))


def rule_of(dice: Dice) -> Rule:
    """A rule that the API's schemas accept."""
    return replace(
        RULE,
        effect=dice.pick(
            ("allow", "allow", "require_approval", "allow", "require_approval", "deny")
        ),
        surfaces=dice.some(PATTERNS, most=2, least=1),
        max_minutes=dice.pick((None, 30, 60, 240)),
        enabled=dice.roll(10) < 9,
        mfa=dice.seldom((True,), otherwise=False),
        reasons=dice.some(REASONS, most=2, least=1) if dice.roll(RARE) == RARE - 1 else (),
        ticket=dice.seldom(GLOBS, otherwise=None),
        networks=dice.some(NETWORKS, most=2, least=1) if dice.roll(RARE) == RARE - 1 else (),
        windows=tuple(window_of(dice) for _ in range(max(0, dice.roll(8) - 5))),
        starts_at=dice.seldom(EDGES, otherwise=None),
        ends_at=dice.seldom(EDGES, otherwise=None),
        subjects=Subjects(dice.some(ROLES, most=2), dice.some(USERS, most=2))
        if dice.roll(RARE) == RARE - 1
        else RULE.subjects,
        name=dice.pick(NAMES),
    )


def candidate_of(dice: Dice, number: int, tenants: Sequence[UUID | None]) -> Candidate:
    """A rule of one of these owners, sometimes an unreadable one."""
    tenant = dice.pick(tenants)
    slug = None if tenant is None else TENANTS[tenant]
    broken = dice.pick(BROKEN) if dice.roll(30) == 29 else {}
    rule = replace(rule_of(dice), id=UUID(int=number), tenant=slug, **broken)
    return Candidate(rule.id, tenant, None if dice.roll(60) == 59 else rule)


def candidates(tenants: Sequence[UUID | None], first: int) -> st.SearchStrategy[list[Candidate]]:
    return st.lists(dice(32), max_size=5).map(
        lambda drawn: [candidate_of(d, number, tenants) for number, d in enumerate(drawn, first)]
    )


@dataclass(frozen=True)
class Question:
    """An access at a moment, and the grants that its holder has."""

    access: AuthorizationRequest
    at: datetime
    grants: dict[UUID, GrantMatch]
    """By the id of the rule whose approval the grant gives."""

    def find_grant(self, candidate: Candidate) -> GrantMatch | None:
        match = self.grants.get(candidate.id)
        return match if match is not None and self.at < match.ends_at else None


def question_of(dice: Dice) -> Question:
    access = AuthorizationRequest(
        email=dice.pick(EMAILS),
        roles=frozenset(dice.some(ROLES, most=2)),
        mfa=dice.pick((False, True)),
        surface=dice.pick(SURFACES),
        reason=dice.pick(REASONS),
        ticket=dice.pick((None, *TICKETS)),
        ip=dice.pick(ADDRESSES),
    )
    at = dice.pick(dice.pick((INSTANTS, EDGES)))
    grants = [GrantMatch(g, at + timedelta(minutes=1 + dice.roll(90))) for g in GRANTS]
    by_rule = {UUID(int=n): dice.pick(grants) for n in range(1, 11) if dice.roll(2)}
    return Question(access, at, by_rule)


rules = dice(32).map(rule_of)
questions = dice(24).map(question_of)
