"""`flask doctor`: checks of everything that the service and its guarantees rest on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from celery import Celery
from flask import Flask, current_app
from marshmallow import ValidationError
from sqlalchemy import func
from sqlalchemy.exc import OperationalError

from webapp.audit import append
from webapp.audit.relay import drain
from webapp.audit.signing_keys import read_keys
from webapp.caching.generations import SKEW
from webapp.db import migrate
from webapp.db.privileges import find_differences
from webapp.db.replica import ReplicaUnusable
from webapp.db.replication import Replication, read_replication
from webapp.db.roles import UnsafeLoginRole, find_setting_differences, find_unlimited_logins
from webapp.db.scopes import (
    IdentityScope,
    LedgerScope,
    LogScope,
    MaintenanceScope,
    PolicyScope,
    SealingScope,
)
from webapp.extensions import db
from webapp.grants.notices import outbox
from webapp.hardening.connections import (
    Check,
    PlaintextHosts,
    check_database_tls,
    check_server_tls,
)
from webapp.hardening.files import mode_for_others
from webapp.http.addresses import IpNetwork
from webapp.identity.lookup import count_owners
from webapp.key_uses import service as key_uses
from webapp.ledger import completeness, search
from webapp.ledger.sealing.following import find_problem, this_host
from webapp.ledger.sealing.state import read_state
from webapp.ledger.sealing.store import read_problems
from webapp.ledger.sealing.witnesses import read_witness_problems
from webapp.observability.health import PROBES
from webapp.observability.probes import CheckFailed, run_probes
from webapp.rules.checks.findings import describe_connecting_address
from webapp.rules.lockout import are_mendable
from webapp.rules.models import RuleRow
from webapp.rules.rule_sets import load
from webapp.scope.lint import check_database
from webapp.server import half_requests
from webapp.settings import SettingsError, current_settings, secret_files
from webapp.signs_of_life.service import SignOfLife, read_all
from webapp.text import escaped
from webapp.version import VERSION

MAX_BACKLOG = 100
RECENT = timedelta(days=7)

PATIENCE = 5.0
"""Seconds for what `/readyz` asks within one, since no load balancer waits here."""


UNSEALED = 60.0
"""Seconds after which what is committed should have been sealed."""
FROZEN = 7_200.0
"""Seconds after which a log is frozen: it has a heartbeat each hour."""

WHAT_TO_DO = (
    "Was the database restored? Start the web processes or run `flask audit drain` on each web"
    " host, so that journals bring back what they have. Otherwise `flask ledger resume"
    " --after-restore` on a worker's host"
)

Part = Literal["host", "database"]
"""What checks are about: this host, or the installation as a whole, of which any host can tell."""


class NotChecked(Exception):
    """A check cannot be made from here; the text says why."""


@dataclass(frozen=True)
class Diagnosis:
    check: str
    ok: bool | None
    """`None` where it could not be checked."""
    detail: str


def diagnose(app: Flask, parts: Collection[Part] = ("database", "host")) -> list[Diagnosis]:
    """Run the checks of some parts. A check that fails does not stop the others.

    What this process reaches is always asked.
    """
    found = [
        Diagnosis(name, finding.ok, finding.detail)
        for name, finding in run_probes(app.extensions[PROBES], PATIENCE).items()
    ]
    checks = ((name, check) for part in parts for name, check in CHECKS[part].items())
    return [*found, *(_run(name, check) for name, check in checks)]


def _run(name: str, check: Callable[[], str]) -> Diagnosis:
    """Run one check, which returns a description or raises `CheckFailed` with what is wrong."""
    try:
        return Diagnosis(name, True, check())
    except NotChecked as error:
        return Diagnosis(name, None, str(error))
    except (CheckFailed, migrate.NotMigrated) as error:
        return Diagnosis(name, False, str(error))
    except OperationalError as error:
        return Diagnosis(name, False, _refusal(error))
    except Exception as error:  # an unforeseen failure must not stop the next check
        return Diagnosis(name, False, type(error).__name__)


def _refusal(error: OperationalError) -> str:
    """Why the database did not answer, in its own words where it has refused the login."""
    _, _, refused = str(error.orig).partition("FATAL:")
    said = refused.strip().partition("\n")[0]
    return f"the database says: {said}" if said else "the database does not answer"


def _check_login_role() -> str:
    try:
        db.reach()
    except UnsafeLoginRole as error:
        raise CheckFailed(str(error)) from error
    return "ok"


def _check_roles() -> str:
    with db.scoped(LedgerScope()):
        differences = find_differences(db.session)
    if differences:
        raise CheckFailed("; ".join(differences))
    return "ok"


def _check_role_settings() -> str:
    with db.scoped(LedgerScope()):
        found = find_setting_differences(db.session)
    if found:
        raise CheckFailed(f"{', '.join(found)}; `flask db roles` prints what they should be")
    return "ok"


def _check_connections() -> str:
    with db.scoped(LedgerScope()):
        found = find_unlimited_logins(db.session)
    if not found:
        return "ok"
    if current_settings().deployed:
        raise CheckFailed(f"{'; '.join(found)}: see DATABASE_CONNECTIONS")
    return "not limited, in development"


def _check_pooler() -> str:
    """Check that only the application goes through a pooler, which keeps no session's lock."""
    if current_settings().database_owner_url is not None:
        migrate.reach(current_settings())
    pooled = db.is_pooled()
    return "through a pooler: each transaction limits itself" if pooled else "connects directly"


