"""The log over HTTP (c2sp.org/tlog-tiles), for anybody: it tells of events no more than how many.

The first log is under /log. One that had to take its place, after a restore that has lost entries
for good, is under /log/<number>: a tile never changes where it is, so that caches may keep it.
"""

import gzip
from collections.abc import Callable

import flask
import orjson
from flask import Response, request

from webapp.db.scopes import LogScope
from webapp.extensions import db
from webapp.http.errors import NotFound
from webapp.http.parsing import Blueprint, refuse_query
from webapp.http.public import public
from webapp.ledger.sealing import published
from webapp.ledger.sealing.policy import policy_of
from webapp.ledger.sealing.schemas import LogKeysSchema
from webapp.ledger.sealing.tiles import TileError, TileIndex, parse_index, parse_level
from webapp.settings import current_settings

CHECKPOINT_SECONDS = 5
"""For how long a checkpoint may be cached: a newer one comes every few seconds."""
KEYS_SECONDS = 300
PARTIAL_SECONDS = 3_600
"""For how long a partial tile may be cached. It never changes, but nobody asks for it for long."""
FOREVER = 31_536_000

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
CACHED = {"Cache-Control": {"schema": {"type": "string"}}}

blueprint = Blueprint(
    "log",
    __name__,
    url_prefix="/log",
    description="The log that proves the ledger, as c2sp.org/tlog-tiles has it. It is public: an"
    " entry is a hash, and a number in a series whose label tells nobody whose it is.",
)

later_logs = flask.Blueprint("later_logs", __name__, url_prefix="/log/<int(min=2):number>")


@blueprint.route("/checkpoint")
@public("a size, a hash and signatures on them, which whoever doubts the ledger compares")
@blueprint.response(
    200, {"type": "string"}, content_type=TEXT, description="A signed note", headers=CACHED
)
@blueprint.doc(responses={404: "NotFound"})
def read_checkpoint(number: int = published.FIRST) -> Response:
    """Read the newest checkpoint of the log

    It has the log's name, its size and the root of its tree, signed by the log and by those
    witnesses that have cosigned it (c2sp.org/tlog-checkpoint).
    """
    with db.scoped(LogScope()):
        note = published.read_checkpoint(db.session, number)
    return _cached(note, TEXT, CHECKPOINT_SECONDS)


@blueprint.route("/tile/entries/<path:index>")
@public("hashes with salts and numbers, which nobody can tell an event from")
@blueprint.response(
    200,
    {"type": "string", "format": "binary"},
    content_type=BYTES,
    description="The entries, each after its length in two bytes",
    headers=CACHED,
)
def read_entries(index: str, number: int = published.FIRST) -> Response:
    """Read entries of the log

    `index` is the number of the bundle in groups of three digits, all but the last after an `x`:
    `x001/234`. `.p/<width>` follows where it is not full.
    """
    tile = _index_of(index)
    with db.scoped(LogScope()):
        bundle = published.read_entries(db.session, number, tile)
    return _compressed(_cached(bundle, BYTES, _seconds(tile)))


@blueprint.route("/tile/<level>/<path:index>")
@public("hashes of hashes")
@blueprint.response(
    200,
    {"type": "string", "format": "binary"},
    content_type=BYTES,
    description="The hashes, 32 bytes each",
    headers=CACHED,
)
def read_tile(level: str, index: str, number: int = published.FIRST) -> Response:
    """Read hashes of the log's tree

    `level` is 0 for the hashes of entries. `index` has the form of that of entries.
    """
    tile = _index_of(index)
    try:
        height = parse_level(level)
    except TileError as error:
        raise NotFound("The log has no such tile.") from error
    with db.scoped(LogScope()):
        hashes = published.read_tile(db.session, number, height, tile)
    return _cached(hashes, BYTES, _seconds(tile))


@blueprint.route("/policy")
@public("public keys")
@blueprint.response(
    200, {"type": "string"}, content_type=TEXT, description="A policy", headers=CACHED
)
def read_policy() -> Response:
    """Read whose signatures on checkpoints to believe

    A policy as c2sp.org/tlog-policy has it: the open log, and its witnesses. Keep it when you first
    read it, and compare it with what somebody else has: who could forge a checkpoint could forge
    this.
    """
    with db.scoped(LogScope()):
        logs, signers = published.list_logs(db.session), published.list_signers(db.session)
    policy = policy_of(logs, signers, current_settings())
    return _cached(policy.encode(), TEXT, KEYS_SECONDS)


@blueprint.route("/keys")
@public("public keys")
@blueprint.response(200, LogKeysSchema, headers=CACHED)
def read_keys() -> Response:
    """Read the public keys of the log and of what signs events, and where each log is"""
    with db.scoped(LogScope()):
        logs, signers = published.list_logs(db.session), published.list_signers(db.session)
    body = LogKeysSchema().dump({"logs": logs, "signers": signers})
    return _cached(orjson.dumps(body), "application/json", KEYS_SECONDS)


LATER: dict[str, Callable[..., Response]] = {
    "/checkpoint": read_checkpoint,
    "/tile/entries/<path:index>": read_entries,
    "/tile/<level>/<path:index>": read_tile,
}
"""What each later log has under its own path."""

for path, view in LATER.items():
    later_logs.add_url_rule(path, view_func=view)


def _refuse_query() -> None:
    """Refuse a query: with one, every cache would ask for the same bytes again."""
    refuse_query(_refuse_query)


blueprint.before_request(_refuse_query)
later_logs.before_request(_refuse_query)


def _index_of(path: str) -> TileIndex:
    try:
        return parse_index(path)
    except TileError as error:
        raise NotFound("The log has no such tile.") from error


def _seconds(index: TileIndex) -> int:
    return FOREVER if index.is_full else PARTIAL_SECONDS


def _cached(body: bytes, content_type: str, seconds: int) -> Response:
    response = Response(body, content_type=content_type)
    immutable = ", immutable" if seconds == FOREVER else ""
    response.headers.add("Cache-Control", f"public, max-age={seconds}{immutable}")
    return response


def _compressed(response: Response) -> Response:
    """Compress entries for a client that can read them so: they take half the room."""
    response.vary.add("Accept-Encoding")
    if request.accept_encodings["gzip"] > 0:
        response.set_data(gzip.compress(response.get_data(), 6, mtime=0))
        response.headers.add("Content-Encoding", "gzip")
    return response
