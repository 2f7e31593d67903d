"""What makes the benchmark fail, and what it prints and writes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import __main__ as bench
from bench.machine import NOTHING_PINNED
from bench.result import Curve, Figure, Ratio, Results, ratios


def _results(*wrong: str) -> Results:
    below_its_bar = Ratio("ours", "theirs", ratios((1.0, 3.0, 2.0), (4.0, 4.0, 4.0)), bar=0.7)
    return Results(
        [below_its_bar],
        [Figure("memory", 80.0, "MB")],
        [Curve("a decision", "rules", "µs", ((10, 100.0), (1_000, 200.0)))],
        list(wrong),
    )


@pytest.mark.parametrize(("wrong", "code"), [((), 0), (("a body differs",), 1)])
def test_only_wrong_answers_make_the_benchmark_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: tuple[str, ...], code: int
) -> None:
    monkeypatch.setattr(bench, "find_wrk", lambda: "wrk")
    monkeypatch.setattr(bench, "find_cores", lambda: NOTHING_PINNED)
    monkeypatch.setattr(bench, "measure", lambda *_: _results(*wrong))

    ended = CliRunner().invoke(bench.main, ["--json", str(tmp_path)])

    assert ended.exit_code == code, ended.output
    [written] = tmp_path.glob("*.json")
    content = json.loads(written.read_text())
    assert content["wrong"] == list(wrong)
    assert content["ratios"][0]["median"] == 0.5
    assert all(problem in ended.output for problem in wrong)


def test_unknown_part_is_refused() -> None:
    ended = CliRunner().invoke(bench.main, ["everything"])
    assert ended.exit_code == 2
    assert "'everything' is not one of" in ended.output
