"""What the seed did: a Flask view that calls Celery's `delay()` for each answer.

The message is in Redis, and in no place that survives its loss, when the answer leaves.
"""

from flask import request

from bench.peers.audit_table import row_of
from bench.peers.cached import make_app
from bench.peers.task import insert_row


def record() -> None:
    insert_row.delay(*row_of(request))


app = make_app(record)
