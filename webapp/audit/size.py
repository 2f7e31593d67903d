"""The size of an event, which is bounded where it is first recorded.

An event that is too large for a task would stay in its journal's file for ever, and hold up all
those behind it. Headers and names are bounded where they come in. What is not are the lists of an
event: roles, rules and grants, and the set of tenants that the access left out.
"""

from dataclasses import replace

from webapp.audit.event import AuditEvent, EventDecision, dump_event

MAX_EVENT = 60 * 2**10
"""Bytes of an event's canonical form, before a journal numbers it."""

MAX_STORED = 2**16
"""Bytes of an event's canonical form: quarantine, too, keeps that much of it."""

MAX_EXCLUDED = 100_000
"""Tenants that one access may leave out. Their set travels with its event, in one task."""

FEW = 200
"""So many entries of its lists fit into any event. More are measured."""

NAMED = 20
"""How many entries of each list the record of a refused access has."""


class EventTooLarge(Exception):
    """An access whose record would be too large; the text is for the client."""


def check_size(event: AuditEvent) -> None:
    """Raise `EventTooLarge` for an event that must not be recorded as it is."""
    decision = event.decision
    if decision.excluded is not None and decision.excluded.count > MAX_EXCLUDED:
        raise EventTooLarge(
            f"The access would leave out {decision.excluded.count} tenants, of which its record can"
            f" name {MAX_EXCLUDED}."
        )
    names = len(event.actor.roles) + len(decision.rule_ids) + len(decision.grant_ids)
    if names > FEW and len(dump_event(event)) > MAX_EVENT:
        raise EventTooLarge(
            f"The access's record would be too large: it would name {names} roles, rules and"
            " grants."
        )


def shorten(event: AuditEvent) -> AuditEvent:
    """The event with the first entries of each list only, for the record of a refusal."""
    decision = event.decision
    return replace(
        event,
        actor=replace(event.actor, roles=event.actor.roles[:NAMED]),
        decision=EventDecision(
            decision.effect,
            grant_ids=decision.grant_ids[:NAMED],
            policy_version=decision.policy_version,
            rule_ids=decision.rule_ids[:NAMED],
        ),
    )
