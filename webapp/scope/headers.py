"""The scope and the reason of a request, parsed from its headers (RFC 9651 items)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import http_sf
from http_sf.types import DisplayString, Token

from webapp.text import LINE, is_line

ReasonCode = Literal["incident", "support_case", "fraud", "legal", "maintenance", "break_glass"]
REASON_CODES: tuple[ReasonCode, ...] = get_args(ReasonCode)

MAX_HEADER = 2048
MAX_TICKET = 128
MAX_NOTE = 1000


class HeaderError(ValueError):
    """A header is malformed; the text is for the person who sent it."""


@dataclass(frozen=True)
class Reason:
    code: ReasonCode
    ticket: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class RequestedTenant:
    slug: str


@dataclass(frozen=True)
class RequestedGlobal:
    pass


RequestedScope = RequestedTenant | RequestedGlobal


@lru_cache(maxsize=4096)
def parse_scope(header: str) -> RequestedScope:
    """Parse `global` or `tenant:<slug>`; raises `HeaderError`."""
    token, parameters = _parse_item(header)
    if parameters:
        raise HeaderError("takes no parameters")
    if token == "global":  # noqa: S105 - a structured field's token, not a secret
        return RequestedGlobal()
    kind, _, slug = token.partition(":")
    if kind != "tenant" or not slug:
        raise HeaderError("must be `global` or `tenant:<slug>`")
    return RequestedTenant(slug)


@lru_cache(maxsize=4096)
def parse_reason(header: str) -> Reason:
    """Parse `<code>;ticket="…";note="…"`; raises `HeaderError`."""
    token, parameters = _parse_item(header)
    code = next((known for known in REASON_CODES if known == token), None)
    if code is None:
        raise HeaderError(f"must begin with one of {', '.join(REASON_CODES)}")
    unknown = parameters.keys() - {"ticket", "note"}
    if unknown:
        raise HeaderError("takes only the parameters ticket and note")
    return Reason(
        code,
        ticket=_text(parameters, "ticket", MAX_TICKET),
        note=_text(parameters, "note", MAX_NOTE),
    )


def _parse_item(header: str) -> tuple[str, dict[str, object]]:
    if len(header) > MAX_HEADER:
        raise HeaderError(f"is longer than {MAX_HEADER} characters")
    try:
        item: Any = http_sf.parse(header.encode("latin-1"), tltype="item")
        value, parameters = item
    except ValueError as error:
        raise HeaderError("is not a structured field item (RFC 9651)") from error
    if not isinstance(value, Token):
        raise HeaderError("must begin with a token, without quotes")
    return str(value), parameters


def _text(parameters: dict[str, object], name: str, longest: int) -> str | None:
    value = parameters.get(name)
    if value is None:
        return None
    text = str(value)
    if not isinstance(value, (str, DisplayString)) or not 0 < len(text) <= longest:
        raise HeaderError(f"{name} must be a string of 1 to {longest} characters")
    if not is_line(text):
        raise HeaderError(f"{name} must be {LINE}")
    return text
