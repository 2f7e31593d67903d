"""What is remembered for the very same objects, and only for them."""

from dataclasses import dataclass
from uuid import UUID

import pytest

from webapp.memo import remember_same


@dataclass(frozen=True)
class Key:
    value: int


@pytest.fixture
def calls() -> list[tuple[object, ...]]:
    return []


def test_a_call_with_the_same_objects_is_made_once(calls: list[tuple[object, ...]]) -> None:
    @remember_same(10)
    def pair(first: Key, second: UUID | None) -> tuple[int, UUID | None]:
        calls.append((first, second))
        return first.value, second

    key, other = Key(1), UUID(int=1)
    assert pair(key, other) is pair(key, other)
    assert pair(key, None) == (1, None)
    assert pair(key, None) == (1, None)
    assert calls == [(key, other), (key, None)]


def test_an_equal_object_is_another(calls: list[tuple[object, ...]]) -> None:
    @remember_same(10)
    def value(key: Key) -> int:
        calls.append((key,))
        return key.value

    assert [value(Key(1)), value(Key(1))] == [1, 1]
    assert len(calls) == 2


def test_objects_that_come_and_go_are_never_taken_for_each_other() -> None:
    """Their ids are used again, as soon as nobody keeps them."""

    @remember_same(10)
    def value(key: Key) -> int:
        return key.value

    assert [value(Key(number)) for number in range(1000)] == list(range(1000))


def test_what_fails_is_tried_again(calls: list[tuple[object, ...]]) -> None:
    @remember_same(10)
    def value(key: Key) -> int:
        calls.append((key,))
        if len(calls) == 1:
            raise ValueError("once")
        return key.value

    key = Key(1)
    with pytest.raises(ValueError, match="once"):
        value(key)
    assert value(key) == 1


def test_no_more_is_kept_than_was_asked_for(calls: list[tuple[object, ...]]) -> None:
    @remember_same(2)
    def value(key: Key) -> int:
        calls.append((key,))
        return key.value

    first, second, third = Key(1), Key(2), Key(3)
    for key in (first, second, first, second, third, third, first):
        assert value(key) == key.value
    assert calls == [(first,), (second,), (third,), (first,)]
