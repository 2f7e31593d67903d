"""The last release, which this version's schema and workers have to run beside."""

import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from tests.processes import ROOT

BEFORE_ANY = "764477ad8d4bd38b65ce386b79f3612b3da19fa1"
"""The commit that stands for the last release until there is one.

From it on a version is ready on the schema of the next one, its events have the fields and the
signatures that they have now, and its processes know the roles of the log and of administration,
and read no digest of a token: what is before it leaves out one of these.
"""

CONTRACTIONS: dict[str, str] = {}
"""What migrations since the last release take from it, as the test names it, each with the reason
why it can be taken: that no statement of the last release needs it. Emptied with each release."""


def find_last_release() -> str | None:
    """The newest tag `v*` that leads here, or what stands for it; `None` without its history."""
    if shutil.which("git") is None or _git("rev-parse", "--show-toplevel") != str(ROOT):
        return None
    named = _git("describe", "--tags", "--abbrev=0", "--match", "v*") or BEFORE_ANY
    return named if _git("cat-file", "-t", f"{named}^{{commit}}") == "commit" else None


def unpack(commit: str, directory: Path) -> Path:
    """Write the files of a commit."""
    command = ["git", "archive", commit]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(directory, filter="data")
    return directory


def _git(*arguments: str) -> str:
    """What git prints, or nothing where it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
