"""Tests of the generation cache: it returns current values only, and keeps to its size."""

from webapp.caching import GenerationCache


def test_value_is_returned_for_its_own_generations_only() -> None:
    cache = GenerationCache()
    cache.put("key", {"a": 1}, "value")
    assert cache.get("key", {"a": 1}) == "value"
    assert cache.get("key", {"a": 2}) is None
    assert cache.get("other", {"a": 1}) is None
    assert cache.entry("key") == ({"a": 1}, "value")


def test_value_that_was_put_first_is_dropped_from_a_full_cache() -> None:
    cache = GenerationCache(3)
    for number in (1, 2, 3, 1, 4):  # 1 is put anew
        cache.put(number, 0, number)
    assert [cache.get(number, 0) for number in (1, 2, 3, 4)] == [1, None, 3, 4]


def test_values_are_dropped_by_what_they_weigh_together() -> None:
    cache = GenerationCache(10, weigh=len)
    for key, value in enumerate(("four", "four", "three")):
        cache.put(key, 1, value)
    assert [cache.get(key, 1) for key in range(3)] == [None, "four", "three"]
    cache.put(1, 2, "x")
    cache.put(3, 2, "four")
    assert [cache.get(1, 2), cache.get(2, 1), cache.get(3, 2)] == ["x", "three", "four"]
    cache.put(4, 2, "far too heavy")
    assert cache.get(4, 2) == "far too heavy"
    assert cache.get(3, 2) is None