def _check_owner() -> str:
    """Check that somebody who can log in holds the role that mends rules and roles."""
    with db.scoped(IdentityScope()):
        owners = count_owners(db.session)
    if not owners:
        raise CheckFailed("nobody: `flask users grant EMAIL owner`, then `flask tokens create`")
    return f"{owners} people" if owners > 1 else "1 person"


def _require_owner() -> None:
    if current_settings().database_owner_url is None:
        raise NotChecked("not checked: only the tables' owner can, see DATABASE_OWNER_URL")


def _check_tables() -> str:
    _require_owner()
    findings = check_database(current_settings())
    if findings:
        raise CheckFailed("; ".join(map(str, findings)))
    return "ok"


def _check_drift() -> str:
    _require_owner()
    drift = migrate.check(current_settings())
    if drift:
        raise CheckFailed("run `flask db check`")
    return "a later version's schema has what they need" if drift.later else "ok"


def _check_backlog() -> str:
    celery: Celery = current_app.extensions["celery"]
    with celery.connection_for_read() as broker:
        channel: Any = (
            broker.default_channel
        )  # its declared type has only what all transports share
        try:
            waiting = channel.queue_declare("audit", passive=True).message_count
        except broker.channel_errors:  # Redis has no key for an empty queue
            waiting = 0
    if waiting > MAX_BACKLOG:
        raise CheckFailed(f"{waiting} batches wait in the broker")
    return f"{waiting} batches wait in the broker"


def _check_left_events() -> str:
    """Check that no events of dead processes wait: web processes here adopt them within seconds."""
    left = drain.count_left(current_settings().journal_dir)
    if left.unreadable:
        raise CheckFailed(f"cannot be read: {', '.join(left.unreadable)}")
    waiting = f"{left.by_dead} events wait in files of dead processes"
    if left.by_dead:
        raise CheckFailed(f"{waiting}: run `flask audit drain`")
    return f"{waiting}, {left.by_living} in those of running ones"


def _check_ends() -> str:
    """Check that the ledger still has the last event of each journal of this host that it had."""
    with db.scoped(LedgerScope()):
        lost = completeness.find_lost_ends(db.session, current_settings().journal_dir)
    if lost:
        raise CheckFailed(
            f"it lacks the last events of {len(lost)} journals, after a restore or a failover:"
            " start the web processes or run `flask audit drain`, then `flask audit verify`"
        )
    return "ok"


def _check_replication() -> str:
    """Check what becomes of commits where the database's server or its disk fails."""
    settings = current_settings()
    with db.scoped(LedgerScope()):
        found = read_replication(db.session)
    if found.careless and settings.deployed:
        raise CheckFailed(f"{' and '.join(found.careless)} off: a crash loses commits")
    if not found.standbys:
        if found.synchronous:
            raise CheckFailed(f"commits wait for {found.synchronous}, and no standby is connected")
        return "no standby is connected: backups have what its disk may lose"
    if not found.synchronous:
        said = f"no commit waits for a standby: events of {settings.journal_keep:g} s come back"
    else:
        said = f"commits wait for {found.synchronous}"
    return f"{said}; {found.standbys} connected, {_describe_lag(found)}"


