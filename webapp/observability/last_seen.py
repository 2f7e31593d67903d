"""When workers and beat were last seen at their work, for `/readyz`, `flask doctor` and `/metrics`.

The signs are in the database, so that each web host knows of all workers, wherever they run.
"""

from collections.abc import Iterable, Sequence
from math import inf
from threading import Lock
from time import monotonic

from flask import Flask
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from webapp.db.scopes import IdentityScope
from webapp.extensions import db
from webapp.observability.probes import CheckFailed, Probe, run_probes
from webapp.signs_of_life.service import SILENT, Kind, SignOfLife, read_all

REMEMBERED = 0.5
"""Seconds for which signs are not read again: those who ask at once share one query."""


class LastSeen:
    """The signs of life as an application's database has them."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._lock = Lock()
        self._signs: Sequence[SignOfLife] = ()
        self._read_at = -inf
        self._probe = Probe("signs of life", self._ask)

    def check(self, kind: Kind) -> str:
        """Say when a process of a kind was last seen; raises `CheckFailed` where none is alive."""
        signs = _of(kind, self._read())
        if not signs:
            raise CheckFailed("none has been seen")
        seen = f"seen {signs[0].age:.0f} s ago"
        if not signs[0].alive:
            raise CheckFailed(f"none is at work: the last one was {seen}")
        return seen

    def collect(self) -> Iterable[Metric]:
        """The ages of the signs that were read last, as metrics.

        There are none once the database is silent.
        """
        (asked,) = run_probes({"signs of life": self._probe}).values()
        if asked.ok:
            for kind in SILENT:
                yield GaugeMetricFamily(
                    f"sightline_{kind}_last_seen_seconds",
                    f"Seconds since a {kind} was last seen at its work, on any host.",
                    value=min((sign.age for sign in _of(kind, self._signs)), default=inf),
                )

    def _ask(self) -> None:
        self._read()

    def _read(self) -> Sequence[SignOfLife]:
        with self._lock:
            if monotonic() - self._read_at > REMEMBERED:
                with self._app.app_context(), db.scoped(IdentityScope()):
                    self._signs = read_all(db.session)
                self._read_at = monotonic()
            return self._signs


def _of(kind: Kind, signs: Sequence[SignOfLife]) -> list[SignOfLife]:
    return [sign for sign in signs if sign.kind == kind]
