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
def project(
    request: pytest.FixtureRequest, first_run: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """`make run`, for the pages of the group that is asked for."""
    project = copy_with_data(first_run, tmp_path_factory.mktemp(request.param) / "sightline")
    with running(project):
        yield project
