"""The parts of the benchmark that run on servers of their own, each at a small size."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from bench import answers, commits, decisions, growth, proofs
from bench.result import Results

pytestmark = pytest.mark.slow

SIZES: Mapping[ModuleType, Mapping[str, object]] = {
    answers: {"SLICES": 2, "REPEATS": 2},
    commits: {"EVENTS": 40, "BATCH": 20, "TASKS": 5},
    decisions: {"RULES": (10, 20), "NARROWING": 2, "TENANTS": (2, 4), "REPEATS": 1},
    growth: {"EVENTS": (200, 300), "TENANTS": (2, 4), "REPEATS": 2},
    proofs: {"FEW": 20, "MANY": 40, "BATCH": 10},
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, sizes in SIZES.items():
        for name, size in sizes.items():
            monkeypatch.setattr(module, name, size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "compared", "curves"),
    [
        (answers.measure_answers, 3, 0),
        (commits.measure_commits, 4, 0),
        (decisions.measure_decisions, 8, 9),
        (growth.measure_growth, 16, 16),
        (proofs.measure_proofs, 1, 0),
    ],
)
def test_part_measures_what_it_names_and_finds_nothing_wrong(
    tmp_path: Path, part: Callable[[Path, int, Results], None], compared: int, curves: int
) -> None:
    results = Results()
    part(tmp_path, 1, results)
    assert results.wrong == []
    assert len(results.ratios) == compared
    assert len(results.curves) == curves
    assert all(value > 0 for ratio in results.ratios for value in ratio.rounds)
