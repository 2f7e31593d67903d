"""The verifier's verdict on a log that it reads as it grows."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.verifier import logs
from tests.verifier.desk import Desk, Verdict
from tests.verifier.logs import SEALED_AT, Log, access, pin
from verifier import sightline_verify as verifier
from webapp.ledger.sealing.tiles import encode_entries, parse_index


@dataclass
class Served:
    """A log over HTTP, which may be replaced by another one."""

    url: str = ""
    log: Log = field(default_factory=Log)
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> bytes:
        self.asked.append(path)
        if path == "/log/checkpoint":
            return self.log.checkpoint.encode()
        index = parse_index(path.removeprefix("/log/tile/entries/"))
        return encode_entries(self.log.entries[index.first : index.end])


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = served.answer(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/log"
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def watch(desk: Desk, served: Served, *pins: str, days: int = 0) -> Verdict:
    at = (SEALED_AT + timedelta(days=days, minutes=5)).isoformat()
    state = ("--state", str(desk.directory / "state"))
    fresh = ("--fresh-within", str(24 * days + 1))
    policy = served.log.policy(*pins)
    return desk.run("monitor", policy, served.url, *state, *fresh, "--as-of", at)


def accesses(number: int) -> list[logs.Json]:
    return [access() for _ in range(number)]


def test_growing_log_goes_on_from_what_was_seen(desk: Desk, served: Served) -> None:
    label = logs.label_of(logs.TENANTS["acme"])
    for more in (255, 1, 1, 300, 0):
        served.log.seal(*accesses(more))
        verdict = watch(desk, served, f"#sightline series {label} acme", pin(served.log))
        assert (verdict.code, verdict.faults) == (0, set())
        number = len(served.log.entries)
        assert verdict.lines[-1]["text"] == f"acme has {number} numbers, without a gap"


def test_a_week_is_read_again_and_no_more(desk: Desk, served: Served) -> None:
    served.log.seal(*accesses(300))
    watch(desk, served)
    served.log.seal(*accesses(300))
    watch(desk, served, days=3)
    served.asked.clear()
    watch(desk, served, days=4)
    assert "/log/tile/entries/000" not in served.asked  # read when nothing was known
    assert "/log/tile/entries/001" in served.asked


def test_history_that_was_rewritten_is_forked_and_kept(desk: Desk, served: Served) -> None:
    served.log.seal(*accesses(20))
    earlier = served.log.checkpoint
    assert watch(desk, served).code == 0
    served.log = Log().seal(*accesses(25))
    verdict = watch(desk, served)
    assert (verdict.code, verdict.faults) == (1, {"forked"})
    [kept] = (desk.directory / "evidence").iterdir()
    assert (kept / "earlier.checkpoint").read_text() == earlier
    assert watch(desk, served).code == 1  # what was seen first stays


def test_other_root_of_the_same_size_is_forked(desk: Desk, served: Served) -> None:
    served.log.seal(*accesses(20))
    watch(desk, served)
    served.log = Log().seal(*accesses(20))
    assert watch(desk, served).faults == {"forked"}


def test_smaller_log_is_truncated(desk: Desk, served: Served) -> None:
    served.log.seal(*accesses(20))
    watch(desk, served)
    del served.log.entries[15:]
    assert watch(desk, served).faults == {"truncated"}


def test_entries_that_make_another_root_are_edited(desk: Desk, served: Served) -> None:
    signed = served.log.seal(*accesses(20)).checkpoint
    other = Log().seal(*accesses(20))
    other.__class__ = type("Liar", (Log,), {"checkpoint": signed})
    served.log = other
    assert watch(desk, served).faults == {"edited"}


@pytest.mark.parametrize(
    ("numbers", "word"), [((1, 3), "incomplete"), ((1, 1), "duplicated"), ((2, 1), "reordered")]
)
def test_numbers_that_leave_the_order_are_named(
    desk: Desk, served: Served, numbers: tuple[int, ...], word: str
) -> None:
    for number in numbers:
        served.log.append(access(), [("all", number)])
    assert watch(desk, served).faults == {word}


def test_log_that_stands_still_is_frozen(desk: Desk, served: Served) -> None:
    served.log.seal(access())
    state = ("--state", str(desk.directory / "state"))
    late = (SEALED_AT + timedelta(hours=4)).isoformat()
    verdict = desk.run("monitor", served.log.policy(), served.url, *state, "--as-of", late)
    assert (verdict.code, verdict.faults) == (1, {"frozen"})


def test_checkpoint_of_another_key_is_a_bad_signature(desk: Desk, served: Served) -> None:
    policy = served.log.seal(access()).policy()
    served.log.seed = b"x" * 32
    verdict = desk.run("monitor", policy, served.url, "--state", str(desk.directory / "state"))
    assert verdict.faults == {"bad signature"}


def test_log_out_of_reach_is_not_finished(desk: Desk, served: Served) -> None:
    log = served.log.seal(access())
    for url, code in ((served.url + "/nowhere", 3), ("file:///etc/passwd", 2)):
        args = ["monitor", url, "--policy", desk.put("policy", log.policy().encode())]
        assert verifier.main([*args, "--state", str(desk.directory / "state")]) == code
