"""Fixtures: an application whose surfaces misbehave, a journal, and a small disk."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.audit.accesses import misbehaving_app
from tests.audit.journal.journals import journal_in
from webapp.audit.journal.service import Journal


@pytest.fixture(scope="session")
def accesses_app(app: Flask) -> Iterator[Flask]:
    with misbehaving_app(app.extensions["settings"]) as made:
        yield made


@pytest.fixture
def accesses(accesses_app: Flask, worker: None) -> FlaskClient:
    return accesses_app.test_client()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted disk of one megabyte."""
    directory = tmp_path / "disk"
    directory.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "none"]
    mounted = subprocess.run(["mount", *options, directory], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with journal_in(tmp_path / "journal") as made:
        yield made
