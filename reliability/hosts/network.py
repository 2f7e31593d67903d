"""The network between the hosts: a bridge, which can be cut, and be made lossy or slow."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network

ADDRESSES = IPv4Network("10.77.0.0/24")
HERE = str(ADDRESSES[1])
"""The address of the run itself, where its clients are. No fault cuts it off."""

PORT = "to-{}"
"""The name of a host's port at the bridge, by the host's."""

NETEM = ("netem", "delay", "60ms", "30ms")
QUEUE = ("tbf", "rate", "384kbit", "burst", "8kb", "latency", "2s")
"""What delays packets where the kernel has no netem: they queue before a narrow link."""


@dataclass(frozen=True)
class Cut:
    """Packets between two sets of hosts vanish, without a word to either."""

    one: frozenset[str]
    other: frozenset[str]
    percent: int = 100


class Network:
    def __init__(self) -> None:
        self._cuts: list[Cut] = []
        self._slow: set[str] = set()
        self.delay: tuple[str, ...] = NETEM
        _run("ip", "link", "add", "name", "hosts", "type", "bridge")
        _run("ip", "address", "add", f"{HERE}/{ADDRESSES.prefixlen}", "dev", "hosts")
        _run("ip", "link", "set", "hosts", "up")
        self._apply()

    def attach(self, name: str, address: str, namespace: str) -> None:
        """Connect a network namespace, given by its file, to the bridge."""
        port = PORT.format(name)
        _run("ip", "link", "add", "name", port, "type", "veth", "peer", "name", "new")
        _run("ip", "link", "set", port, "master", "hosts", "up")
        _run("ip", "link", "set", "new", "netns", namespace)
        inside = ("nsenter", f"--net={namespace}", "ip")
        _run(*inside, "link", "set", "new", "name", "eth0")
        _run(*inside, "address", "add", f"{address}/{ADDRESSES.prefixlen}", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "link", "set", "lo", "up")
        if self.delay == NETEM and not self._has_netem(port):
            self.delay = QUEUE

    def cut(self, one: Iterable[str], other: Iterable[str], percent: int = 100) -> Cut:
        """Lose so many percent of the packets between hosts, in both directions."""
        made = Cut(frozenset(one), frozenset(other), percent)
        self._cuts.append(made)
        self._apply()
        return made

    def slow(self, name: str) -> None:
        """Delay what is sent to a host."""
        self._slow.add(name)
        _run("tc", "qdisc", "replace", "dev", PORT.format(name), "root", *self.delay)

    def heal(self) -> None:
        """Let everything through again, at once."""
        self._cuts.clear()
        self._apply()
        for name in self._slow:
            _run("tc", "qdisc", "delete", "dev", PORT.format(name), "root")
        self._slow.clear()

    def _apply(self) -> None:
        lines = [rule for cut in self._cuts for rule in _rules(cut)]
        table = [
            "table bridge hosts",
            "delete table bridge hosts",
            "table bridge hosts {",
            "chain between {",
            "type filter hook forward priority 0;",
            *lines,
            "}",
            "}",
        ]
        _run("nft", "-f", "-", text="\n".join(table) + "\n")

    def _has_netem(self, port: str) -> bool:
        tried = subprocess.run(
            ["tc", "qdisc", "add", "dev", port, "root", *NETEM], capture_output=True, check=False
        )
        if tried.returncode == 0:
            _run("tc", "qdisc", "delete", "dev", port, "root")
        return tried.returncode == 0


def _rules(cut: Cut) -> Iterable[str]:
    chance = "" if cut.percent == 100 else f"numgen random mod 100 < {cut.percent} "
    for one, other in ((cut.one, cut.other), (cut.other, cut.one)):
        yield f"iifname {_ports(one)} oifname {_ports(other)} {chance}drop"


def _ports(names: Iterable[str]) -> str:
    return "{ " + ", ".join(f'"{PORT.format(name)}"' for name in sorted(names)) + " }"


def _run(*command: str, text: str | None = None) -> None:
    subprocess.run(command, input=text, text=True, check=True)
