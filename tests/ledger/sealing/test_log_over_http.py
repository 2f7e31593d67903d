"""The log over HTTP: checkpoints, tiles, entries, policy and keys, as anybody reads them."""

import gzip
from collections.abc import Iterator
from socket import gethostname

import pytest
from flask import Flask
from flask.testing import FlaskClient
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tiles import leaf_hash
from werkzeug.test import TestResponse

from tests.applications import application
from tests.ledger.sealing.made_logs import LOG, ORIGIN, WITNESS, cosign, open_log, seal
from tests.stacks import copied_stack
from webapp.ledger.sealing.merkle import verify_consistency
from webapp.ledger.sealing.note import ed25519_signer, open_checkpoint
from webapp.ledger.sealing.proof import parse_policy
from webapp.ledger.sealing.tiles import decode_entries
from webapp.stack.home import running

SIZE = 700


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """A product of this module's own, whose log has 700 entries."""
    home = tmp_path_factory.mktemp("logged")
    stack = copied_stack(home)
    with running(stack), application({"SIGHTLINE_HOME": str(home), **stack.environment}) as app:
        assert app.test_client().get("/log/checkpoint").status_code == 404
        open_log(app)
        assert app.test_client().get("/log/checkpoint").status_code == 404
        have = seal(app)
        assert seal(app, heartbeats=SIZE - have) == SIZE
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


class Served:
    """What tlog-scales reads from, through the product's own answers."""

    def __init__(self, client: FlaskClient, prefix: str = "/log") -> None:
        self._client, self._prefix = client, prefix
        self.flip: str | None = None
        """The path of which a byte arrives flipped."""

    def get(self, *path: str) -> bytes | None:
        answer = self._client.get("/".join((self._prefix, *path)))
        if answer.status_code != 200:
            return None
        data: bytes = answer.data
        if "/".join(path) == self.flip:
            data = data[:40] + bytes([data[40] ^ 1]) + data[41:]
        return data


def reader(served: Served) -> TilesReader:
    made = TilesReader(served)
    made.get_checkpoint()
    return made


def test_scales_reads_the_log_and_proves_an_entry(client: FlaskClient) -> None:
    served = reader(Served(client))
    checkpoint = served.get_checkpoint()
    checkpoint.verify(Vkey.from_string(str(LOG.verifier)))
    assert (checkpoint.origin, checkpoint.size) == (ORIGIN, SIZE)
    assert served.calculate_root_hash() == checkpoint.root_hash
    for index in (0, 255, 256, SIZE - 1):
        proof = served.get_inclusion_proof(index, SIZE)
        proof.check(leaf_hash(served.get_entry(index)), checkpoint.root_hash)


@pytest.mark.parametrize("flip", ["tile/0/002.p/188", "tile/1/000.p/2"])
def test_scales_refuses_a_flipped_byte_of_a_tile(client: FlaskClient, flip: str) -> None:
    served = Served(client)
    served.flip = flip
    checkpoint = reader(served).get_checkpoint()
    assert reader(served).calculate_root_hash() != checkpoint.root_hash


def test_older_partial_tile_stays_when_the_log_has_grown(client: FlaskClient) -> None:
    newest = client.get("/log/tile/0/002.p/188").data
    for width in (1, 100, 187):
        assert client.get(f"/log/tile/0/002.p/{width}").data == newest[: width * 32]
        bundle = client.get(f"/log/tile/entries/002.p/{width}").data
        assert len(decode_entries(bundle, width)) == width


def test_old_tree_is_consistent_with_the_new_one_by_tiles_alone(client: FlaskClient) -> None:
    served = reader(Served(client))
    root = served.mth(0, 300)
    proof = served.get_consistency_proof(300, SIZE)
    verify_consistency(300, SIZE, proof.node_hashes, root, served.calculate_root_hash())


@pytest.mark.parametrize(
    ("path", "cached", "content_type"),
    [
        ("checkpoint", "public, max-age=5", "text/plain; charset=utf-8"),
        ("policy", "public, max-age=300", "text/plain; charset=utf-8"),
        ("keys", "public, max-age=300", "application/json"),
        ("tile/0/000", "public, max-age=31536000, immutable", "application/octet-stream"),
        ("tile/entries/000", "public, max-age=31536000, immutable", "application/octet-stream"),
        ("tile/0/002.p/188", "public, max-age=3600", "application/octet-stream"),
        ("tile/entries/002.p/188", "public, max-age=3600", "application/octet-stream"),
        ("tile/1/000.p/2", "public, max-age=3600", "application/octet-stream"),
    ],
)
def test_answer_says_for_how_long_it_may_be_kept(
    client: FlaskClient, path: str, cached: str, content_type: str
) -> None:
    answer = client.get(f"/log/{path}")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == cached
    assert answer.content_type == content_type
    assert "authorization" not in {v.lower() for v in answer.vary}
    assert client.head(f"/log/{path}").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/002",  # it is not full
        "tile/0/002.p/189",
        "tile/0/003",
        "tile/1/000",
        "tile/1/000.p/3",
        "tile/2/000.p/1",
        "tile/63/000.p/1",
        "tile/64/000",
        "tile/00/000",
        "tile/-1/000",
        "tile/x/000",
        "tile/0/0",
        "tile/0/x000/000",
        "tile/0/000.p/256",
        "tile/0/000.p/0",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/entries/002",
        "tile/entries/002.p/189",
        "tile/entries/003",
        "tile/entries/x",
        "2/checkpoint",
        "1/checkpoint",
        "0/checkpoint",
        "99999999999999999999/checkpoint",
        "nothing",
    ],
)
def test_what_the_log_does_not_have_is_not_found_and_not_cached(
    client: FlaskClient, path: str
) -> None:
    answer = client.get(f"/log/{path}")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (404, "no-store")
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000", "tile/entries/000", "policy", "keys"])
def test_query_is_refused_since_caches_would_ask_again_for_each(
    client: FlaskClient, path: str
) -> None:
    assert client.get(f"/log/{path}?again=1").status_code == 422


