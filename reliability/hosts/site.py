"""All hosts of a run, and what runs on which."""

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Literal
from unittest import mock

import requests
from flask import Flask

from reliability.hosts.brokers import Broker, HostedRedis, RabbitBroker, RedisBroker, SentinelBroker
from reliability.hosts.database import ADDRESS, NAME, PORT, Database, HostedPostgres
from reliability.hosts.enclosure import furnish, program
from reliability.hosts.host import Host, address_of, names_of
from reliability.hosts.network import ADDRESSES, Network
from reliability.parts import ProcessPart, await_until, is_ok, is_wholly_ready
from tests.applications import let_staff_access
from tests.processes import ROOT, command_of, no_settings_of_the_caller
from webapp.application import create_app
from webapp.db import migrate
from webapp.db.roles import LOGINS, login_role
from webapp.extensions import db
from webapp.settings import read_settings
from webapp.stack import signing_keys
from webapp.stack.home import LOGIN_URLS, SIGNING_KEYS, environment_of
from webapp.stack.servers import NOBODY_ID, OWNER_ROLE, unprivileged

BrokerKind = Literal["redis", "rabbitmq", "sentinel"]
POOLER = 6432
WEB = 8000
READINESS = 3.0
"""Seconds that a host may take to say whether it is ready."""

ANSWERS = 4
"""Requests in a row that each web process of a host has to answer well."""

FRONT_NAMES = ("web-1", "web-2")
"""The hosts that deploy/haproxy.cfg names. A site that lacks one has nobody at its address."""

NOBODY = str(ADDRESSES[201])

POOL_NAME = "pool-1"
FRONT_NAME = "front-1"
CACHE_NAME = "cache-1"


@dataclass(frozen=True)
class Layout:
    """How many hosts there are of each kind."""

    webs: int = 2
    workers: int = 2
    broker: BrokerKind = "rabbitmq"
    concurrency: int = 2
    """Processes of each web host and each worker host."""

    @property
    def names(self) -> Sequence[str]:
        nodes = {
            "redis": ["redis-1", CACHE_NAME],
            "rabbitmq": ["rabbit-1", "rabbit-2", "rabbit-3", CACHE_NAME],
            "sentinel": ["redis-1", "redis-2", "redis-3"],
        }
        return (
            *(FRONT_NAME, POOL_NAME, "pg-1", "pg-2"),
            *(f"web-{number + 1}" for number in range(self.webs)),
            *(f"worker-{number + 1}" for number in range(self.workers)),
            *nodes[self.broker],
        )


@dataclass(frozen=True)
class WebHost:
    host: Host
    part: ProcessPart
    journal: Path
    environment: dict[str, str]
    """What its processes are told at their next start."""

    @property
    def url(self) -> str:
        return f"http://{self.host.name}:{WEB}"

    def is_ready(self) -> bool:
        return all(is_wholly_ready(f"{self.url}/readyz") for _ in range(ANSWERS))

    def metrics(self) -> dict[str, float]:
        """The metrics of this host that have no labels."""
        bearer = {"Authorization": f"Bearer {self.environment['OPERATIONS_TOKEN']}"}
        answer = requests.get(f"{self.url}/metrics", headers=bearer, timeout=READINESS)
        answer.raise_for_status()
        lines = (line.split(" ") for line in answer.text.splitlines() if line[0] != "#")
        return {name: float(value) for name, value in lines if "{" not in name}


@dataclass(frozen=True)
class Site:
    app: Flask
    """Reads the product's database, and takes no requests."""
    environment: Mapping[str, str]
    """What a command of the product is told on this machine."""
    url: str
    certificate: Path
    network: Network
    hosts: Mapping[str, Host]
    database: Database
    broker: Broker
    front: ProcessPart
    pooler: ProcessPart
    webs: tuple[WebHost, ...]
    workers: tuple[Host, ...]
    """The first one has beat too."""

    def others(self, *names: str) -> list[str]:
        """Every host but those named."""
        return [name for name in self.hosts if name not in names]

    def restore(self) -> None:
        """Repair the network, and start what is dead or stopped."""
        self.network.heal()
        for server in (self.database.primary, self.database.standby):
            server.part.restart()
        for host in self.hosts.values():
            host.come_back()

    def await_well(self) -> None:
        """Wait until each host does its work."""
        await_until("the broker is not well", self.broker.is_well)
        self.database.await_standby()
        for web in self.webs:
            await_until(f"{web.host.name} is not ready", web.is_ready)
        await_until("the front has no host", lambda: self.front_counts() == len(self.webs))

    def tell_front(self, command: str) -> str:
        """Give HAProxy a command, and return its answer."""
        with socket(AF_UNIX) as connection, connection.makefile("rw") as lines:
            connection.settimeout(READINESS)
            connection.connect(str(self.hosts[FRONT_NAME].disk / "admin.sock"))
            lines.write(f"{command}\n")
            lines.flush()
            return lines.read()

    def front_counts(self) -> int:
        """The number of hosts that the front sends requests to."""
        lines = self.tell_front("show stat").splitlines()
        return sum(line.startswith("sightline,web-") and ",UP," in line for line in lines)


