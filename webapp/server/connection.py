"""A client's connection, on which no thread ever waits for the client."""

from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from errno import EPIPE
from select import POLLOUT, poll
from socket import SHUT_WR, socket
from time import monotonic
from typing import Any

from gunicorn.config import Config
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.workers.gthread import TConn
from werkzeug.exceptions import RequestEntityTooLarge

from webapp.http.held import HeldAnswer
from webapp.server.framing import Framing

RECEIVED = 64 * 1024
"""Bytes that are received at once."""

AHEAD = 2**20
"""Bytes that an answer which is sent in parts may be ahead of its client."""

PATIENCE = 60.0
"""Seconds that the client has for them, while the thread that makes the answer waits."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Phase(Enum):
    """What a connection with a client waits for."""

    IDLE = "the first byte of a request"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"
    ANSWER = "a client that has to read its answer"
    CLOSING = "a client that has to close"


class BufferedSocket:
    """The socket that gunicorn's parser and response use in a thread.

    The parser gets the bytes of one request, which have all arrived. Of an answer, what the client
    does not take at once is kept, and all of it while the application holds it back.
    """

    def __init__(self, client: socket, can_hold: Callable[[], bool]) -> None:
        self._client = client
        self.can_hold = can_hold
        self._request = b""
        self._all_is_here = True
        self._refusal: type[Exception] = LimitRequestHeaders
        self._answered = False
        self.unsent = bytearray()
        self.held: HeldAnswer | None = None

    def open_request(self, data: bytes, *, has_head: bool, ended: bool) -> None:
        """Let the parser read `data`. `ended`: the client sends nothing more."""
        self._request = data
        self._all_is_here = ended
        self._refusal = RequestEntityTooLarge if has_head else LimitRequestHeaders
        self._answered = False

    def recv(self, size: int) -> bytes:
        """The next bytes of the request.

        Whoever wants more than has arrived reads a request that is too long. Once that is answered,
        gunicorn's parser closes the connection at a `TimeoutError`.
        """
        data, self._request = self._request[:size], self._request[size:]
        if data or self._all_is_here:
            return data
        if self._answered:
            raise TimeoutError
        raise _refuse(self._refusal)

    def sendall(self, data: bytes) -> None:
        self._answered = True
        if len(self.unsent) > AHEAD and self.held is None:
            self._wait_for_client()
        sent = 0 if self.unsent or self.held is not None else self._send(data)
        if sent < len(data):
            self.unsent += memoryview(data)[sent:]

    def _wait_for_client(self) -> None:
        """Wait until the client has taken what is kept; raises `OSError` where it does not.

        An answer that is there as a whole comes at once, and never waits. One that is made while it
        is sent would fill the memory otherwise.
        """
        writable, ends = poll(), monotonic() + PATIENCE
        writable.register(self._client, POLLOUT)
        while self.unsent:
            left = ends - monotonic()
            if left <= 0 or not writable.poll(left * 1000):
                raise BrokenPipeError(EPIPE, "the client does not take its answer")
            self.flush()

    def hold(self, answer: HeldAnswer) -> None:
        """Keep back what is sent from now on, as `webapp.http.held` describes."""
        self.held = answer

    def decide(self) -> bool:
        """Decide about what was held back; return whether it leaves as it is."""
        held, self.held = self.held, None
        replaced = None if held is None else held.decide()
        if replaced is not None:
            self.unsent[:] = replaced
        return replaced is None

    def send(self, data: bytes) -> int:
        """Leave out `100 Continue`, the one thing that gunicorn sends so: it was sent earlier."""
        return len(data)

    def flush(self) -> None:
        """Send what is kept, as far as the client takes it."""
        if self.unsent:
            del self.unsent[: self._send(self.unsent)]

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._client.send(data)
        except BlockingIOError:
            return 0

    def shutdown(self, how: int) -> None:
        """Do nothing: the worker ends the connection once the answer has left."""

    def close(self) -> None:
        """Do nothing, as above."""

    def setblocking(self, flag: bool) -> None:
        """Do nothing: the client's socket never blocks."""

    def settimeout(self, seconds: float | None) -> None:
        """Do nothing, as above."""

    def gettimeout(self) -> float:
        return 0.0


