"""The `worker_class` of gunicorn.conf.py: threads only ever get requests that are all here.

gunicorn's own threads read a request as it arrives and send an answer as it is taken, so that as
many slow clients as there are threads would stop a process. Here the process's main thread does
both, for all connections at once, and ends those whose client is too slow.
"""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from errno import EAGAIN, ECONNABORTED, EMFILE, ENFILE, EWOULDBLOCK
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from socket import socket
from time import monotonic
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from webapp.http.addresses import address, site
from webapp.http.held import HeldAnswer
from webapp.http.proxies import is_proxy
from webapp.observability import metrics
from webapp.observability.answered import UNMATCHED
from webapp.server.connection import Connection, Phase
from webapp.server.problems import ErrorPageReplacement, problem
from webapp.server.waiting import WaitingConnections
from webapp.settings import Settings

TIMEOUTS: Mapping[Phase, float] = {
    Phase.HEAD: 10.0,
    Phase.BODY: 20.0,
    Phase.ANSWER: 60.0,
    Phase.CLOSING: 2.0,
}
"""Seconds that each phase may take. gunicorn's `keepalive` is that of the idle one."""

TICK = 0.5
"""Seconds between two looks at what is over."""

HELD_ANSWERS_MAX = 128
"""Answers that the application may hold back. Where it would hold more, its threads wait."""

_NOTHING_TO_ACCEPT = frozenset({EAGAIN, EWOULDBLOCK, ECONNABORTED})
_NO_FILES_LEFT = frozenset({EMFILE, ENFILE})


class BufferingWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """A threaded worker whose threads never wait for a client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting = WaitingConnections()
        self._held: dict[Connection, HeldAnswer] = {}
        self._ready_answers: deque[tuple[Connection, HeldAnswer]] = deque()
        """Those of `_held` that can be decided, put there by any thread."""
        self._is_told = False
        """Whether the main thread will look at them."""
        self._next_look = 0.0

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        super().check_config(cfg, log)
        if cfg.is_ssl:
            raise SystemExit("TLS ends in front of gunicorn: set no certificate or key for it")

    def accept(self, listener: socket) -> None:
        """Accept a connection. Where there are too many, the longest waiting one makes room."""
        try:
            client, peer = listener.accept()
        except OSError as error:
            if error.errno in _NO_FILES_LEFT:
                self._refuse(self._waiting.longest())
            elif error.errno not in _NOTHING_TO_ACCEPT:
                raise
            return
        self.nr_conns += 1
        connection = Connection(
            self.cfg,
            client,
            peer,
            listener.getsockname(),
            address=self._limited_address(peer),
            max_body=self.wsgi.config["MAX_CONTENT_LENGTH"],
            can_hold=self._can_hold,
        )
        self._wait(connection)
        self._refuse(self._waiting.surplus(connection.address))
        if self.nr_conns >= self.worker_connections:
            self._refuse(self._waiting.longest())

    def finish_request(self, conn: Connection, fs: "Future[Any]") -> None:
        """Go on with a connection whose request a thread has answered."""
        keep = not fs.cancelled() and fs.exception() is None and bool(fs.result())
        conn.finish(keep=keep)
        self._go_on(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """End the connections whose phase is over; all of them if forced."""
        now = monotonic()
        if now < self._next_look and not force:
            return
        self._next_look = now + TICK
        for connection, answer in tuple(self._held.items()):
            if answer.expires <= now:
                self._decide(connection, answer)
        for connection in self._waiting:
            if force:
                self._drop(connection)
            elif connection.timeout <= now:
                self._refuse(connection)
            elif connection.phase is Phase.IDLE and not self.alive:
                # A client may be sending its next request already.
                connection.timeout = min(connection.timeout, now + STOP_KEEPALIVE_LINGER)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        super().wait_for_and_dispatch_events(min(timeout, TICK))

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer malformed HTTP with a problem: gunicorn's page repeats its exception's text."""
        super().handle_error(req, ErrorPageReplacement(client), addr, exc)

    def _limited_address(self, peer: Any) -> str | None:
        """The client's address, or `None` where many clients share it: behind a proxy."""
        settings: Settings = self.wsgi.extensions["settings"]
        known = address(peer[0]) if isinstance(peer, tuple) else None
        if known is None or is_proxy(known, settings.trusted_proxies):
            return None
        return site(known)

    def _ready(self, connection: Connection, step: Callable[[], None], _: Any) -> None:
        """Go on with a connection whose socket is ready."""
        if connection not in self._waiting:  # another event of this round has ended it
            return
        try:
            step()
        except OSError:
            self._drop(connection)
        else:
            self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """Hand a connection's request to a thread, or wait for its client, or end it."""
        try:
            if (answer := connection.held_answer) is not None:
                self._hold(connection, answer)
            elif connection.has_unsent:
                self._wait(connection)
            elif connection.closing:
                self._say_goodbye(connection)
            elif connection.take_request():
                self._stop_waiting(connection)
                self.enqueue_req(connection)
            elif connection.ended:
                self._drop(connection)
            else:
                self._wait(connection)
        except OSError:
            self._drop(connection)

    def _can_hold(self) -> bool:
        return len(self._held) < HELD_ANSWERS_MAX

    def _hold(self, connection: Connection, answer: HeldAnswer) -> None:
        self._held[connection] = answer
        answer.when_ready(partial(self._note_ready, connection, answer))

    def _note_ready(self, connection: Connection, answer: HeldAnswer) -> None:
        """Have the main thread decide about a held answer. Many may get ready at once."""
        self._ready_answers.append((connection, answer))
        if not self._is_told:
            self._is_told = True
            self.method_queue.defer(self._decide_ready)

    def _decide_ready(self) -> None:
        self._is_told = False
        while self._ready_answers:
            self._decide(*self._ready_answers.popleft())

    def _decide(self, connection: Connection, answer: HeldAnswer) -> None:
        if self._held.get(connection) is not answer:  # its time was up before
            return
        del self._held[connection]
        try:
            connection.decide()
        except OSError:  # the client is gone
            self._drop(connection)
        except Exception:
            self.log.exception("An answer that was held back is lost")
            self._drop(connection)
        else:
            self._go_on(connection)

    def _say_goodbye(self, connection: Connection) -> None:
        """Let the client close first: what it still sends would make the kernel cut the answer."""
        if connection.ended:
            self._drop(connection)
            return
        if connection.phase is not Phase.CLOSING:
            connection.say_goodbye()
        self._wait(connection)

    def _wait(self, connection: Connection) -> None:
        phase = connection.waits_for()
        if connection not in self._waiting or phase is not connection.phase:
            self._begin_phase(connection, phase)
        self._waiting.put(connection)
        self._refuse(self._waiting.largest_of_too_much())

    def _begin_phase(self, connection: Connection, phase: Phase) -> None:
        connection.phase = phase
        connection.timeout = monotonic() + TIMEOUTS.get(phase, self.cfg.keepalive)
        if connection in self._waiting:
            self.poller.unregister(connection)
        if phase is Phase.ANSWER:
            event, step = EVENT_WRITE, connection.flush
        else:
            event, step = EVENT_READ, connection.receive
        self.poller.register(connection, event, partial(self._ready, connection, step))

    def _stop_waiting(self, connection: Connection) -> None:
        if connection in self._waiting:
            self.poller.unregister(connection)
            self._waiting.remove(connection)
            connection.phase = None

    def _refuse(self, connection: Connection | None) -> None:
        """End a connection that waits. One whose request has begun to arrive is told why."""
        if connection is None:
            return
        if connection.phase in (Phase.HEAD, Phase.BODY):
            metrics.count_request("", UNMATCHED, 408, TIMEOUTS[connection.phase])
            connection.try_to_send(problem(408))
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._stop_waiting(connection)
        self.nr_conns -= 1
        connection.close()
