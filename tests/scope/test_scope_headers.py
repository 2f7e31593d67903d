"""The header parsers: what they accept, and that they refuse everything else."""

import http_sf
import pytest
from http_sf.types import BareItemType, DisplayString, Token
from hypothesis import given
from hypothesis import strategies as st

from webapp.scope.headers import (
    MAX_HEADER,
    MAX_NOTE,
    MAX_TICKET,
    REASON_CODES,
    HeaderError,
    Reason,
    ReasonCode,
    RequestedGlobal,
    RequestedScope,
    RequestedTenant,
    parse_reason,
    parse_scope,
)
from webapp.text import is_line

header_text = st.text(st.characters(max_codepoint=0xFF))
slugs = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
ascii_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1).filter(
    is_line
)
unicode_text = st.text(st.characters(min_codepoint=0x20).filter(is_line), min_size=1)


def written(code: str, **parameters: BareItemType) -> str:
    return http_sf.ser((Token(code), parameters))


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("global", RequestedGlobal()),
        ("tenant:acme", RequestedTenant("acme")),
        (" tenant:a ", RequestedTenant("a")),
    ],
)
def test_scope_header_is_parsed_as_global_or_tenant(header: str, wanted: RequestedScope) -> None:
    assert parse_scope(header) == wanted


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Global",
        "tenant",
        "tenant:",
        "tenants:acme",
        '"global"',
        "global;x=1",
        "global, global",
        "tenant:acme, tenant:globex",
        "global tenant:acme",
        "1",
        "tenant:acme\x00",
        "tenant:" + "a" * MAX_HEADER,
    ],
)
def test_other_scope_header_is_refused(header: str) -> None:
    with pytest.raises(HeaderError):
        parse_scope(header)


@given(slugs)
def test_scope_header_of_every_slug_is_parsed(slug: str) -> None:
    assert parse_scope(f"tenant:{slug}") == RequestedTenant(slug)


@given(header_text)
def test_any_scope_header_is_parsed_or_raises_header_error(header: str) -> None:
    try:
        wanted = parse_scope(header)
    except HeaderError:
        return
    assert wanted == RequestedGlobal() or isinstance(wanted, RequestedTenant)


def test_reason_header_is_parsed_with_ticket_and_note() -> None:
    header = 'incident;ticket="INC-4711";note="login fails for all"'
    assert parse_reason(header) == Reason("incident", "INC-4711", "login fails for all")


@given(
    code=st.sampled_from(REASON_CODES),
    ticket=st.none() | ascii_text.filter(lambda text: len(text) <= MAX_TICKET),
    note=st.none() | unicode_text.filter(lambda text: len(text) <= MAX_NOTE),
)
def test_written_reason_header_is_parsed_to_the_same_reason(
    code: ReasonCode, ticket: str | None, note: str | None
) -> None:
    parameters: dict[str, BareItemType] = {}
    if ticket is not None:
        parameters["ticket"] = ticket
    if note is not None:
        parameters["note"] = DisplayString(note)
    header = written(code, **parameters)
    if len(header) <= MAX_HEADER:
        assert parse_reason(header) == Reason(code, ticket, note)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "curiosity",
        "Incident",
        '"incident"',
        'incident;ticket=""',
        "incident;ticket=INC-1",
        "incident;ticket=1",
        "incident;ticket",
        'incident;TICKET="INC-1"',
        'incident;customer="acme"',
        'incident;note=%"%00"',
        'incident;note=%"%0a"',
        'incident;note=%"%e2%80%ae"',
        'incident, fraud;ticket="INC-1"',
        'incident;ticket="INC-1',
    ],
)
def test_other_reason_header_is_refused(header: str) -> None:
    with pytest.raises(HeaderError):
        parse_reason(header)


@pytest.mark.parametrize(("name", "longest"), [("ticket", MAX_TICKET), ("note", MAX_NOTE)])
def test_reason_header_bounds_ticket_and_note(name: str, longest: int) -> None:
    assert getattr(parse_reason(written("legal", **{name: "x" * longest})), name) == "x" * longest
    with pytest.raises(HeaderError):
        parse_reason(written("legal", **{name: "x" * (longest + 1)}))


@given(
    header_text | st.sampled_from(REASON_CODES).flatmap(lambda code: header_text.map(code.__add__))
)
def test_any_reason_header_is_parsed_or_raises_header_error(header: str) -> None:
    try:
        reason = parse_reason(header)
    except HeaderError:
        return
    assert reason.code in REASON_CODES
    assert all(text is None or is_line(text) for text in (reason.ticket, reason.note))


@given(st.text())
def test_header_beyond_latin_1_is_refused(header: str) -> None:
    """WSGI cannot deliver such a header, but its error is a `HeaderError` too."""
    for parse in (parse_scope, parse_reason):
        try:
            parse(header)
        except HeaderError:
            continue
