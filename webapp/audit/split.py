"""Splits a delivery that ends its worker, until the one event that does so is alone."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

PARTS = 16
"""Into how many deliveries one is split at most. Each gets the sets of tenants that it names."""


def split(delivery: object) -> list[list[Any]]:
    """Split a delivery; returns nothing where it has one event only.

    What is in the events is not looked into: whatever does so may end the worker.
    """
    items = delivery if isinstance(delivery, list) else []
    sets = {sha256(item[0].encode()).hexdigest(): item for item in items if _is_set(item)}
    events = [item for item in items if not _is_set(item)]
    if len(events) < 2:
        return []
    size = -(-len(events) // PARTS)
    parts = (events[start : start + size] for start in range(0, len(events), size))
    return [[*_named(sets, part), *part] for part in parts]


def _is_set(item: object) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 1 and isinstance(item[0], str)


def _named(sets: dict[str, Any], events: Sequence[Any]) -> list[Any]:
    texts = [
        item[0]
        for item in events
        if isinstance(item, (list, tuple)) and item and isinstance(item[0], str)
    ]
    return [item for digest, item in sets.items() if any(digest in text for text in texts)]