@contextmanager
def running_site(home: Path, layout: Layout, report: Callable[[str], object]) -> Iterator[Site]:
    """Set up and start all hosts. Their end is that of the namespaces around this process."""
    furnish(home, names_of(_addresses(layout)))
    network = Network()
    hosts = {name: Host(name, number, home, network) for number, name in enumerate(layout.names)}
    with no_settings_of_the_caller():
        site = _build(home, layout, network, hosts, report)
        try:
            yield site
        finally:
            with site.app.app_context():
                db.engine.dispose()


def _addresses(layout: Layout) -> dict[str, str]:
    named = {name: address_of(number) for number, name in enumerate(layout.names)}
    return {NAME: ADDRESS, **dict.fromkeys(FRONT_NAMES, NOBODY), **named}


def _build(
    home: Path,
    layout: Layout,
    network: Network,
    hosts: Mapping[str, Host],
    report: Callable[[str], object],
) -> Site:
    passwords = {login_role(process): secrets.token_urlsafe(24) for process in LOGINS}
    owner = secrets.token_urlsafe(24)
    superuser = secrets.token_urlsafe(24)
    report("PostgreSQL, its standby and the pooler start")
    servers = (HostedPostgres(hosts["pg-1"], superuser), HostedPostgres(hosts["pg-2"], superuser))
    database = Database(servers, [hosts[POOL_NAME]])
    database.start(owner, passwords)
    pooler = _pooler(hosts[POOL_NAME], passwords)
    broker = _broker(layout, hosts)
    environment = {
        **_environment(passwords, owner),
        **_cache(hosts),
        **broker.settings,
        "PLAINTEXT_HOSTS": ",".join([NAME, *hosts, str(ADDRESSES)]),
        "WEB_CONCURRENCY": str(layout.concurrency),
    }
    pooler.start()
    report("cache and broker start")
    broker.start()
    direct = {
        **environment,
        "DATABASE_URL": _url("commands", passwords["sightline_commands"], NAME, PORT),
        "SIGHTLINE_HOME": str(home),
    }
    with mock.patch.dict(os.environ, direct):
        settings = read_settings()
    migrate.upgrade(settings)
    signing_keys.register(direct)
    app = create_app(settings)
    let_staff_access(app)
    webs = tuple(_web(hosts[name], environment) for name in hosts if name.startswith("web-"))
    workers = tuple(host for name, host in hosts.items() if name.startswith("worker-"))
    for number, host in enumerate(workers):
        _add_worker(host, environment, layout.concurrency, with_beat=number == 0)
    front, certificate = _front(home, hosts[FRONT_NAME])
    report("web hosts, workers and the front start")
    for host in (*workers, *(web.host for web in webs), hosts[FRONT_NAME]):
        host.come_back()
    site = Site(
        app=app,
        environment=direct,
        url=f"https://{FRONT_NAME}",
        certificate=certificate,
        network=network,
        hosts=hosts,
        database=database,
        broker=broker,
        front=front,
        pooler=pooler,
        webs=webs,
        workers=workers,
    )
    site.await_well()
    return site


def _environment(passwords: Mapping[str, str], owner: str) -> dict[str, str]:
    """What all processes of the product are told, wherever they are."""
    urls = {
        process: _url(process, passwords[login_role(process)], POOL_NAME, POOLER)
        for process in LOGINS
    }
    return {
        "SIGHTLINE_ENV": "production",
        "SECRET_KEY": secrets.token_urlsafe(48),
        **{name: secrets.token_urlsafe(32) for name in SIGNING_KEYS.values()},
        "OPERATIONS_TOKEN": secrets.token_urlsafe(48),
        "LOG_SIGNING_KEY": secrets.token_urlsafe(32),
        "LOG_ORIGIN": "sightline.example/log",
        "DATABASE_URL": urls["commands"],
        **{variable: urls[name] for name, variable in LOGIN_URLS.items() if name in urls},
        "DATABASE_OWNER_URL": f"postgresql://{OWNER_ROLE}:{owner}@{NAME}:{PORT}/sightline",
        "TRUSTED_PROXIES": "1",
        "RATE_LIMIT_DENIED": "0",  # the load is refused all the time, to see that recorded
    }


