"""What a process remembers: while it is current, and no more than it has room for."""

from webapp.caching import GenerationCache


def test_a_value_is_good_for_its_own_generations_only() -> None:
    remembered = GenerationCache()
    remembered.put("key", {"a": 1}, "value")
    assert remembered.get("key", {"a": 1}) == "value"
    assert remembered.get("key", {"a": 2}) is None
    assert remembered.get("other", {"a": 1}) is None
    assert remembered.entry("key") == ({"a": 1}, "value")


def test_those_that_were_put_longest_ago_make_room() -> None:
    remembered = GenerationCache(3)
    for number in (1, 2, 3, 1, 4):  # 1 is put anew
        remembered.put(number, 0, number)
    assert [remembered.get(number, 0) for number in (1, 2, 3, 4)] == [1, None, 3, 4]
