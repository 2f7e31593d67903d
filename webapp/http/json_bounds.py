"""Bounds on the shape of JSON that comes in, checked before anything walks it by recursion."""

from collections.abc import Iterable

MAX_DEPTH = 16
"""How deep lists and objects may be nested."""

MAX_FIELDS = 100
"""How many fields an object in a body may have: each unknown one costs an error message."""


def is_too_deep(value: object) -> bool:
    """Whether lists and objects are nested deeper than MAX_DEPTH."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = _parts(level)
        if not level:
            return False
    return True


def has_too_many_fields(value: object) -> bool:
    """Whether an object in the value has more than MAX_FIELDS. The value must not be too deep."""
    level = [value]
    while level:
        if any(isinstance(part, dict) and len(part) > MAX_FIELDS for part in level):
            return True
        level = _parts(level)
    return False


def _parts(level: Iterable[object]) -> list[object]:
    """What the lists and objects among these values hold."""
    parts: list[object] = []
    for outer in level:
        if isinstance(outer, dict):
            parts += outer.values()
        elif isinstance(outer, (list, tuple)):
            parts += outer
    return parts
