"""What functions returned, remembered for the very same arguments."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar, TypeVarTuple

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


def remember_same(size: int) -> Callable[[Callable[[*Ts], R]], Callable[[*Ts], R]]:
    """Remember what a function of immutable arguments returned for the same objects, `size` times
    at most.

    For arguments that are themselves remembered somewhere: where `functools.lru_cache` would hash
    and compare all that they hold, here equal ones are another case, and computed anew.
    """

    def decorate(function: Callable[[*Ts], R]) -> Callable[[*Ts], R]:
        known: dict[tuple[int, ...], tuple[R, tuple[*Ts]]] = {}

        @wraps(function)
        def remembering(*args: *Ts) -> R:
            these = tuple(map(id, args))
            found = known.get(these)
            if found is None:
                if len(known) >= size:
                    known.clear()
                # The arguments are kept with it, so that no other objects get their ids.
                found = known[these] = function(*args), args
            return found[0]

        return remembering

    return decorate
