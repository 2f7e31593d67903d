"""A sample of the system calls of a journal, each failing once and each being the last once."""

import secrets

import pytest

from reliability.faults.system_calls import find_cases, run_all, sample

pytestmark = pytest.mark.slow(seconds=10)

SAMPLE = 5
"""Calls of each mode; `make faults` takes them all."""


def test_what_was_promised_is_kept_whichever_system_call_fails() -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201 - so that a failure can be repeated
    results = list(run_all(sample(find_cases(), SAMPLE, seed)))
    assert [result for result in results if result.problems] == []
    assert sum(result.reached for result in results) > len(results) / 2
    assert sum(result.acknowledged for result in results) > 0
    assert sum(result.refused for result in results) > 0
