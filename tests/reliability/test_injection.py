"""A sample of the system calls of a journal, each failing once and each being the last once."""

import secrets
from collections import defaultdict
from random import Random

from reliability.faults.injection import MODES, Case, decide_all, find_cases

SAMPLE = 5
"""Calls of each mode; `make faults` takes them all."""


def test_what_was_promised_is_kept_whichever_system_call_fails() -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201 - to be able to repeat what has failed
    verdicts = list(decide_all(_sample(find_cases(), seed)))
    assert [verdict for verdict in verdicts if verdict.problems] == []
    assert sum(verdict.hit for verdict in verdicts) > len(verdicts) / 2
    assert sum(verdict.acknowledged for verdict in verdicts) > 0
    assert sum(verdict.refused for verdict in verdicts) > 0


def _sample(cases: list[Case], seed: int) -> list[Case]:
    """Of every mode some, and of the calls that every event waits for one at least."""
    dice = Random(seed)  # noqa: S311 - to be repeatable, not secret
    by_mode = defaultdict(list)
    for case in cases:
        by_mode[case.mode].append(case)
    synced = [case for case in cases if case.call == "fdatasync" and case.mode == "fails"]
    assert synced
    return [dice.choice(synced), *(c for mode in MODES for c in dice.sample(by_mode[mode], SAMPLE))]
