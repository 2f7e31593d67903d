"""What is installed: each pin with its hashes, and a bill of materials that names all of them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from flask import Flask

from tests.processes import ROOT
from webapp.doctor import CHECKS
from webapp.observability.health import PROBES

PINS = sorted(path.relative_to(ROOT) for path in ROOT.glob("**/requirements*.txt"))
PINS = [path for path in PINS if not path.parts[0].startswith(".")]


def pins_of(path: Path) -> dict[str, list[str]]:
    """The version of each pin, and its hashes."""
    text = (ROOT / path).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = {}
    for line in lines:
        pinned = re.match(r"([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", line)
        assert pinned, line
        found[f"{pinned[1]} {pinned[2]}"] = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line)
    return found


@pytest.mark.parametrize("path", PINS, ids=str)
def test_every_pin_has_hashes(path: Path) -> None:
    pins = pins_of(path)
    assert pins
    assert [name for name, hashes in pins.items() if not hashes] == []


def test_every_file_of_pins_is_known() -> None:
    named = {f"requirements{of}.txt" for of in ("", "-run", "-traces", "-dev")}
    assert set(map(str, PINS)) == named | {"bench/peers/requirements.txt"}


@pytest.mark.slow(seconds=5)
def test_bill_of_materials_names_every_pin_and_is_the_same_each_time(tmp_path: Path) -> None:
    written = []
    for number in range(2):
        copy = tmp_path / str(number)
        copy.mkdir()
        for name in ("Makefile", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        (copy / ".venv").symlink_to((ROOT / ".venv").resolve())
        done = subprocess.run(
            ["make", "--assume-old=.venv/.ready", "--assume-old=.venv/.runnable", "sbom"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        written.append((copy / "sbom.json").read_bytes())
    assert written[0] == written[1]
    bill = json.loads(written[0])
    assert bill["bomFormat"] == "CycloneDX"
    named = {f"{part['name']} {part['version']}" for part in bill["components"]}
    assert named == set(pins_of(Path("requirements.txt")))


def test_hardening_page_names_just_what_doctor_checks(app: Flask) -> None:
    page = (ROOT / "docs" / "operations" / "hardening.md").read_text()
    table = page.partition("## What it cannot check")[0]
    named = re.findall(r"^\| ([^|]+) \| ", table, re.MULTILINE)
    assert named[1:] == [*CHECKS["database"], *CHECKS["host"], *app.extensions[PROBES]]
