"""The namespaces of a run's own, in which hosts are made: of the network, mounts and processes.

All of it is gone with the run's first process, whatever ends that: the kernel ends every process
in there, and takes down every interface, rule and mount.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.processes import ROOT

PROGRAMS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "haproxy": "haproxy",
    "pgbouncer": "pgbouncer",
    "openssl": "openssl",
}
"""What a run needs, by the package that has it."""

PLACES = os.pathsep.join(["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"])
ENCLOSED = (
    *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid"),
    *("--fork", "--kill-child", "--mount-proc"),
)
TRIAL = """
set -e
ip link add name bridge0 type bridge
ip link add name one0 type veth peer name other0
nft add table bridge hosts
mount -t tmpfs none /dev/shm
touch /dev/shm/nobodys
chown 65534:65534 /dev/shm/nobodys
"""
"""What a run does: PostgreSQL and PgBouncer run as `nobody`."""

ENDED = 30.0


class NoHosts(Exception):
    """This machine lets nobody make hosts; the message says why."""


def program(name: str) -> str:
    found = shutil.which(name, path=PLACES)
    if found is None:
        raise NoHosts(f"{name} is not installed: `apt-get install {PROGRAMS[name]}`")
    return found


def require_hosts() -> None:
    """Raise `NoHosts` where no hosts can be made."""
    if sys.platform != "linux":
        raise NoHosts("hosts are network namespaces, which only Linux has")
    if os.geteuid() != 0:
        raise NoHosts("only root may make network namespaces")
    for name in PROGRAMS:
        program(name)
    tried = subprocess.run(
        [*ENCLOSED, "sh", "-c", TRIAL], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        said = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NoHosts(f"this kernel, or the container around this, makes no hosts: {said}")


def run_enclosed(arguments: Sequence[str]) -> int:
    """Run this program in namespaces of its own, and leave nothing of it behind.

    Returns its exit code. It is given `--inside` and a directory, which is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="sightline-hosts-") as home:
        command = [
            *("setpriv", "--pdeathsig=KILL", *ENCLOSED),
            *(sys.executable, "-m", "reliability.hosts", "--inside", home, *arguments),
        ]
        enclosed = subprocess.Popen(command, cwd=ROOT)
        try:
            return enclosed.wait()
        finally:
            _end(enclosed)


def furnish(home: Path, names: str) -> None:
    """Give the namespaces a loopback, shared memory of their own, and the names of the hosts."""
    hosts = home / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{names}")
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["mount", "-t", "tmpfs", "none", "/dev/shm"],  # noqa: S108 - its own from here on
        ["mount", "--bind", str(hosts), "/etc/hosts"],
    ):
        subprocess.run(command, check=True)


def _end(enclosed: subprocess.Popen[bytes]) -> None:
    """End the first process in there, and with it all of them."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(enclosed.pid).children()
        for process in first:
            process.kill()
        psutil.wait_procs(first, ENDED)
    enclosed.kill()
    enclosed.wait()