def test_entries_are_compressed_for_a_client_that_asks(client: FlaskClient) -> None:
    plain = client.get("/log/tile/entries/000")
    packed = client.get("/log/tile/entries/000", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert len(packed.data) < len(plain.data)
    assert {"accept-encoding"} <= {v.lower() for v in plain.vary} & {v.lower() for v in packed.vary}
    refused = client.get("/log/tile/entries/000", headers={"Accept-Encoding": "gzip;q=0"})
    assert refused.data == plain.data


def test_log_changes_by_no_request(client: FlaskClient) -> None:
    for path in ("checkpoint", "tile/0/000", "policy"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert client.open(f"/log/{path}", method=method).status_code == 405


def test_policy_opens_the_checkpoint_and_names_where_the_log_is(
    app: Flask, client: FlaskClient
) -> None:
    policy = parse_policy(client.get("/log/policy").text)
    assert policy.open(client.get("/log/checkpoint").data).checkpoint.size == SIZE
    (log,) = policy.logs
    assert log.url == f"{app.extensions['settings'].public_url}/log"


def test_keys_name_the_log_and_what_has_signed_it(client: FlaskClient) -> None:
    assert client.get("/log/keys").get_json()["logs"] == [
        {
            "number": 1,
            "origin": ORIGIN,
            "path": "/log",
            "state": "open",
            "size": SIZE,
            "keys": [str(LOG.verifier)],
        }
    ]


def test_keys_and_policy_name_what_signs_events_and_not_on_which_host(
    app: Flask, client: FlaskClient
) -> None:
    signers = client.get("/log/keys").get_json()["signers"]
    assert [signer["process"] for signer in signers] == ["web", "worker", "commands"]
    pins = [line for line in client.get("/log/policy").text.split("\n") if line.startswith("#")]
    assert pins == [
        f"#sightline key {s['process']} {s['fingerprint']} {s['public_key']}" for s in signers
    ]
    assert app.extensions["settings"].signing_key.fingerprint in {
        signer["fingerprint"] for signer in signers
    }
    for path in ("keys", "policy"):
        assert gethostname() not in client.get(f"/log/{path}").text


def test_cosignature_of_a_witness_is_on_the_checkpoint_of_its_size_only(
    app: Flask, client: FlaskClient
) -> None:
    keys = [LOG.verifier, WITNESS.verifier]
    cosign(app)
    _, note = open_checkpoint(client.get("/log/checkpoint").data, keys)
    assert {each.verifier for each in note.verified} == set(keys)
    grown = seal(app, heartbeats=1)
    checkpoint, note = open_checkpoint(client.get("/log/checkpoint").data, keys)
    assert checkpoint.size == grown
    assert [each.verifier for each in note.verified] == [LOG.verifier]


def test_log_that_takes_the_place_of_another_has_a_path_of_its_own(
    app: Flask, client: FlaskClient
) -> None:
    before = {path: client.get(f"/log/{path}").data for path in ("checkpoint", "tile/0/000")}
    origin = f"{ORIGIN}#2"
    second = ed25519_signer(origin, bytes([2] * 32))
    open_log(app, 2, origin)
    seal(app, heartbeats=3, number=2, signer=second)
    assert {path: client.get(f"/log/{path}").data for path in before} == before
    served = reader(Served(client, "/log/2"))
    assert (served.get_checkpoint().origin, served.get_checkpoint().size) == (origin, 3)
    assert served.calculate_root_hash() == served.get_checkpoint().root_hash
    assert len(served.get_entry(2)) > 0
    (log,) = parse_policy(client.get("/log/policy").text).logs
    assert (log.verifier, str(log.url)[-6:]) == (second.verifier, "/log/2")
    states = [(log["path"], log["state"]) for log in client.get("/log/keys").get_json()["logs"]]
    assert states == [("/log/2", "open"), ("/log", "closed")]


def test_public_route_needs_no_credential_and_heeds_none(client: FlaskClient) -> None:
    answer: TestResponse = client.get(
        "/log/checkpoint", headers={"Authorization": "Bearer slt_nobody"}
    )
    assert answer.status_code == 200
