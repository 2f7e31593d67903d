"""The short form of `make hostile`: every attack for a moment, under load."""

import secrets
from pathlib import Path

import pytest

from reliability.faults.installation import running_installation
from reliability.hostile.attacks import ATTACKS
from reliability.hostile.run import Extent, run

pytestmark = pytest.mark.slow(seconds=150)

SECONDS, QUIET, CLIENT_PAUSE = 0.6, 0.2, 0.6


def test_no_attack_loses_forges_or_locks_anybody_out(tmp_path: Path) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201 - so that a failure can be repeated
    with running_installation(tmp_path, as_deployed=True) as installation:
        outcome = run(installation, Extent(ATTACKS, SECONDS, QUIET, seed, CLIENT_PAUSE), print)
    slow = "held too long"  # how fast a machine is, is no matter of a test
    assert [problem for problem in outcome.problems if not problem.startswith(slow)] == [], dict(
        outcome.comparison.examples
    )
    assert [result.attack for result in outcome.results] == list(ATTACKS)
    assert all(result.did for result in outcome.results)
    assert outcome.comparison.total.acknowledged > 0
