"""Until when a verdict holds though no rule and no grant changes: values in, a moment out.

An answer to another service is used for a while after it was given. So it must say when time alone
ends anything that it rests on: a rule, a window, a grant, or that another rule does not apply yet.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache

from webapp.rules.engine.evaluate import MINUTE, Candidate, RuleSet, Verdict
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import DAYS, minutes_of, zone_of
from webapp.rules.rule import Rule, Window

DAY = timedelta(days=1)
"""How far ahead windows are looked at: no answer holds for longer."""

MAX_WINDOWS = 1000
"""How many different windows are looked at. If more of them may open, the next minute counts as the
moment at which one does."""


def holds_until(
    verdict: Verdict, sets: Iterable[RuleSet], request: AuthorizationRequest, at: datetime
) -> datetime | None:
    """When the first of what an allowing verdict of the moment `at` rests on ends.

    `sets` are the sets of rules that decided. Returns `None` if nothing ends; of windows only the
    next day is looked at. The verdict may still be the same then: other rules may allow it too.
    """
    if verdict.ruling != "allowed":
        return None
    deciding = {candidate.id for candidate in verdict.decided_by}
    rules = [c.rule for s in sets for c in s.candidates if c.rule and c.id not in deciding]
    moments = [
        *([] if verdict.until is None else [verdict.until]),
        *_ends(verdict.decided_by, at),
        *_beginnings([rule for rule in rules if _may_refuse(rule, request)], at),
    ]
    return min(moments, default=None)


def _ends(candidates: Iterable[Candidate], at: datetime) -> Iterator[datetime]:
    """When the rules that apply now cease to apply."""
    for rule in (candidate.rule for candidate in candidates):
        if rule is None:
            continue
        if rule.ends_at is not None:
            yield rule.ends_at
        closings = [next_change(window, at) for window in rule.windows if is_open(window, at)]
        if closings and None not in closings:
            yield max(closing for closing in closings if closing is not None)


def _may_refuse(rule: Rule, request: AuthorizationRequest) -> bool:
    """Whether a rule may refuse what is requested, as far as its subjects and reasons tell."""
    roles, users = rule.subjects.roles, {user.lower() for user in rule.subjects.users}
    concerns = not (roles or users) or request.roles & set(roles) or request.email.lower() in users
    return (
        rule.effect != "allow"
        and bool(concerns)
        and request.reason in (rule.reasons or (request.reason,))
    )


def _beginnings(rules: Iterable[Rule], at: datetime) -> Iterator[datetime]:
    """When the rules that do not apply for their time alone may begin to apply."""
    closed: set[Window] = set()
    for rule in rules:
        if rule.ends_at is not None and rule.ends_at <= at:
            continue
        if rule.starts_at is not None and rule.starts_at > at:
            yield rule.starts_at
        elif _is_closed(rule, at):
            closed.update(rule.windows)
        if len(closed) > MAX_WINDOWS:
            yield at.replace(second=0, microsecond=0) + MINUTE
            return
    openings = (next_change(window, at) for window in closed)
    yield from (opening for opening in openings if opening is not None)


def _is_closed(rule: Rule, at: datetime) -> bool:
    """Whether none of a rule's windows is open. A rule that cannot be read applies at any time."""
    try:
        return bool(rule.windows) and not any(is_open(window, at) for window in rule.windows)
    except ValueError:
        return False


def is_open(window: Window, at: datetime) -> bool:
    """Whether the local time is in a window: what the rules' policies say of it (`templates`)."""
    local = at.astimezone(zone_of(window.tz))
    minute = local.hour * 60 + local.minute
    begins, ends = minutes_of(window.begins), minutes_of(window.ends)
    is_today = DAYS[local.weekday()] in window.days
    if begins < ends:
        return is_today and begins <= minute < ends
    is_yesterday = DAYS[local.weekday() - 1] in window.days
    return is_today and minute >= begins or is_yesterday and minute < ends


@lru_cache(MAX_WINDOWS)
def _next_change(window: Window, minute: datetime) -> datetime | None:
    before, zone = is_open(window, minute), zone_of(window.tz)
    if minute.astimezone(zone).utcoffset() == (minute + DAY).astimezone(zone).utcoffset():
        moments = _boundaries(window, minute)
    else:  # on the day on which the clocks change, any minute may be the one
        moments = [minute + n * MINUTE for n in range(1, 24 * 60 + 1)]
    return next((moment for moment in moments if is_open(window, moment) != before), None)


def next_change(window: Window, at: datetime) -> datetime | None:
    """When a window opens or closes next, `None` if not within a day."""
    return _next_change(window, at.replace(second=0, microsecond=0))


def _boundaries(window: Window, minute: datetime) -> list[datetime]:
    """The next moments, within a day, at which the clock shows a beginning or an end."""
    local = minute.astimezone(zone_of(window.tz))
    now = local.hour * 60 + local.minute
    times = {minutes_of(window.begins), minutes_of(window.ends)}
    ahead = sorted((time - now - 1) % (24 * 60) + 1 for time in times)
    return [minute + n * MINUTE for n in ahead]
