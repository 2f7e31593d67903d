"""The benchmark's own honesty: what it counts as wrong, and what makes it fail."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask import Flask

from bench import __main__ as bench
from bench.load import Target, run
from bench.machine import Cores
from bench.result import Figure, Ratio, Results, ratios
from tests.factories import add_account, add_tenant
from tests.processes import Web


def _results(*wrong: str) -> Results:
    slow = Ratio("ours", "theirs", ratios((1.0, 3.0, 2.0), (4.0, 4.0, 4.0)), bar=0.7)
    return Results([slow], [Figure("memory", 80.0, "MB")], list(wrong))


@pytest.mark.parametrize(("wrong", "code"), [((), 0), (("a body differs",), 1)])
def test_only_wrong_answers_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: tuple[str, ...], code: int
) -> None:
    monkeypatch.setattr(bench, "find_wrk", lambda: "wrk")
    monkeypatch.setattr(bench, "find_cores", lambda: Cores((), ()))
    monkeypatch.setattr(bench, "measure", lambda *_: _results(*wrong))

    ended = CliRunner().invoke(bench.main, ["--json", str(tmp_path)])

    assert ended.exit_code == code, ended.output
    [written] = tmp_path.glob("*.json")
    content = json.loads(written.read_text())
    assert content["wrong"] == list(wrong)
    assert content["ratios"][0]["median"] == 0.5
    assert all(problem in ended.output for problem in wrong)


if shutil.which("wrk") is not None:

    def test_a_checked_run_finds_every_wrong_answer(app: Flask, web: Web) -> None:
        tenant = add_tenant(app)
        headers = add_account(app, member_of={tenant.slug: "member"}).headers()
        url = f"{web.url}/admin/api/rules"
        body = b'{"items":[],"next_cursor":null,"total":0}'

        right = run(Target("right", url, body, headers, requires=("etag",)), 1, check=True)
        other_body = run(Target("body", url, body + b" ", headers), 1, check=True)
        no_header = run(Target("header", url, body, headers, requires=("sightline-audit",)), 1)
        header = Target("header", url, body, headers, requires=("sightline-audit",))
        same = Target("same", url, body, headers, unique=("etag",))

        assert right.requests > 0
        assert right.wrong == 0
        assert other_body.wrong >= other_body.requests > 0
        assert no_header.wrong == 0, "only a checked run accesses headers"
        assert run(header, 1, check=True).wrong > 0
        repeated = run(same, 1, check=True)
        assert repeated.wrong >= repeated.requests - 1 > 0
