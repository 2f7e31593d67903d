"""The CPU time of an answer inside one process, without a web server and without load.

It is the time of the thread that answers: what other threads do afterwards is not in it. Other load
on the machine disturbs it little, so that it shows in a minute what a change has cost.
"""

import os
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import median
from unittest import mock

import redis
from flask import Flask
from werkzeug.test import create_environ, run_wsgi_app

from bench.lists import BARE, ELEVATED, PLAIN
from bench.peers.cached import make_app
from bench.product import RULES, TENANT, draft_rule
from bench.result import Ratio, Results, ratios
from bench.servers import KEY
from tests.applications import application
from tests.audit.events import make_event
from tests.factories import INCIDENT, Account, add_account, add_tenant
from webapp.audit.event import dump_event
from webapp.audit.relay import pipeline
from webapp.audit.signature import sign_event
from webapp.stack.home import open_stack, running

PATH = "/admin/api/rules"
SLICES = 20
"""Slices of each list in a round, in turns."""
REPEATS = 50

Answer = Callable[[], tuple[bytes, str]]
"""Answers once; returns the body and the status."""


def measure_answers(home: Path, rounds: int, results: Results) -> None:
    stack = open_stack(home, durable=True)
    environment = {**stack.environment, "SIGHTLINE_ENV": "qa", "SIGHTLINE_HOME": str(home)}
    with (
        (home / "requests.log").open("w") as log,
        redirect_stdout(log),
        redirect_stderr(log),
        running(stack),
        application(environment) as app,
    ):
        pipeline.start(app)
        add_tenant(app, TENANT)
        admin = add_account(app, member_of={TENANT: "admin"})
        engineer = add_account(app, "engineer")
        body = _add_rules(app, admin)
        answers = {
            BARE: _answer(_make_bare(stack.redis.url, body), "/rules", {}),
            PLAIN: _answer(app, PATH, admin.headers()),
            ELEVATED: _answer(app, PATH, engineer.headers("global", INCIDENT)),
        }
        for name, answer in answers.items():
            answered, status = answer()
            results.expect(status == "200 OK", f"{name}, in one process: {status}")
            same = answered == body or name == ELEVATED  # its rules are those of all tenants
            results.expect(same, f"{name}, in one process: another list")
        seconds = _time_in_turns(answers, rounds * SLICES)
        signing = _time_signing(app, answers[ELEVATED], rounds * SLICES)
    results.ratios.append(signing)
    bare = seconds[BARE]
    for name in (PLAIN, ELEVATED):
        rates = ratios(bare, seconds[name])
        cpu_us = (median(seconds[name]) * 1e6, median(bare) * 1e6)
        what, against = f"{name}, in one process", "bare Flask, in one process"
        results.ratios.append(Ratio(what, against, rates, None, cpu_us))


def _time_in_turns(answers: dict[str, Answer], slices: int) -> dict[str, list[float]]:
    """The seconds of one answer, by list, one figure for each slice."""
    seconds: dict[str, list[float]] = {name: [] for name in answers}
    for _ in range(slices):
        for name, answer in answers.items():
            began = time.thread_time()
            for _ in range(REPEATS):
                answer()
            seconds[name].append((time.thread_time() - began) / REPEATS)
    return seconds


def _time_signing(app: Flask, elevated: Answer, slices: int) -> Ratio:
    """The rate of elevated answers beside what it would be if nothing were signed.

    An elevated answer signs one event. Both are the CPU time of the whole process, with the thread
    that writes the journal.
    """
    key = app.extensions["settings"].signing_key
    data = dump_event(make_event())
    rates, answered, signed = [], [], []
    for _ in range(slices):
        began = time.process_time()
        for _ in range(REPEATS):
            elevated()
        answering = time.process_time() - began
        began = time.process_time()
        for _ in range(REPEATS):
            sign_event(key, data)
        signing = time.process_time() - began
        rates.append(1 - signing / answering)
        answered.append(answering / REPEATS)
        signed.append(signing / REPEATS)
    cpu_us = (median(answered) * 1e6, (median(answered) - median(signed)) * 1e6)
    against = "the same without its signature"
    return Ratio(f"{ELEVATED}, signed", against, tuple(rates), 0.94, cpu_us)


def _answer(app: Flask, path: str, headers: dict[str, str]) -> Answer:
    environ = create_environ(path, headers=headers)

    def answer() -> tuple[bytes, str]:
        chunks, status, _ = run_wsgi_app(app, dict(environ))
        return b"".join(chunks), status

    return answer


def _make_bare(url: str, body: bytes) -> Flask:
    with redis.Redis.from_url(url) as client:
        client.set(KEY, body)
    with mock.patch.dict(os.environ, REDIS_URL=url, BENCH_KEY=KEY):
        return make_app()


def _add_rules(app: Flask, admin: Account) -> bytes:
    """Add the rules of the list, and return how it is answered."""
    client = app.test_client()
    for number in range(RULES):
        client.post(PATH, headers=admin.headers(), json=draft_rule(number))
    body: bytes = client.get(PATH, headers=admin.headers()).data
    return body
