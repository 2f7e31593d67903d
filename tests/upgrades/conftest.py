"""The last release's files, unpacked once."""

from pathlib import Path

import pytest

from tests.upgrades.last_release import find_last_release, unpack


@pytest.fixture(scope="session")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    commit = find_last_release()
    if commit is None:
        pytest.skip("no last release to run: no git, a shallow clone, or files without a history")
    return unpack(commit, tmp_path_factory.mktemp("last_release"))
