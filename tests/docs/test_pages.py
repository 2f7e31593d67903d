"""Each page does what it shows: its blocks are pasted into a shell beside `make run`, in order."""

import re
from contextlib import closing
from pathlib import Path

import pytest

from tests.docs.pages import Change, Paste, Step, Write, blocks_of, read_steps
from tests.docs.particulars import Differs, Particulars
from tests.docs.product import Project, Shell
from tests.processes import ROOT

pytestmark = pytest.mark.slow(seconds=8)

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
WITH_COMMANDS = [page for page in PAGES if any(isinstance(s, Paste) for s in read_steps(page))]


TOGETHER = [
    [
        "docs/operations/journal.md",  # it counts all events
        "docs/operations/health.md",  # it counts accesses that the web server took
        "README.md",
        "docs/operations/database.md",
        "docs/operations/front.md",
        "docs/operations/settings.md",
        "docs/operations/traces.md",
        "docs/operations/upgrade.md",
        "docs/operations/people.md",  # it lists all people
        "docs/elevations.md",
    ],
    [
        "docs/rules-as-files.md",  # it counts all rules
        "docs/operations/install.md",
        "docs/operations/backup.md",  # it exchanges the database
    ],
]
"""Pages that one product serves, in this order: what one leaves, no later one shows. Every other
page has a product of its own."""


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


NAMES = [_name(page) for page in WITH_COMMANDS]
GROUPS = [*TOGETHER, *([name] for name in NAMES if name not in sum(TOGETHER, []))]


@pytest.mark.parametrize(
    ("project", "page"),
    [(f"group{number}", name) for number, group in enumerate(GROUPS) for name in group],
    indirect=["project"],
    scope="module",  # a product stays for its whole group
    ids=sum(GROUPS, []),
)
def test_page_prints_what_it_shows(page: str, project: Project, tmp_path: Path) -> None:
    _follow(ROOT / page, project, tmp_path)


def test_each_page_with_commands_is_followed_once() -> None:
    assert sorted(sum(GROUPS, [])) == sorted(NAMES)


def _follow(page: Path, project: Project, tmp_path: Path) -> None:
    """Take a page's steps in a second terminal, in the project's directory."""
    particulars = Particulars()
    with closing(Shell(project.root, tmp_path / "tmp")) as shell:
        for step in read_steps(page):
            problem = _problem(step, project, shell, particulars)
            assert problem is None, f"{_name(page)}:{step.line}: {problem}"


def _problem(
    step: Step, project: Project, shell: Shell, particulars: Particulars
) -> Differs | None:
    try:
        _take(step, project, shell, particulars)
    except Differs as difference:
        return difference
    return None


def _take(step: Step, project: Project, shell: Shell, particulars: Particulars) -> None:
    match step:
        case Paste(_, commands, shown):
            printed, status = shell.paste(commands)
            particulars.compare(shown, printed)
            if status:
                raise Differs(f"the last command exits with {status}:\n{printed}")
        case Write(_, name, text):
            file = project.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        case Change(_, name, before, after):
            file = project.root / name
            text = file.read_text()
            if text.count(before) != 1:
                raise Differs(f"{name} has {text.count(before)} places that are:\n{before}")
            file.write_text(text.replace(before, after))


def test_readme_shows_what_make_run_says(first_run: Project) -> None:
    shown = next(b.text for b in blocks_of((ROOT / "README.md").read_text()) if b.kind == "text")
    by_make, by_the_stack = shown.split("Starting Redis", 1)
    requirements = (ROOT / "requirements-run.txt").read_text()
    pins = re.findall(r"^\S+==(?!.*win32).*$", requirements, re.MULTILINE)
    assert by_make.splitlines()[0] == "Creating a Python environment in .venv …"
    assert by_make.splitlines()[1:] == [
        f"Installing {len(pins)} packages, PostgreSQL and Redis among them …"
    ]
    said = first_run.said.split("Starting Redis", 1)[1]
    end = said.index("Ctrl-C\n") + len("Ctrl-C\n")
    Particulars().compare(by_the_stack, said[:end])
