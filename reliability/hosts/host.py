"""A host: an address, a name, a disk, and the processes that run there."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from reliability.hosts.network import ADDRESSES, Network
from reliability.parts import Part


class Host:
    """A namespace of the network and of its own name, with a directory for its disk."""

    def __init__(self, name: str, number: int, home: Path, network: Network) -> None:
        self.name = name
        self.address = address_of(number)
        self.disk = home / name
        self.parts: list[Part] = []
        """What runs here, in the order in which it is started."""
        self._net, self._uts = (home / f"{name}.{kind}" for kind in ("net", "uts"))
        for file in (self._net, self._uts):
            file.touch()
        made = ["unshare", f"--net={self._net}", f"--uts={self._uts}", "hostname", name]
        subprocess.run(made, check=True)
        network.attach(name, self.address, str(self._net))
        self.disk.mkdir()

    @property
    def inside(self) -> Sequence[str]:
        """The prefix of a command that runs on this host."""
        return ("nsenter", f"--net={self._net}", f"--uts={self._uts}")

    def run(self, *command: str) -> None:
        subprocess.run([*self.inside, *command], check=True, capture_output=True)

    def die(self) -> None:
        """Lose the power: everything on it is gone at once, but for the disk."""
        for part in self.parts:
            part.kill()

    def lose_disk(self) -> None:
        """Empty the disk of a host that is dead."""
        shutil.rmtree(self.disk)
        self.disk.mkdir()

    def come_back(self) -> None:
        for part in self.parts:
            part.restart()


def address_of(number: int) -> str:
    return str(ADDRESSES[10 + number])


def names_of(addresses: Mapping[str, str]) -> str:
    """The lines of /etc/hosts."""
    return "".join(f"{address} {name}\n" for name, address in addresses.items())
