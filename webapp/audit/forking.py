"""What a process must not take over from the one that forked it."""

import os
from collections.abc import Callable
from weakref import WeakMethod


def after_fork(do: Callable[[], None]) -> None:
    """Have a method called in the children of this process, for as long as its object lives."""
    method = WeakMethod(do)

    def call() -> None:
        found = method()
        if found is not None:
            found()

    os.register_at_fork(after_in_child=call)