def _url(process: str, password: str, host: str, port: int) -> str:
    return f"postgresql://sightline_{process}:{password}@{host}:{port}/sightline"


def _cache(hosts: Mapping[str, Host]) -> dict[str, str]:
    """Start the cache where it has a host of its own, and return what the product is told of it."""
    if CACHE_NAME not in hosts:
        return {}
    cache = HostedRedis(hosts[CACHE_NAME], secrets.token_urlsafe(24), durable=False)
    hosts[CACHE_NAME].parts.append(cache.part)
    cache.start()
    return {"REDIS_URL": cache.url}


def _broker(layout: Layout, hosts: Mapping[str, Host]) -> Broker:
    if layout.broker == "redis":
        return RedisBroker(hosts["redis-1"], secrets.token_urlsafe(24))
    if layout.broker == "sentinel":
        return SentinelBroker([host for name, host in hosts.items() if name.startswith("redis-")])
    nodes = [host for name, host in hosts.items() if name.startswith("rabbit-")]
    return RabbitBroker(nodes)


def _web(host: Host, environment: Mapping[str, str]) -> WebHost:
    journal = host.disk / "journal"
    own = environment_of("web", environment)
    own |= {"JOURNAL_DIR": str(journal), "PORT": str(WEB)}
    part = _product_part("web", host, own, lambda: is_ok(f"http://{host.name}:{WEB}/healthz"))
    host.parts.append(part)
    return WebHost(host, part, journal, own)


def _add_worker(
    host: Host, environment: Mapping[str, str], concurrency: int, *, with_beat: bool
) -> None:
    options = ("--concurrency", str(concurrency))
    own = environment_of("worker", environment)
    host.parts.append(_product_part("worker", host, own, options=options))
    if with_beat:
        host.parts.append(_product_part("beat", host, own))


def _product_part(
    name: str,
    host: Host,
    environment: dict[str, str],
    answers: Callable[[], bool] = lambda: True,
    options: Sequence[str] = (),
) -> ProcessPart:
    """One of the Procfile's processes, on a host. `environment` is read at each start."""
    temporary = host.disk.parent / f"{host.name}.tmp"  # killed processes clear nothing away
    temporary.mkdir(exist_ok=True)
    environment |= {"TMPDIR": str(temporary), "SIGHTLINE_HOME": str(temporary)}
    log = host.disk.with_name(f"{host.name}.{name}.log")
    return ProcessPart([*host.inside, *command_of(name), *options], environment, log, answers)


def _pooler(host: Host, passwords: Mapping[str, str]) -> ProcessPart:
    """PgBouncer with deploy/pgbouncer.ini as it is, but for where its files are."""
    lines = [f'"{login}" "{password}"\n' for login, password in passwords.items()]
    (host.disk / "userlist.txt").write_text("".join(lines))
    places = {"/run/pgbouncer": str(host.disk), "/etc/pgbouncer": str(host.disk)}
    configuration = _deployed("pgbouncer.ini", host, places)
    for path in (host.disk, *host.disk.iterdir()):
        os.chown(path, NOBODY_ID, NOBODY_ID)
    command = [*host.inside, *unprivileged(), program("pgbouncer"), str(configuration)]
    part = ProcessPart(command, {}, host.disk.with_suffix(".log"))
    host.parts.append(part)
    return part


def _front(home: Path, host: Host) -> tuple[ProcessPart, Path]:
    """HAProxy with deploy/haproxy.cfg as it is, but for where its files are."""
    certificate, key = home / "tls.crt", home / "tls.key"
    made = [*("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=front")]
    made += ["-addext", f"subjectAltName=DNS:{FRONT_NAME}"]
    subprocess.run(
        [*made, "-out", str(certificate), "-keyout", str(key)], check=True, capture_output=True
    )
    (host.disk / "tls.pem").write_text(certificate.read_text() + key.read_text())
    places = {"/run/haproxy": str(host.disk), "/etc/sightline": str(host.disk)}
    configuration = _deployed("haproxy.cfg", host, places)
    command = [*host.inside, program("haproxy"), "-db", "-f", str(configuration)]
    answers = (host.disk / "admin.sock").exists
    part = ProcessPart(command, {}, host.disk.with_suffix(".log"), answers)
    host.parts.append(part)
    return part, certificate


def _deployed(name: str, host: Host, places: Mapping[str, str]) -> Path:
    text = (ROOT / "deploy" / name).read_text()
    for place, here in places.items():
        assert place in text, f"deploy/{name} has nothing in {place}"
        text = text.replace(place, here)
    written = host.disk / name
    written.write_text(text)
    return written
