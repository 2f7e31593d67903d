"""A sample of the system calls of a journal, each failing once and each being the last once."""

import secrets
from collections import defaultdict
from random import Random

from reliability.faults.system_calls import MODES, Case, find_cases, run_all

SAMPLE = 5
"""Calls of each mode; `make faults` takes them all."""


def test_what_was_promised_is_kept_whichever_system_call_fails() -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201 - to be able to redeliver what has failed
    results = list(run_all(_sample(find_cases(), seed)))
    assert [result for result in results if result.problems] == []
    assert sum(result.reached for result in results) > len(results) / 2
    assert sum(result.acknowledged for result in results) > 0
    assert sum(result.refused for result in results) > 0


def _sample(cases: list[Case], seed: int) -> list[Case]:
    """Of every mode some, and of the calls that every event waits for one at least."""
    rng = Random(seed)  # noqa: S311 - to be repeatable, not secret
    by_mode = defaultdict(list)
    for case in cases:
        by_mode[case.mode].append(case)
    synced = [case for case in cases if case.call == "fdatasync" and case.mode == "fails"]
    assert synced
    return [rng.choice(synced), *(c for mode in MODES for c in rng.sample(by_mode[mode], SAMPLE))]
