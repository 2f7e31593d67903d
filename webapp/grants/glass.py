"""Breaking glass: an incident is open, or is opened, before the look that it lets through."""

from webapp.identity.principal import Principal
from webapp.scope.policy import Decision, Denied, Ruled, Target
from webapp.scope.reason import Reason


def break_glass(
    principal: Principal, target: Target, reason: Reason | None, ruled: Ruled
) -> Decision:
    return Denied("Glass cannot be broken yet.", ruled)
