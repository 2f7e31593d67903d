"""The limit: a Flask view that answers with the bytes of one Redis GET and does nothing else."""

from bench.peers.cached import make_app

app = make_app()
