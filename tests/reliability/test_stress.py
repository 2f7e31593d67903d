"""The short form of `make stress`."""

from flask import Flask

from reliability.stress.load import Stage, run
from tests.processes import Web

SECONDS = 8
SEED = 1


def test_mixed_load_loses_doubles_and_mixes_up_nothing(
    app: Flask, web: Web, environment: dict[str, str]
) -> None:
    tally = run(Stage(app, web, environment), SECONDS, SEED)
    assert not tally.faults, dict(tally.examples)
    assert tally.accesses == tally.events > 0