class Connection(TConn):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's connection, with what has arrived of the next request.

    `address` is whom it counts for, if there is a limit for the client's address.
    """

    timeout: float
    """When its phase ends, as `monotonic` counts."""

    def __init__(
        self,
        cfg: Config,
        client: socket,
        peer: Any,
        server: Any,
        *,
        address: str | None,
        max_body: int,
        can_hold: Callable[[], bool],
    ) -> None:
        client.setblocking(False)
        self._client = client
        self._max_body = max_body
        self._buffered = BufferedSocket(client, can_hold)
        super().__init__(cfg, self._buffered, peer, server)
        self.data_ready = True  # a thread gets it with a request
        self.address = address
        self.phase: Phase | None = None
        self.closing = False
        """Whether it ends once the client has its answer."""
        self.ended = False
        """Whether the client sends nothing more."""
        self._incoming = bytearray()
        self._framing = Framing(self._incoming, max_body)

    def fileno(self) -> int:
        return self._client.fileno()

    @property
    def held(self) -> int:
        """The bytes kept in memory."""
        return len(self._incoming) + len(self._buffered.unsent)

    def waits_for(self) -> Phase:
        if self._buffered.unsent:
            return Phase.ANSWER
        if self.closing:
            return Phase.CLOSING
        if self._framing.has_head:
            return Phase.BODY
        return Phase.HEAD if self._incoming else Phase.IDLE

    @property
    def has_unsent(self) -> bool:
        return bool(self._buffered.unsent)

    @property
    def held_answer(self) -> HeldAnswer | None:
        return self._buffered.held

    def decide(self) -> None:
        """Let a held answer leave, or what leaves in its place."""
        if not self._buffered.decide():
            self.closing = True
        self._buffered.flush()

    def receive(self) -> None:
        """Take what has arrived; raises `OSError` where the connection is broken."""
        try:
            data = self._client.recv(RECEIVED)
        except BlockingIOError:
            return
        if not data:
            self.ended = True
        elif not self.closing:
            self._incoming += data

    def flush(self) -> None:
        """Send what is left of an answer; raises `OSError` where the connection is broken."""
        self._buffered.flush()

    def take_request(self) -> bool:
        """Give the next request to the parser, if all of it has arrived."""
        framing = self._framing
        if not self._incoming:
            return False
        end = framing.end()
        if end is None:
            if framing.has_head and self.ended:
                end = len(self._incoming)  # the parser says what is missing
            else:
                self._invite_body()
                return False
        data = bytes(self._incoming[:end])
        del self._incoming[:end]
        self.closing = not framing.followed
        self._buffered.open_request(data, has_head=framing.has_head, ended=self.ended)
        self._framing = Framing(self._incoming, self._max_body)
        return True

    def _invite_body(self) -> None:
        if self._framing.awaits_continue:
            self._framing.awaits_continue = False
            self._client.send(CONTINUE)

    def finish(self, *, keep: bool) -> None:
        """Go on after an answer. Bytes that the parser did not want end the connection."""
        unread = self.parser is not None and self.parser.unreader.take_buffered()
        self.closing = self.closing or not keep or bool(unread)
        if self.closing:
            self._incoming.clear()

    def try_to_send(self, answer: bytes) -> None:
        """Send as much of a last answer as the client takes at once."""
        with suppress(OSError):
            self._client.send(answer)

    def say_goodbye(self) -> None:
        """Tell the client that nothing more comes; raises `OSError` where it is gone."""
        self._client.shutdown(SHUT_WR)

    def close(self, graceful: bool = False) -> None:
        self._client.close()


def _refuse(kind: type[Exception]) -> Exception:
    if kind is LimitRequestHeaders:
        return LimitRequestHeaders("the head is too long")
    return kind()
