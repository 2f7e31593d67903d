"""The limit: a Flask view that answers with the bytes of one Redis GET, and does nothing else."""

import os

import redis
from flask import Flask, Response

app = Flask("bare", static_folder=None)
client = redis.Redis.from_url(os.environ["REDIS_URL"])


@app.get("/rules")
def serve() -> Response:
    return Response(client.get(os.environ["BENCH_KEY"]), mimetype="application/json")