def _describe_lag(found: Replication) -> str:
    if found.behind is None:
        return "and how far behind the tables' owner may not see"
    lasted = f", {found.seconds:.1f} s" if found.seconds else ""
    return f"{found.behind} bytes{lasted} behind"


def _check_replica() -> str:
    """Check that this host can read from the replica, where one is set."""
    with db.scoped(LedgerScope()):
        try:
            behind = db.ask_replica()
        except ReplicaUnusable as error:
            raise CheckFailed(f"{error}: the primary is read instead") from error
    if behind is None:
        return "none is set: everything is read from the primary"
    return f"{behind} s behind" if behind else "less than a second behind"


def _check_quarantine() -> str:
    with db.scoped(LedgerScope()):
        total, recent = append.count_quarantined(db.session, RECENT)
    if recent:
        raise CheckFailed(f"{recent} deliveries of the last {RECENT.days} days, {total} in all")
    return f"{total} deliveries, none of the last {RECENT.days} days"


def _check_contradictions() -> str:
    with db.scoped(LedgerScope()):
        found = append.count_contradictions(db.session)
    if found:
        raise CheckFailed(f"{found} do: `flask audit verify` names them")
    return "none does"


def _check_sealed() -> str:
    """Check that workers seal what is committed."""
    with db.scoped(LogScope()):
        state = read_state(db.session)
    if state.unfit:
        raise CheckFailed(
            f"{state.unfit} events cannot be sealed: `flask ledger verify` names them"
        )
    if state.signed is None:
        return f"nothing is sealed yet, {state.waiting} events wait"
    said = f"{state.size} entries of {state.origin}, signed {state.signed:.0f} s ago"
    if state.waiting and state.signed > UNSEALED or state.signed > FROZEN:
        raise CheckFailed(f"{said}, and {state.waiting} events wait: are workers and beat at work?")
    return said


def _check_continued() -> str:
    """Check that no worker's host has found the database to contradict what was signed."""
    with db.scoped(SealingScope()):
        found = read_problems(db.session)
    if found:
        said = "; ".join(f"{problem.host}: {escaped(problem.problem)}" for problem in found)
        raise CheckFailed(f"nothing is signed any more. {said}. {WHAT_TO_DO}")
    return "every host's copy agrees"


def _check_witnesses() -> str:
    """Check that each witness has cosigned within the last hours."""
    named = [witness.name for witness in current_settings().witnesses]
    with db.scoped(SealingScope()):
        seen = read_state(db.session).witnesses
        problems = read_witness_problems(db.session, named)
    silent = [name for name in named if not 0 <= seen.get(name, -1) <= FROZEN]
    if silent or problems:
        said = [f"{name}: {problems.get(name, 'not asked yet')}" for name in {*silent, *problems}]
        raise CheckFailed(escaped("; ".join(sorted(said))))
    return f"{len(named)} do" if named else "none is configured"


def _check_copy() -> str:
    """Compare the database with this host's own copy of the log."""
    try:
        host = this_host(current_settings())
    except SettingsError:
        raise NotChecked("not checked: this is no worker's host") from None
    with db.scoped(SealingScope()):
        problem = find_problem(db.session, host)
    if problem:
        raise CheckFailed(f"{problem}. {WHAT_TO_DO}")
    return "yes"


def _check_partition() -> str:
    """Check that beat has made the next partition. Without it, a month's first event makes it."""
    *_, following = append.months_ahead(datetime.now(UTC).date())[:2]
    with db.scoped(LedgerScope()):
        if not append.has_partition(db.session, following):
            raise CheckFailed(f"there is none for {following:%Y-%m}: is beat running?")
    return f"{following:%Y-%m}"


