"""Classes of authorization requests that a list of rules does not tell apart."""

import re
from bisect import bisect_right
from collections.abc import Hashable, Iterable
from datetime import datetime
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network

from webapp.http.addresses import address, network
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import BREAK_GLASS, minutes_of, zone_of
from webapp.rules.rule import Rule


class RequestClasses:
    """Classes of requests by a list of rules, which decide all requests of one class alike.

    If the only rule about tickets asks for `INC-*`, ten thousand requests with different tickets
    fall into two classes. Each class has to be decided only once.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        self._tickets: dict[str | None, Hashable] = {None: None}
        self._addresses: dict[str | None, Hashable] = {None: None}

    def class_of(self, request: AuthorizationRequest, at: datetime) -> Hashable:
        email = request.email.lower()
        if request.ticket not in self._tickets:
            self._tickets[request.ticket] = self._class_of_ticket(request.ticket or "")
        if request.ip not in self._addresses:
            self._addresses[request.ip] = self._class_of_address(request.ip)
        return (
            email if email in self._users else None,
            request.roles & self._roles,
            request.mfa and self._asks_for_mfa,
            request.surface,
            request.reason if request.reason in self._reasons else None,
            self._tickets[request.ticket],
            self._addresses[request.ip],
            bisect_right(self._moments, at),
            tuple(_class_of_time(zone, minutes, at) for zone, minutes in self._clocks),
        )

    def _class_of_ticket(self, ticket: str) -> Hashable:
        return frozenset(glob for glob in self._globs if glob.fullmatch(ticket))

    def _class_of_address(self, text: str | None) -> Hashable:
        known = address(text)
        return None if known is None else frozenset(n for n in self._networks if known in n)

    @cached_property
    def _users(self) -> frozenset[str]:
        return frozenset(user.lower() for rule in self._rules for user in rule.subjects.users)

    @cached_property
    def _roles(self) -> frozenset[str]:
        return frozenset(role for rule in self._rules for role in rule.subjects.roles)

    @cached_property
    def _asks_for_mfa(self) -> bool:
        return any(rule.mfa for rule in self._rules)

    @cached_property
    def _reasons(self) -> frozenset[str]:
        return frozenset({BREAK_GLASS}.union(*(rule.reasons for rule in self._rules)))

    @cached_property
    def _globs(self) -> frozenset[re.Pattern[str]]:
        return frozenset(
            re.compile(".*".join(map(re.escape, rule.ticket.split("*"))), re.DOTALL)
            for rule in self._rules
            if rule.ticket is not None
        )

    @cached_property
    def _networks(self) -> frozenset[IPv4Network | IPv6Network]:
        return frozenset(network(text) for rule in self._rules for text in rule.networks)

    @cached_property
    def _moments(self) -> list[datetime]:
        ends = {moment for rule in self._rules for moment in (rule.starts_at, rule.ends_at)}
        return sorted(moment for moment in ends if moment is not None)

    @cached_property
    def _clocks(self) -> list[tuple[str, list[int]]]:
        """The minutes of the day at which windows begin and end, by their time zones."""
        minutes: dict[str, set[int]] = {}
        for window in (window for rule in self._rules for window in rule.windows):
            ends = map(minutes_of, (window.begins, window.ends))
            minutes.setdefault(window.tz, set()).update(ends)
        return [(zone, sorted(found)) for zone, found in sorted(minutes.items())]


def _class_of_time(zone: str, minutes: list[int], at: datetime) -> Hashable:
    local = at.astimezone(zone_of(zone))
    return local.weekday(), bisect_right(minutes, local.hour * 60 + local.minute)
