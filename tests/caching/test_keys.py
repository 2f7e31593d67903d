"""Tests of cache keys: equal for equal calls, and different for different calls."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.caching.keys import canonical, function_of, value_key


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    ONE = "1"


class Other(Enum):
    ONE = 1


@dataclass(frozen=True)
class One:
    field: Any


@dataclass(frozen=True)
class Another:
    field: Any


@dataclass
class Mutable:
    field: Any


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.uuids()
    | st.datetimes(timezones=st.just(UTC))
    | st.sampled_from([Number.ONE, Word.ONE, Other.ONE])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.builds(One, inner) | st.builds(Another, inner)
    ),
    max_leaves=6,
)


def typed(value: Any) -> Any:
    """Return a form that is equal for two values only if all their types are equal too."""
    if type(value) is tuple:
        return (tuple, *map(typed, value))
    if isinstance(value, One | Another):
        return (type(value), typed(value.field))
    return (type(value), value)


@given(values, values)
def test_keys_are_equal_for_equal_arguments_only(one: Any, other: Any) -> None:
    same = typed(one) == typed(other)
    assert (value_key("f", "v", (one,)) == value_key("f", "v", (other,))) is same


def test_keys_of_similar_arguments_differ() -> None:
    instant = datetime(2026, 1, 1, tzinfo=UTC)
    similar = [
        *(1, "1", True, None, "null", "", (), ((),), (1,), "[1]", ("tuple", 1), 2**63, str(2**63)),
        *(Number.ONE, Word.ONE, Other.ONE, One(1), Another(1), One("1"), One(True), One((1,))),
        *(UUID(int=1), UUID(int=1).hex, str(UUID(int=1)), ("uuid", UUID(int=1).hex)),
        *(instant, instant.isoformat(), instant.astimezone(timezone(timedelta(hours=1)))),
        ("integer", str(2**63)),
    ]
    keys = {value_key("f", "v", (value,)) for value in similar}
    assert len(keys) == len(similar)
    assert value_key("f", "v", ("a", "b")) != value_key("f", "v", (("a", "b"),))
    assert value_key("f", "va", ("b",)) != value_key("f", "v", ("ab",))
    assert value_key("f", "v", ()) != value_key("g", "v", ())


@pytest.mark.parametrize(
    "value",
    [
        *(1.0, b"", [], {}, set(), frozenset(), Mutable(1), int, One, One([])),
        *(datetime(2026, 1, 1), type("Str", (str,), {})(), "\ud800"),  # noqa: DTZ001 - naive on purpose
        pytest.param(object(), id="object()"),  # its repr differs in each process
    ],
    ids=repr,
)
def test_key_refuses_an_argument_of_an_unknown_type(value: object) -> None:
    with pytest.raises(TypeError):
        value_key("f", "v", (value,))


@given(values)
def test_canonical_form_is_json(value: Any) -> None:
    assert orjson.loads(orjson.dumps(canonical(value))) == canonical(value)


def test_key_names_its_function() -> None:
    assert function_of(value_key("module.f", "v", ())) == "module.f"
