"""Load by wrk: a run counts the answers of one target; a checked run compares each of them."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CONNECTIONS = 16

MISSING = """wrk is not on the PATH, and no list can be measured without it.
  Debian, Ubuntu: apt-get install wrk (`make bench` does it where it runs as root)
  macOS: brew install wrk
  otherwise: https://github.com/wg/wrk"""

_DONE = """
done = function(summary, latency, requests)
  local errors, bad = summary.errors, 0
  for _, thread in ipairs(threads) do bad = bad + (thread:get("bad") or 0) end
  io.write(string.format('\\nRESULT {"requests":%d,"microseconds":%d,"p50_us":%d,"p99_us":%d,'
    .. '"bad_status":%d,"broken":%d,"bad":%d}\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, bad))
end
"""

_CHECK = """
init = function()
  local file = io.open([==[{body}]==], "rb")
  expected = file:read("*a")
  file:close()
  seen = {{}}
end
response = function(status, headers, body)
  local lower = {{}}
  for name, value in pairs(headers) do lower[string.lower(name)] = value end
  local good = status == {status} and (body or "") == expected
  if status == 200 and lower["content-type"] ~= "application/json" then good = false end
  for _, name in ipairs({{ {required} }}) do
    if (lower[name] or "") == "" then good = false end
  end
  for _, name in ipairs({{ {unique} }}) do
    local value = name .. ":" .. (lower[name] or "")
    if lower[name] == nil or seen[value] then good = false end
    seen[value] = true
  end
  if not good then bad = bad + 1 end
end
"""


@dataclass(frozen=True)
class Target:
    """A request that is sent again and again, and what its answer has to be."""

    name: str
    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    requires: tuple[str, ...] = ()
    """Response headers, in lower case, that each answer must have."""
    unique: tuple[str, ...] = ()
    """Response headers that each answer must have, with a value that no other answer has."""


@dataclass(frozen=True)
class Run:
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    wrong: int
    """Answers of another status, and requests without an answer. A checked run adds the answers
    with another body or other headers."""
    cpu_seconds: float = 0.0
    """The CPU time of the server's worker during the run, where the caller has measured it."""

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """The CPU time of one answer."""
        return self.cpu_seconds * 1e6 / self.requests


class WrkMissing(Exception):
    """wrk is not installed; the message says how to install it."""


def find_wrk() -> str:
    path = shutil.which("wrk")
    if path is None:
        raise WrkMissing(MISSING)
    return path


def run(target: Target, seconds: int, *, check: bool = False) -> Run:
    """Run wrk once. `check` compares every answer, and so slows wrk: its rate says nothing."""
    with tempfile.TemporaryDirectory() as directory:
        body = Path(directory, "body")
        body.write_bytes(target.body)
        script = Path(directory, "run.lua")
        script.write_text(_script(target, body if check else None))
        options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
        command = [find_wrk(), *options, target.url]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [result] = [line for line in shown.splitlines() if line.startswith("RESULT ")]
    counted = json.loads(result.removeprefix("RESULT "))
    return Run(
        requests=counted["requests"],
        seconds=counted["microseconds"] / 1e6,
        p50_ms=counted["p50_us"] / 1e3,
        p99_ms=counted["p99_us"] / 1e3,
        wrong=counted["bad_status"] + counted["broken"] + counted["bad"],
    )


def _script(target: Target, body: Path | None) -> str:
    headers = "".join(
        f"wrk.headers[ [==[{name}]==] ] = [==[{value}]==]\n"
        for name, value in target.headers.items()
    )
    setup = "threads = {}\nbad = 0\nsetup = function(thread) table.insert(threads, thread) end\n"
    check = ""
    if body is not None:
        check = _CHECK.format(
            body=body,
            status=target.status,
            required=_quoted(target.requires),
            unique=_quoted(target.unique),
        )
    return headers + setup + check + _DONE


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)
