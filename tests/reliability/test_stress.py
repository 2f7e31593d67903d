"""The short form of `make stress`."""

import pytest
from flask import Flask

from reliability.stress.load import Installation, run
from tests.processes import Web

pytestmark = pytest.mark.slow(seconds=15)

SECONDS = 8
SEED = 1


def test_mixed_load_loses_doubles_and_mixes_up_nothing(
    app: Flask, web: Web, environment: dict[str, str]
) -> None:
    counts = run(Installation(app, web, environment), SECONDS, SEED)
    assert not counts.faults, dict(counts.examples)
    assert counts.accesses == counts.events > 0
