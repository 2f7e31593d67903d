"""Redaction of log lines: no tokens, passwords, cookies or parameters of SQL."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

MASK = "***"
MAX_DEPTH = 8

_SECRET_NAME = re.compile(
    r"(password|passwd|passphrase|secret|authorization|cookie|credential)"
    r"|(api|private|mac|signing|encryption)[_-]?key$|tokens?$",
    re.IGNORECASE,
)

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"slt_[A-Za-z0-9_-]+"), "slt_" + MASK),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"(://[^\s:/?#@]*:)[^\s/]*@"), rf"\1{MASK}@"),
    (
        re.compile(
            r"\b(\w*(?:password|passwd|secret|secret_key|token|api_key)[\"']?\s*[=:]\s*)"
            r"(\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\b((?:set-)?cookie[\"']?\s*[=:]\s*)[^\r\n]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"^\[parameters: .*$", re.MULTILINE), f"[parameters: {MASK}]"),
)
"""Patterns of secrets, and what replaces them. The last pattern is for SQLAlchemy, which writes a
statement's parameters, people's data, on a line of their own."""


def redact(event: Mapping[str, Any]) -> dict[str, Any]:
    """Copy an event without its secrets; the copy has only JSON's types, times and UUIDs."""
    return {str(name): _redact(name, value, 1) for name, value in event.items()}


def scrub(text: str) -> str:
    """Mask everything in a text that resembles a secret."""
    for pattern, masked in _SECRETS:
        text = pattern.sub(masked, text)
    return text


def _redact(name: object, value: Any, depth: int) -> Any:
    if isinstance(name, str) and value is not None and _SECRET_NAME.search(name):
        return MASK
    return _clean(value, depth)


def _clean(value: Any, depth: int) -> Any:
    match value:
        case str():
            return scrub(value)
        case None | bool() | int() | float() | UUID() | datetime():
            return value
        case _ if depth >= MAX_DEPTH:
            return MASK
        case Mapping():
            return {scrub(str(key)): _redact(key, inner, depth + 1) for key, inner in value.items()}
        case (str() as name, inner) if isinstance(value, tuple):
            return [scrub(name), _redact(name, inner, depth + 1)]  # such as a header
        case list() | tuple() | set() | frozenset():
            return [_clean(inner, depth + 1) for inner in value]
    return scrub(repr(value))
