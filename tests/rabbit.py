"""A RabbitMQ of a test's own: Debian's, set up with the files and commands that operators use."""

import os
import shlex
import signal
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import amqp
import pytest

from tests.docs.pages import blocks_of
from tests.processes import ROOT
from webapp.stack.servers import Server, free_port

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
"""Where Debian has them. Those in /usr/sbin change the user."""

PAGE = ROOT / "docs" / "operations" / "broker.md"
VHOST, USER, PASSWORD = "sightline", "sightline", "a-long-password"
"""As the page has them."""

STOPPED = 60
"""Seconds that a name server may take to end."""


def require_rabbitmq() -> None:
    """Skip the test where RabbitMQ is not installed. `make test` installs it for root on Debian."""
    if not (PROGRAMS / "rabbitmq-server").exists():
        pytest.skip("not run: RabbitMQ is not installed here (apt-get install rabbitmq-server)")


class RabbitServer(Server):
    """One node on loopback, with a name server of its own, that can be started again."""

    name = "rabbitmq"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, free_port())
        self._names_port = free_port()
        self._names: subprocess.Popen[bytes] | None = None
        (directory / "enabled_plugins").write_text("[].\n")
        self._environment = {
            "HOME": str(directory),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_NODENAME": f"test-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self._pid_file),
            # One scheduler that sleeps while there is nothing to do: others run beside it.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
                " -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{VHOST}"

    @property
    def _pid_file(self) -> Path:
        return self.directory / "rabbitmq.pid"

    def _command(self) -> list[str]:
        return self._with_environment("rabbitmq-server")

    def _with_environment(self, program: str, *arguments: str) -> list[str]:
        settings = [f"{name}={value}" for name, value in self._environment.items()]
        return ["env", *settings, str(PROGRAMS / program), *arguments]

    def _answers(self) -> bool:
        try:
            self.connect("guest", "guest", "/").close()
        except (OSError, amqp.AMQPError):
            return False
        return True

    def connect(
        self, user: str = USER, password: str = PASSWORD, vhost: str = VHOST
    ) -> amqp.Connection:
        connection = amqp.Connection(
            f"127.0.0.1:{self.port}", user, password, virtual_host=vhost, connect_timeout=5
        )
        connection.connect()
        return connection

    def start(self) -> None:
        if self._names is None:
            self._names = subprocess.Popen(
                ["epmd", "-address", "127.0.0.1", "-port", str(self._names_port)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        super().start()

    def set_up(self) -> None:
        """Run what the page tells operators to run once."""
        (page,) = [block for block in blocks_of(PAGE.read_text()) if block.kind == "rabbitmq"]
        for line in page.text.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "rabbitmqctl"
            self.control(*arguments)

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl`, and return what it prints."""
        command = self._with_environment("rabbitmqctl", "--quiet", *arguments)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def waiting(self, queue: str) -> int:
        """The number of messages in a queue that no worker has taken; 0 where there is no queue."""
        try:
            with closing(self.connect()) as connection:
                declared = connection.channel().queue_declare(queue, passive=True)
        except amqp.NotFound:
            return 0
        assert declared is not None
        return int(declared[1])

    def stop(self) -> None:
        self._end()
        self._end_names()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def restart(self) -> None:
        """End it in order and start it again.

        RabbitMQ 3.10 loses a quorum queue for good whose node is killed within three minutes of the
        queue's making, so nothing here kills it.
        """
        self._end()
        self.start()

    def _end(self) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        if self.process is not None:
            self.process.wait(STOPPED)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the whole group: the program is a shell that starts Erlang."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def _end_names(self) -> None:
        if self._names is not None:
            self._names.terminate()
            self._names.wait(STOPPED)
            self._names = None
