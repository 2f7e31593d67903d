"""An auditor's directory: the verifier, a policy, and what is to be checked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.verifier.logs import SEALED_AT
from verifier import sightline_verify as verifier

AS_OF = (SEALED_AT + timedelta(minutes=5)).isoformat()


@dataclass(frozen=True)
class Verdict:
    code: int
    text: str
    words: dict[str, int]
    """How often each word was found."""
    lines: list[dict[str, Any]]

    @property
    def faults(self) -> set[str]:
        return set(self.words) & set(verifier.FAULTS)


@dataclass
class Desk:
    directory: Path
    capsys: pytest.CaptureFixture[str]

    def verify(self, lines: Sequence[bytes], policy: str, *options: str) -> Verdict:
        self.put("export.jsonl", b"".join(lines))
        return self.run("export", policy, str(self.directory / "export.jsonl"), *options)

    def put(self, name: str, data: bytes) -> str:
        (self.directory / name).write_bytes(data)
        return str(self.directory / name)

    def run(self, command: str, policy: str, *options: str) -> Verdict:
        named = ("--policy", self.put("policy", policy.encode()))
        evidence = ("--evidence", str(self.directory / "evidence"))
        at = () if "--as-of" in options else ("--as-of", AS_OF)
        code = verifier.main([command, *options, *named, *evidence, *at, "--json"])
        *lines, last = map(json.loads, self.capsys.readouterr().out.splitlines())
        return Verdict(code, last["text"], last.get("found", {}), lines)
