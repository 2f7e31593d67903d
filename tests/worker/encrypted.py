"""Servers that are reached by TLS, with certificates of several kinds."""

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

PATIENCE = 60


def make_certificate(directory: Path, name: str, names: str) -> ssl.SSLContext:
    """Make a self-signed certificate, `name`.crt; returns the TLS context of a server with it."""
    key, crt = directory / f"{name}.key", directory / f"{name}.crt"
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=sightline-test"]
    files = ["-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(crt)]
    subprocess.run(["openssl", "req", *made, *files], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(crt, key)
    return context


@dataclass
class Front:
    """Ends TLS before a server of this host. Without one, it keeps what a client says first."""

    port: int
    first_words: list[bytes] = field(default_factory=list)


@contextmanager
def tls_front(context: ssl.SSLContext, behind: int | None = None) -> Iterator[Front]:
    """A port of this host that speaks TLS, and hands on to the port `behind`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front = Front(listener.getsockname()[1])
        accepting = Thread(target=_accept, args=(listener, context, behind, front), daemon=True)
        accepting.start()
        yield front
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(PATIENCE)


def _accept(
    listener: socket.socket, context: ssl.SSLContext, behind: int | None, front: Front
) -> None:
    with suppress(OSError):  # the listener is shut
        while True:
            client, _ = listener.accept()
            client.settimeout(PATIENCE)
            Thread(target=_serve, args=(client, context, behind, front), daemon=True).start()


def _serve(
    client: socket.socket, context: ssl.SSLContext, behind: int | None, front: Front
) -> None:
    with client, suppress(OSError), context.wrap_socket(client, server_side=True) as secured:
        if behind is None:
            front.first_words.append(secured.recv(4))
            return
        with socket.create_connection(("127.0.0.1", behind), PATIENCE) as server:
            answers = Thread(target=_copy, args=(server, secured), daemon=True)
            answers.start()
            _copy(secured, server)
            answers.join(PATIENCE)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
