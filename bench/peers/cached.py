"""Flask with one view: it answers with the bytes of one Redis GET."""

import os
from collections.abc import Callable
from itertools import count

import redis
from flask import Flask, Response


def make_app(record: Callable[[], None] | None = None) -> Flask:
    """The application; `record` is called for each answer, before it leaves."""
    app = Flask("peer", static_folder=None)
    client, key = redis.Redis.from_url(os.environ["REDIS_URL"]), os.environ["BENCH_KEY"]
    answers = count()

    @app.get("/rules")
    def serve() -> Response:
        body = client.get(key)
        if record is not None:
            record()
            next(answers)
        return Response(body, mimetype="application/json")

    @app.get("/answers")
    def count_answers() -> str:
        """The answers so far; asking counts as one of them, so ask once."""
        return str(next(answers))

    return app
