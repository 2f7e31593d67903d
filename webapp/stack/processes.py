"""The Procfile's processes: `release` first, then the others until one of them ends."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import IO

from honcho.environ import parse_procfile
from honcho.manager import Manager

from webapp.stack import signing_keys
from webapp.stack.home import environment_of
from webapp.stack.terminal import complain, say

RELEASE = "release"
METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""Directory where processes keep their metrics, which `/metrics` and `cache stats` add up."""

WATCHED = {"worker", "beat"}
"""The processes of which `/readyz` says whether they are at work."""

READY = 60
"""Seconds to wait for the web server. After that, its own lines say what is wrong."""


SHUTDOWN = 20
"""Seconds that a process may take to end in order."""


class ProcfileError(Exception):
    pass


def metrics_directory(home: Path) -> Path:
    return home / "metrics"


def release(root: Path, environment: Mapping[str, str], *, quietly: bool = False) -> None:
    """Run the Procfile's release command, and register the keys of this stack's processes.

    Raises `ProcfileError` when the command fails.
    """
    run(root, shlex.split(_read(root)[RELEASE]), environment, quietly=quietly)
    signing_keys.register({**os.environ, **environment})


def run(
    root: Path, command: Sequence[str], environment: Mapping[str, str], *, quietly: bool = False
) -> None:
    """Run a command to its end; raises `ProcfileError` when it fails."""
    done = subprocess.run(
        command,
        cwd=root,
        env=_full(environment),
        stdout=subprocess.DEVNULL if quietly else None,
        check=False,
    )
    if done.returncode:
        raise ProcfileError(f"`{shlex.join(command)}` failed")


@contextmanager
def running(
    root: Path, environment: Mapping[str, str], names: Iterable[str], logs: Path
) -> Iterator[None]:
    """Run some of the processes, each with its output in a file of its own, until the block ends.

    Raises `ProcfileError` where the web server is not ready in time.
    """
    commands = _read(root)
    with ExitStack() as started:
        for name in names:
            log = started.enter_context((logs / f"{name}.log").open("wb"))
            command = shlex.split(commands[name])
            own = environment_of(name, environment)
            started.enter_context(_process(root, command, _full(own), log))
        missing = WATCHED - set(names)
        if not _becomes_ready(f"http://127.0.0.1:{environment['PORT']}", missing):
            raise ProcfileError(f"the web server is not ready:\n{_tail(logs / 'web.log')}")
        yield


@contextmanager
def _process(
    root: Path, command: list[str], environment: Mapping[str, str], log: IO[bytes]
) -> Iterator[None]:
    # A session of its own: Ctrl-C is for us, and we stop it in order.
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(SHUTDOWN)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def supervise(root: Path, environment: Mapping[str, str], home: Path) -> int:
    """Run the processes until Ctrl-C, SIGTERM or the end of any; all have ended on return."""
    metrics = metrics_directory(home)
    shutil.rmtree(metrics, ignore_errors=True)  # metrics of processes that have ended
    metrics.mkdir(parents=True)
    env = _full(environment) | {
        METRICS: str(metrics),
        "PYTHONUNBUFFERED": "1",
        # Celery warns root, as whom containers and small machines run everything.
        "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges",
    }
    manager = Manager()
    for name, command in _read(root).items():
        if name != RELEASE:
            # `exec` replaces the shell, so that a signal reaches the process itself.
            own = environment_of(name, env)
            manager.add_process(name, f"exec {command}", env=own, cwd=str(root))
    url = f"http://127.0.0.1:{environment['PORT']}"
    Thread(target=_announce, args=(url, home), daemon=True).start()
    manager.loop()
    asked = manager.returncode in (130, 143)
    return 0 if asked else 1


def _announce(url: str, home: Path) -> None:
    if _becomes_ready(url):
        say(_welcome(url, home / "demo.json"))
    else:
        complain("not ready after a minute; the lines above say why")


def _welcome(url: str, tokens: Path) -> str:
    lines = [f"Sightline is ready at {url}", ""]
    if tokens.exists():
        lines += [
            "  First access   .venv/bin/flask --app wsgi demo access",
            f"  Tokens         {_short(tokens)}",
        ]
    lines += [
        f"  API            {url}/docs",
        "  Its story      make demo, in another terminal",
        "  Stop           Ctrl-C",
    ]
    return "\n".join(["", *lines, ""])


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _becomes_ready(url: str, missing: Collection[str] = ()) -> bool:
    """Wait until everything is well but the processes that are not to be there."""
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline:
        if _is_ready(url, missing):
            return True
        time.sleep(0.1)
    return False


def _is_ready(url: str, missing: Collection[str]) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310 - our own, http
            checks = json.load(answer)["checks"]
            return all(check["ok"] for name, check in checks.items() if name not in missing)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])


def _read(root: Path) -> dict[str, str]:
    processes: dict[str, str] = parse_procfile((root / "Procfile").read_text()).processes
    return processes


def _full(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment with the stack's, and this interpreter's programs first in PATH."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    return os.environ | dict(environment) | {"PATH": path}
