"""What `make run` gives a reader of the pages, made once and copied."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.product import Project, copy_with_data, make_first_run, running
from tests.stacks import TEMPLATE


@pytest.fixture(scope="session")
def first_run() -> Project:
    return make_first_run(Path(os.environ[TEMPLATE]).with_name("pages"))


@pytest.fixture(scope="module")
def shared_run(first_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """`make run` for all pages that leave to others what these show."""
    project = copy_with_data(first_run, tmp_path_factory.mktemp("shared") / "sightline")
    with running(project):
        yield project


@pytest.fixture
def own_run(first_run: Project, tmp_path: Path) -> Iterator[Project]:
    """`make run` for one page."""
    project = copy_with_data(first_run, tmp_path / "sightline")
    with running(project):
        yield project
