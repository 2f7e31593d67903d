"""What `make run` gives a reader of the pages, made once and copied for each page."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.product import Project, Shell, copy_with_data, make_first_run, running
from tests.stacks import TEMPLATE


@pytest.fixture(scope="session")
def first_run() -> Project:
    return make_first_run(Path(os.environ[TEMPLATE]).with_name("pages"))


@pytest.fixture
def project(first_run: Project, tmp_path: Path) -> Project:
    return copy_with_data(first_run, tmp_path / "sightline")


@pytest.fixture
def shell(project: Project, tmp_path: Path) -> Iterator[Shell]:
    """A second terminal beside `make run`, in the project's directory."""
    with running(project):
        shell = Shell(project.root, tmp_path / "tmp")
        yield shell
        shell.close()
