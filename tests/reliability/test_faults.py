"""The short form of `make faults`: every kind of fault once, under load."""

import secrets
from pathlib import Path

import pytest

from reliability.faults.faults import available_faults
from reliability.faults.installation import running_installation
from reliability.faults.run import Extent, run

pytestmark = pytest.mark.slow(seconds=150)

LONGEST, PAUSE, DRAIN = 0.8, 0.2, 120.0
CLIENT_PAUSE = 0.3
"""Other tests run beside this one: requests meet every fault, and do not take the machine."""


def test_no_fault_loses_or_doubles_a_record(tmp_path: Path) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201 - so that a failure can be repeated
    with running_installation(tmp_path) as installation:
        kinds = len(available_faults(installation))
        outcome = run(
            installation, Extent(0, kinds, LONGEST, seed, PAUSE, DRAIN, CLIENT_PAUSE), print
        )
    total = outcome.comparison.total
    discrepancies = {
        wrong: n for wrong, n in total.discrepancies.items() if n and wrong != "held too long"
    }
    assert discrepancies == {}, dict(outcome.comparison.examples)
    assert (outcome.missing, outcome.waiting, outcome.quarantined) == (0, 0, 0)
    assert outcome.events >= total.acknowledged > 0
    assert total.times == kinds
    assert outcome.sealed is not None
    assert (outcome.sealed.unsealed, outcome.sealed.problems) == (0, ())
    assert outcome.sealed.size >= outcome.events
