"""Callbacks for the children of a fork, which must not use their parent's threads and files."""

import os
from collections.abc import Callable
from weakref import WeakMethod


def after_fork(do: Callable[[], None]) -> None:
    """Call a method in each child process of a fork, as long as the method's object lives."""
    method = WeakMethod(do)

    def call() -> None:
        found = method()
        if found is not None:
            found()

    os.register_at_fork(after_in_child=call)