def _check_clocks() -> str:
    """Check that clocks differ by SKEW at most, which the cache's freshness rests on."""
    with db.scoped(LedgerScope()):
        db.session.begin()
        before = datetime.now(UTC)
        there = search.current_moment(db.session)
        after = datetime.now(UTC)
    apart = max(before - there, there - after, timedelta())
    said = f"this host and the database are {apart.total_seconds():.3f} s apart"
    if apart > timedelta(seconds=SKEW):
        raise CheckFailed(f"{said}, more than {SKEW:g} s")
    return said


def _check_one_beat() -> str:
    """Check that only one beat is alive: two send each task twice."""
    beats = [sign for sign in _signs() if sign.kind == "beat"]
    alive = sum(sign.alive for sign in beats)
    if alive != 1:
        raise CheckFailed(f"{alive} do: {_describe(beats)}")
    return "1 does"


def _check_versions() -> str:
    """Check that living workers have the version of this process."""
    workers = [sign for sign in _signs() if sign.kind == "worker"]
    alive = [sign.version for sign in workers if sign.alive]
    if others := set(alive) - {VERSION}:
        named = ", ".join(sorted(map(escaped, others)))
        raise CheckFailed(f"this is {VERSION}, and there are {named}: {_describe(workers)}")
    return f"{len(alive)} of {VERSION}"


def _signs() -> Sequence[SignOfLife]:
    with db.scoped(IdentityScope()):
        return read_all(db.session)


def _describe(signs: Sequence[SignOfLife]) -> str:
    """Name each process, those that have fallen silent too."""
    named = (
        f"{escaped(sign.host)}:{sign.pid} {escaped(sign.version)}, {sign.age:.0f} s ago"
        for sign in signs
    )
    return "; ".join(named) or "none has been seen"


def _check_rules() -> str:
    with db.scoped(PolicyScope()):
        if not are_mendable():
            raise CheckFailed("no rule lets one: `flask rules import` a file that has it")
    return "ok"


def _check_addresses() -> str:
    """Check that rules that name networks see the client's address, and not a proxy's."""
    settings = current_settings()
    if settings.trusted_proxies is not None:
        return _describe_proxies(settings.trusted_proxies)
    count = len(load(func.cardinality(RuleRow.networks) > 0))
    if not count:
        return "no rule names a network"
    said = describe_connecting_address(count)
    if settings.deployed:
        raise CheckFailed(f"{said} (0: clients connect directly)")
    return said


def _describe_proxies(proxies: int | Sequence[IpNetwork]) -> str:
    if proxies == 0:
        return "clients connect directly"
    if isinstance(proxies, int):
        return f"behind {proxies} proxies" if proxies > 1 else "behind 1 proxy"
    return f"behind proxies in {', '.join(map(str, proxies))}"


def _check_notices() -> str:
    with db.scoped(MaintenanceScope()):
        given_up = outbox.count_given_up(RECENT)
    said = f"{given_up} given up in the last {RECENT.days} days"
    if given_up:
        raise CheckFailed(said)
    return said


def _check_slow_clients() -> str:
    """Check that the web answers beside half-sent requests, more than its processes have threads.

    It asks at PUBLIC_URL, so that a proxy in front of them is tried too.
    """
    settings = current_settings()
    try:
        answered = half_requests.is_answered_meanwhile(settings.public_url)
    except half_requests.NotReached as error:
        said = f"not tried: {settings.public_url} cannot be reached"
        if settings.deployed:
            raise CheckFailed(said) from error
        return said
    said = f"beside {half_requests.COUNT} half-sent requests"
    if not answered:
        raise CheckFailed(f"no answer {said}")
    return f"answered {said}"


def _check_operators() -> str:
    """Check who may read the metrics and the API's description."""
    settings = current_settings()
    if not settings.deployed:
        return "anybody may read /metrics and /docs in development"
    if settings.operations_token is None:
        raise CheckFailed("nobody may: OPERATIONS_TOKEN is not set, so that no alarm has numbers")
    return "whoever has OPERATIONS_TOKEN"


def _check_secret_files() -> str:
    named = secret_files()
    modes = {name: mode_for_others(path) for name, path in named.items()}
    readable = [f"{name} ({mode})" for name, mode in modes.items() if mode]
    if readable:
        raise CheckFailed(f"others may read those of {', '.join(readable)}")
    return f"{len(named)} secrets are in files"


