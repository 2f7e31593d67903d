"""The connections that wait for their clients, and which of them have to go."""

from collections import defaultdict
from collections.abc import Iterator

from webapp.server.connection import Connection

ADDRESS_MAX = 256
"""Connections of one address that may wait in a process."""

HELD_MAX = 64 * 2**20
"""Bytes of unfinished requests and unread answers that a process keeps."""


class WaitingConnections:
    """Connections by how long they have waited: the first of them waits longest."""

    def __init__(self) -> None:
        self._held: dict[Connection, int] = {}
        self._by_address: defaultdict[str | None, dict[Connection, None]] = defaultdict(dict)
        self._total = 0

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._held

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._held))

    def put(self, connection: Connection) -> None:
        """Add a connection, or count anew what it holds. It keeps its place."""
        held = connection.held
        self._total += held - self._held.get(connection, 0)
        self._held[connection] = held
        self._by_address[connection.address][connection] = None

    def remove(self, connection: Connection) -> None:
        self._total -= self._held.pop(connection)
        of_address = self._by_address[connection.address]
        del of_address[connection]
        if not of_address:
            del self._by_address[connection.address]

    def longest(self) -> Connection | None:
        return next(iter(self._held), None)

    def surplus(self, address: str | None) -> Connection | None:
        """The longest waiting connection of an address that has too many of them."""
        of_address = self._by_address.get(address, {})
        if address is None or len(of_address) <= ADDRESS_MAX:
            return None
        return next(iter(of_address))

    def largest_of_too_much(self) -> Connection | None:
        """The connection that holds most, where all together hold too much."""
        if self._total <= HELD_MAX:
            return None
        return max(self._held, key=self._held.__getitem__)
