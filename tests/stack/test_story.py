"""`make demo`: the story is printed line by line, and nothing of it is left."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.slow(seconds=15)

PATIENCE = 240
ID = "[0-9a-f-]{36}"
ACCESS = (
    "> GET /admin/api/rules?limit=200",
    "> as engineer",
    "> Sightline-Scope: global",
    '> Sightline-Reason: incident;ticket="INC-4711"',
    "< 200 OK",
)
STORY = (
    "The story of one incident, on servers of its own that end with it.",
    "Starting PostgreSQL and Redis …",
    "Filling in three tenants: Acme, Globex and Initech …",
    "Starting the web server and the worker …",
    "1. An engineer reads the rules of all tenants, because of an incident.",
    *ACCESS,
    "< Sightline-Audit: RECEIPT   (the receipt: the record is on disk already)",
    "< Sightline-Excluded: 0   (no tenant is left out)",
    "< 191 rules: 60 of acme, 60 of globex, 60 of initech, 11 of the platform",
    "2. Acme's admin sees who it was, where, and why.",
    "> GET /admin/api/audits?surface=admin.rules.list&limit=1",
    "> as acme-admin",
    "< 200 OK",
    "< RECEIPT   (the receipt's record, in the ledger)",
    "< engineer@sightline.example at admin.rules.list: served",
    "< incident, INC-4711",
    "3. Acme says no: its admin writes a rule.",
    "> POST /admin/api/rules",
    "> as acme-admin",
    '> {"name":"Not during our audit","effect":"deny","surfaces":["admin.rules.*"],'
    '"reasons":["incident"]}',
    "< 201 Created",
    "< a rule of acme, version 1",
    "4. The very next access leaves Acme out, and says so.",
    *ACCESS,
    "< Sightline-Audit: ID",
    "< Sightline-Excluded: 1   (Acme)",
    "< 131 rules: 60 of globex, 60 of initech, 11 of the platform",
    "5. The engineer goes on reading, and PostgreSQL is killed.",
    "10 more accesses are answered, each with its receipt.",
    "$ kill -9 NUMBER",
    "NUMBER more are answered from the cache, each with its receipt; the next is refused:",
    "< 503 Service Unavailable",
    "< The database does not answer",
    "6. PostgreSQL is started again, and accesses are answered again.",
    *ACCESS,
    "< Sightline-Audit: ID",
    "7. Nothing is lost: the ledger has every receipt, and every number.",
    "> GET /admin/api/audits?actor=engineer%40sightline.example&limit=200",
    "> as auditor",
    *ACCESS[2:],
    "< NUMBER receipts, each of them once in the ledger",
    "$ flask --app wsgi audit verify --complete",
    "NUMBER events of 3 journals: 0 missing, NUMBER waiting in files on this host.",
    "Told in NUMBER seconds. The servers have ended; nothing is left.",
    "For servers that stay: make run",
)


@contextmanager
def story(temporary: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the story. Nothing of it may be left afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "webapp.stack.story"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    assert list(temporary.iterdir()) == []
    assert [p for p in psutil.process_iter(["environ"]) if _is_of(p, temporary)] == []


def _is_of(process: psutil.Process, temporary: Path) -> bool:
    environment: dict[str, str] = process.info["environ"] or {}
    return environment.get("TMPDIR") == str(temporary)


def pattern(line: str) -> str:
    """Make a regular expression of a line. The first receipt of the story comes again later."""
    named = re.escape(line).replace("NUMBER", "[0-9]+").replace("ID", ID)
    return named.replace("RECEIPT", f"(?P<receipt>{ID})")


def test_story_is_told_line_by_line(tmp_path: Path) -> None:
    with story(tmp_path) as process:
        output, complaints = process.communicate(timeout=PATIENCE)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    receipts = set()
    for line, expected in zip(lines, STORY, strict=False):
        match = re.fullmatch(pattern(expected), line)
        assert match is not None, f"{line!r} is not {expected!r}"
        receipts |= set(match.groupdict().values())
    assert len(lines) == len(STORY), output[-1000:] + complaints
    assert len(receipts) == 1
    assert (process.returncode, complaints) == (0, "")


def read_until(process: subprocess.Popen[str], chapter: str) -> None:
    assert process.stdout is not None
    while not process.stdout.readline().startswith(chapter):
        assert process.poll() is None


def test_story_that_goes_another_way_fails(tmp_path: Path) -> None:
    with story(tmp_path) as process:
        read_until(process, "1. ")
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "gunicorn" in " ".join(child.cmdline()):
                    child.kill()
        output, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert complaints.startswith("sightline: the story went another way: Nothing of ours answers")
    assert "Nothing is lost" not in output


def test_interrupted_story_leaves_nothing(tmp_path: Path) -> None:
    with story(tmp_path) as process:
        read_until(process, "1. ")
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, complaints) == (130, "")
