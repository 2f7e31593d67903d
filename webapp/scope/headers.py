"""The scope and the reason of a request, parsed from its headers (RFC 9651 items)."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import http_sf
from http_sf.types import BareItemType, DisplayString, Token

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
    except http_sf.StructuredFieldError as error:
        raise HeaderError(_describe(header, error)) from error
    except ValueError as error:
        raise HeaderError(f"cannot be read. {_FORM}") from error
    if not isinstance(value, Token):
        raise HeaderError("must begin with a token, without quotes")
    return str(value), parameters


_FORM = (
    "It must be an item of RFC 9651, as in `tenant:acme`,"
    ' or `incident;ticket="INC-4711";note="login fails"`'
)


def _describe(header: str, error: http_sf.StructuredFieldError) -> str:
    """What is wrong with a header, and how it should look."""
    if error.position is None:
        return f"cannot be read. {_FORM}"
    where = f"cannot be read at character {error.position + 1}"
    character = error.offending_char
    if error.context and character is not None and not 0x20 <= character < 0x7F:
        written = re.search(rf';\s*{re.escape(error.context)}="([^"]*)"?', header)
        shown = _display_string(error.context, written[1]) if written else None
        return f"{where}: text beyond ASCII stands in a display string, as in `{shown or _CAFE}`"
    return f"{where}. {_FORM}"


_CAFE = 'note=%"caf%c3%a9"'


def _display_string(name: str, raw: str) -> str | None:
    """How a parameter should look whose text has been sent as it is; `None` if it has no form."""
    try:
        text = raw.encode("latin-1").decode()
    except UnicodeDecodeError:
        text = raw
    if not text or not is_line(text):
        return None
    parameters: dict[str, BareItemType] = {name: DisplayString(text)}
    return http_sf.ser((Token("x"), parameters)).partition(";")[2]


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
