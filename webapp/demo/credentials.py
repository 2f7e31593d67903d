"""`demo.json`: the address of the demo's server and its accounts' tokens, for its owner only."""

import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

FILE = "demo.json"


@dataclass(frozen=True)
class Credentials:
    base_url: str
    tokens: dict[str, str]
    passwords: dict[str, str] = field(default_factory=dict)


def read_credentials(home: Path) -> Credentials | None:
    """Read the file; `None` if it is missing or not of this form."""
    try:
        raw = orjson.loads((home / FILE).read_bytes())
        return Credentials(str(raw["base_url"]), _texts(raw["tokens"]), _texts(raw["passwords"]))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_credentials(home: Path, credentials: Credentials) -> Path:
    """Replace the file as a whole. Other users can never read it."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=home, prefix=FILE)  # with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(asdict(credentials), option=orjson.OPT_INDENT_2) + b"\n")
        os.replace(draft, home / FILE)
    except BaseException:
        os.unlink(draft)
        raise
    return home / FILE


def _texts(raw: dict[str, object]) -> dict[str, str]:
    return {str(name): str(text) for name, text in raw.items()}
