"""A page of the documentation, as the steps that its reader takes.

A page says what to do in fenced blocks:

- `bash` is pasted into a shell. The `text` block that follows it is what it prints, all of it and
  in order; without one it prints nothing. A line `…` stands for lines that are left out, and `…` in
  a line for a part of it.
- `sh` is for the reader alone: targets of make.
- A block under a line that is nothing but a path in bold, **`draft.yaml`**, is the content of that
  file. If it is a `diff`, it is a change to that file.
- Other blocks are illustrations.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

FENCE = re.compile(
    r"^(?:\*\*`(?P<path>[^`\n]+)`\*\*\n\n?)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Paste:
    line: int
    commands: str
    printed: str


@dataclass(frozen=True)
class Write:
    line: int
    path: str
    text: str


@dataclass(frozen=True)
class Change:
    line: int
    path: str
    before: str
    after: str


Step = Paste | Write | Change


@dataclass(frozen=True)
class Block:
    line: int
    kind: str
    path: str | None
    text: str


def blocks_of(text: str) -> list[Block]:
    return [
        Block(
            text.count("\n", 0, found.start("kind")) + 1,
            found["kind"],
            found["path"],
            found["text"],
        )
        for found in FENCE.finditer(_without_indentation(text))
    ]


def steps_of(text: str) -> list[Step]:
    return list(_steps(blocks_of(text)))


def read_steps(page: Path) -> list[Step]:
    return steps_of(page.read_text())


def _steps(blocks: list[Block]) -> Iterator[Step]:
    for block, following in zip_longest(blocks, blocks[1:]):
        match block:
            case Block(line, "diff", str(path), text):
                yield Change(line, path, _side(text, "-"), _side(text, "+"))
            case Block(line, _, str(path), text):
                yield Write(line, path, text)
            case Block(line, "bash", None, text):
                shown = following is not None and (following.kind, following.path) == ("text", None)
                yield Paste(line, text, following.text if shown and following else "")


def _side(diff: str, sign: str) -> str:
    """The lines of a diff as they are on one side of it."""
    kept = (line for line in diff.splitlines() if line[:1] in (sign, " ", ""))
    return "".join(f"{line[1:]}\n" for line in kept)


def _without_indentation(text: str) -> str:
    """Blocks of a list's items start at the margin, as they do on the page."""
    return re.sub(
        r"^( +)```.*?^\1```$",
        lambda found: re.sub(rf"^{found[1]}", "", found[0], flags=re.MULTILINE),
        text,
        flags=re.MULTILINE | re.DOTALL,
    )
