"""Fixtures: a surface of a test's own, accesses to it, and who tries a draft on them."""

from uuid import uuid4

import pytest
from flask import Flask

from tests.factories import INCIDENT, Account
from tests.rules.simulation.history import PastAccesses


@pytest.fixture
def surface() -> str:
    """A surface that no other test uses."""
    return f"s{uuid4().hex}.list"


@pytest.fixture
def everywhere(owner: Account) -> dict[str, str]:
    return owner.headers("global", INCIDENT)


@pytest.fixture
def past(app: Flask, surface: str) -> PastAccesses:
    return PastAccesses(app, surface)
