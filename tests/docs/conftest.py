"""What `make run` gives a reader of the pages, made once and copied for each page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.product import Project, Shell, copy_project, copy_with_data, running


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which `make run` was called once, and ended."""
    project = copy_project(tmp_path_factory.mktemp("pages") / "sightline")
    with running(project):
        return project


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
