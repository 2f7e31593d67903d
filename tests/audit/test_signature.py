"""Tests of origin signatures: what holds under which keys."""

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.audit.events import make_event, make_request
from tests.audit.strategies import events
from webapp.audit import signature
from webapp.audit.event import AuditEvent, EventError, EventOrigin, Kind, dump_event
from webapp.audit.signature import (
    CONTEXT,
    RegisteredKey,
    Signer,
    check_signature,
    check_signatures,
    load_journaled,
    may_sign,
    sign_event,
)
from webapp.db.row_security import OWN_JOURNAL
from webapp.signing_key import SEED, SigningKey, fingerprint_of

KEY, OTHER = SigningKey("k" * 43), SigningKey("o" * 43)
WEB, RETIRED = RegisteredKey(KEY.public, "web"), RegisteredKey(KEY.public, "web", retired=True)
KEYS = {KEY.fingerprint: WEB}


def test_signature_holds_for_its_event_and_key_only() -> None:
    data, other = dump_event(make_event()), dump_event(make_event())
    signed = sign_event(KEY, data)
    assert check_signature(data, signed, KEYS) is WEB
    with pytest.raises(EventError, match=f"not what key {KEY.fingerprint} has signed"):
        check_signature(other, signed, KEYS)
    with pytest.raises(EventError, match="not registered"):
        check_signature(data, sign_event(OTHER, data), KEYS)
    under_our_name = sign_event(OTHER, data).replace(OTHER.fingerprint, KEY.fingerprint)
    with pytest.raises(EventError, match="not what key"):
        check_signature(data, under_our_name, KEYS)
    with pytest.raises(EventError, match="retired"):
        check_signature(data, signed, {KEY.fingerprint: RETIRED})


def test_signature_of_other_bytes_than_an_events_is_none_of_an_event() -> None:
    data = dump_event(make_event())
    bare = SigningKey("k" * 43).sign(data)
    signed = sign_event(KEY, data)
    assert KEY.sign(CONTEXT + data) != bare
    with pytest.raises(EventError):
        check_signature(CONTEXT + data, signed, KEYS)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text + "==",
        lambda text: text.replace(":", ";"),
        lambda text: text.upper(),
        lambda text: text[:-1] + "é",
        lambda text: text[:-1] + "B",
        lambda text: "\ud800" + text[1:],
        lambda text: f"{text}\n",
    ],
)
def test_text_that_is_no_signature_is_refused(change: object) -> None:
    data = dump_event(make_event())
    with pytest.raises(EventError, match="not a signature"):
        check_signature(data, change(sign_event(KEY, data)), KEYS)  # type: ignore[operator]  # a function


@given(events, st.data())
def test_signature_covers_every_byte(event: AuditEvent, data: st.DataObject) -> None:
    dumped = dump_event(event)
    position = data.draw(st.integers(0, len(dumped) - 1))
    flipped = bytearray(dumped)
    flipped[position] ^= 1
    with pytest.raises(EventError, match="not what key"):
        check_signature(bytes(flipped), sign_event(KEY, dumped), KEYS)


@pytest.mark.parametrize("count", [0, 1, 7, 4 * signature.WORTH_A_THREAD + 3])
def test_many_signatures_are_checked_each_in_its_place(count: int) -> None:
    dumped = [dump_event(make_event()) for _ in range(count)]
    signed = [(data, sign_event(KEY if n % 3 else OTHER, data)) for n, data in enumerate(dumped)]
    checked = check_signatures(signed, KEYS)
    assert [found is WEB for found in checked] == [n % 3 > 0 for n in range(count)]
    assert all(isinstance(checked[n], EventError) for n in range(0, count, 3))


@pytest.mark.parametrize("process", ["worker", "commands"])
def test_event_of_a_journal_is_believed_under_the_key_of_a_web_process_only(
    process: Signer,
) -> None:
    data = dump_event(make_event())
    assert dump_event(load_journaled(data, WEB)) == data
    with pytest.raises(EventError, match=f"of a {process} process"):
        load_journaled(data, replace(WEB, process=process))


def test_event_that_is_numbered_as_one_without_a_journal_comes_by_none() -> None:
    data = dump_event(make_event(origin=EventOrigin(OWN_JOURNAL, 1)))
    with pytest.raises(EventError, match="has no journal"):
        load_journaled(data, WEB)


@pytest.mark.parametrize(
    ("process", "journaled", "kind", "method", "may"),
    [
        ("web", True, "access", "GET", True),
        ("web", True, "change", "POST", True),
        ("worker", False, "change", "TASK", True),
        ("worker", False, "access", "CLI", False),
        ("worker", True, "change", "TASK", False),
        ("commands", False, "change", "CLI", True),
        ("commands", False, "access", "CLI", True),
        ("commands", False, "access", "GET", False),
        ("commands", True, "access", "CLI", False),
    ],
)
def test_each_process_signs_what_it_does_itself(
    process: Signer, journaled: bool, kind: Kind, method: str, may: bool
) -> None:
    request = replace(make_request("id"), method=method)
    origin = EventOrigin(uuid4() if journaled else OWN_JOURNAL, 1)
    assert may_sign(process, make_event(kind=kind, request=request, origin=origin)) is may


def test_key_is_named_by_its_public_part() -> None:
    assert KEY.fingerprint == fingerprint_of(KEY.public)
    assert len(KEY.fingerprint) == 16
    assert "k" * 8 not in repr(vars(KEY))


@pytest.mark.parametrize("end", ["", "kk", "B", "=", "+"])
def test_text_that_is_no_private_key_is_refused(end: str) -> None:
    assert SEED.fullmatch("k" * 43)
    assert SEED.fullmatch("k" * 42 + end) is None