def _check_keys() -> str:
    """Name each key that is set by its fingerprint, and the one that is accepted beside it."""
    with db.scoped(IdentityScope()):
        known = key_uses.read_known(db.session)
    said = []
    for name, keys in key_uses.key_rings(current_settings()).items():
        signing, *accepted = keys.fingerprints()
        unused = "" if (name, signing) in known else " (not used yet)"
        beside = "".join(f" (accepts {fingerprint})" for fingerprint in accepted)
        said.append(f"{name} {signing}{unused}{beside}")
    return ", ".join(said)


def _check_signing_key() -> str:
    """Check that what this process signs is believed."""
    try:
        key = current_settings().signing_key
    except SettingsError:
        raise NotChecked("not checked: JOURNAL_SIGNING_KEY is not set") from None
    with db.scoped(LedgerScope()):
        found = read_keys(db.session, [key.fingerprint]).get(key.fingerprint)
    if found is None or found.retired:
        state = "retired" if found else "not registered"
        raise CheckFailed(f"{key.fingerprint} is {state}: `flask ledger keys register`")
    return f"{key.fingerprint} is registered for {found.process}"


def _check_encryption() -> str:
    """Name what leaves this host in clear text, as PLAINTEXT_HOSTS and development allow it."""
    settings = current_settings()
    database, server = check_database_tls(PlaintextHosts()), check_server_tls(PlaintextHosts())
    connections = {
        "DATABASE_URL": (database, settings.database_url),
        "DATABASE_OWNER_URL": (database, settings.database_owner_url or settings.database_url),
        "DATABASE_REPLICA_URL": (database, settings.database_replica_url or settings.database_url),
        "REDIS_URL": (server, settings.redis_url),
        "CELERY_BROKER_URL": (server, settings.celery_broker_url),
    }
    if settings.sends_traces:
        traces = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": settings.otel_exporter_otlp_endpoint,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": settings.otel_exporter_otlp_traces_endpoint,
        }
        connections |= {name: (server, url) for name, url in traces.items() if url}
    plain = [name for name, (check, url) in connections.items() if not _passes(check, url)]
    if plain:
        return f"beyond this host these are not: {', '.join(plain)}"
    return "nothing leaves this host in clear text"


def _passes(check: Check, url: str) -> bool:
    try:
        check(url)
    except ValidationError:
        return False
    return True


CHECKS: Mapping[Part, Mapping[str, Callable[[], str]]] = {
    "database": {
        "roles may do what is declared": _check_roles,
        "roles have only their limits": _check_role_settings,
        "no login takes all connections": _check_connections,
        "tenant tables are closed": _check_tables,
        "models match the database": _check_drift,
        "workers take audit events": _check_backlog,
        "commits outlive the server": _check_replication,
        "no event is in quarantine": _check_quarantine,
        "no event contradicts another": _check_contradictions,
        "events are sealed": _check_sealed,
        "no host contradicts the log": _check_continued,
        "witnesses cosign": _check_witnesses,
        "next month's partition is there": _check_partition,
        "one beat sends tasks": _check_one_beat,
        "workers have this version": _check_versions,
        "somebody is an owner": _check_owner,
        "an owner may mend the rules": _check_rules,
        "notices arrive": _check_notices,
    },
    "host": {
        "login role owns nothing": _check_login_role,
        "migrations go past a pooler": _check_pooler,
        "the replica is read": _check_replica,
        "no dead process's events wait": _check_left_events,
        "the ledger has what it had": _check_ends,
        "the log continues its copy": _check_copy,
        "clocks agree": _check_clocks,
        "rules see clients' addresses": _check_addresses,
        "slow clients hold nobody up": _check_slow_clients,
        "operators read the metrics": _check_operators,
        "secrets' files are private": _check_secret_files,
        "keys are in use": _check_keys,
        "this key's events are believed": _check_signing_key,
        "connections are encrypted": _check_encryption,
    },
}
"""Each returns a description, or raises `CheckFailed` with what is wrong."""
