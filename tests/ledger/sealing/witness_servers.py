"""A witness over HTTP, by C2SP's tlog-witness: it cosigns what continues what it has."""

from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_bytes
from threading import Event, Thread
from typing import Any

from webapp.ledger.sealing.checkpoint import Checkpoint
from webapp.ledger.sealing.merkle import EMPTY_ROOT, ProofError, verify_consistency
from webapp.ledger.sealing.note import NoteError, Verifier, cosigner, open_checkpoint
from webapp.settings import WitnessSetting

AT = 1_790_000_000


@dataclass
class Witness:
    """What one witness has seen, and how it behaves."""

    name: str
    logs: Sequence[Verifier]
    """The keys of the logs that it knows."""
    seed: bytes = field(default_factory=lambda: token_bytes(32))
    seen: dict[str, Checkpoint] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)
    hangs: Event | None = None
    """Answers only once it is set."""
    forges: bool = False
    url: str = ""

    @property
    def setting(self) -> WitnessSetting:
        return WitnessSetting(self.url, str(cosigner(self.name, self.seed, AT).verifier))

    def answer(self, body: bytes) -> tuple[int, str, bytes]:
        self.asked.append(body)
        if self.hangs is not None:
            self.hangs.wait()
        head, _, note = body.partition(b"\n\n")
        old, *proof = head.decode().split("\n")
        try:
            checkpoint, opened = open_checkpoint(note, self.logs)
        except NoteError:
            return 403, "text/plain", b""
        known = self.seen.get(checkpoint.origin, Checkpoint(checkpoint.origin, 0, EMPTY_ROOT))
        size = int(old.removeprefix("old "))
        if size > checkpoint.size:
            return 400, "text/plain", b""
        if size != known.size or (size == checkpoint.size and known.root != checkpoint.root):
            return 409, "text/x.tlog.size", f"{known.size}\n".encode()
        hashes = [b64decode(line, validate=True) for line in proof]
        try:
            verify_consistency(size, checkpoint.size, hashes, known.root, checkpoint.root)
        except ProofError:
            return 422, "text/plain", b""
        self.seen[checkpoint.origin] = checkpoint
        text = opened.text if not self.forges else opened.text.replace("\n", "\n", 1)
        seed = token_bytes(32) if self.forges else self.seed
        signature = cosigner(self.name, seed, AT).sign(text)
        if self.forges:
            real = cosigner(self.name, self.seed, AT).verifier
            signature = type(signature)(real.name, real.key_id, signature.payload)
        return 200, "text/plain", signature.line.encode()


@contextmanager
def serving(witness: Witness) -> Iterator[Witness]:
    """Serve a witness on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, kind, answer = (
                witness.answer(body) if self.path == "/add-checkpoint" else (404, "text/plain", b"")
            )
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    witness.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield witness
    finally:
        if witness.hangs is not None:
            witness.hangs.set()
        server.shutdown()
        server.server_close()
