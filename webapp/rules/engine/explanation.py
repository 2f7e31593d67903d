"""Explanations: the rules that made a verdict, and a sentence for the person who asked.

The sentence quotes names that people chose. No name can end its quotes, or show other than it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from webapp.rules.engine.evaluate import Candidate, Verdict
from webapp.rules.engine.request import AuthorizationRequest
from webapp.scope.decision import NamedRule
from webapp.text import escaped

NAMED = 3
"""How many rules a sentence names; it only counts the others."""


@dataclass(frozen=True)
class Explanation:
    sentence: str
    named: tuple[NamedRule, ...]
    """The rules that the sentence names."""


def explain(verdict: Verdict, request: AuthorizationRequest) -> Explanation:
    mentioned = (verdict.decided_by, verdict.bypassed_approvals)
    named = {c.id: _named(c) for candidates in mentioned for c in candidates[:NAMED]}
    return Explanation(_explain(verdict, request), tuple(named.values()))


def _named(candidate: Candidate) -> NamedRule:
    rule = candidate.rule
    if rule is None:
        return NamedRule(candidate.id, None, None)
    return NamedRule(candidate.id, rule.tenant, rule.name)


def _explain(verdict: Verdict, request: AuthorizationRequest) -> str:
    if verdict.failed:
        return f"Denied, since a rule cannot be evaluated{_where(verdict.decided_by)}."
    match verdict.ruling:
        case "approval_required":
            asks = _verb(verdict.decided_by, "asks", "ask")
            return f"{_sentence(verdict.decided_by)} {asks} for an approval first."
        case "denied" if verdict.decided_by:
            denies = _verb(verdict.decided_by, "denies", "deny")
            return f"{_sentence(verdict.decided_by)} {denies} it."
        case "denied":
            roles = " or ".join(sorted(request.roles)) or "somebody without a role"
            return (
                f"No rule of the platform lets {roles} use {request.surface} for {request.reason}."
            )
    return _allowed(verdict)


def _allowed(verdict: Verdict) -> str:
    allows = _verb(verdict.decided_by, "allows", "allow")
    parts = [f"{_sentence(verdict.decided_by)} {allows} it"]
    if verdict.grants:
        parts.append("as approved")
    if verdict.bypassed_approvals:
        ask = _verb(verdict.bypassed_approvals, "asks", "ask")
        names = _names(verdict.bypassed_approvals)
        parts.append(f"by break-glass, without the approval that {names} {ask} for")
    left_out = len(verdict.excluded.tenants)
    if left_out:
        parts.append(f"without {left_out} {'tenant' if left_out == 1 else 'tenants'} that said no")
    return f"{', '.join(parts)}."


def _verb(candidates: Sequence[Candidate], one: str, many: str) -> str:
    return one if len(candidates) == 1 else many


def _where(candidates: Sequence[Candidate]) -> str:
    return f": {_names(candidates)}" if candidates else ""


def _sentence(candidates: Sequence[Candidate]) -> str:
    names = _names(candidates)
    return names[:1].upper() + names[1:]


def _names(candidates: Iterable[Candidate]) -> str:
    named = [_name(candidate) for candidate in candidates]
    more = len(named) - NAMED
    if more > 0:
        named = [*named[:NAMED], f"{more} more"]
    return " and ".join(named)


def _name(candidate: Candidate) -> str:
    rule = candidate.rule
    if rule is None:
        return f"the unreadable rule {candidate.id}"
    return f"{rule.tenant or 'the platform'}'s rule “{_quotable(rule.name)}”"


def _quotable(name: str) -> str:
    return escaped(name).replace("“", r"\u201c").replace("”", r"\u201d")
