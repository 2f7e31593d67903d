"""Recorded accesses, to try drafts of rules on."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from flask import Flask

from tests.audit.events import make_event
from tests.audit.ledgers import append_events
from tests.factories import MadeTenant
from tests.rules.calls import PATH
from webapp.audit.event import Actor, AuditEvent, EventDecision, EventScope

SIMULATE = f"{PATH}/simulate"


@dataclass(frozen=True)
class PastAccesses:
    """Recorded accesses to one tenant or to all, on a surface of their own."""

    app: Flask
    surface: str

    def add(self, tenant: MadeTenant | None, email: str, **changes: Any) -> AuditEvent:
        scope = (
            EventScope(kind="global", tenant=None, tenant_id=None)
            if tenant is None
            else EventScope(kind="tenant", tenant=tenant.slug, tenant_id=tenant.id)
        )
        actor = Actor(
            email=email, id=uuid4(), roles=("support", "else:member"), token_id=None, mfa=False
        )
        decision = EventDecision("allowed", policy_version=1)
        given = {"actor": actor, "scope": scope, "surface": self.surface, "decision": decision}
        made = make_event(**(given | changes))
        append_events(self.app, made)
        return made
