"""`@public`: a view's declaration that it needs no principal, and why."""

from collections.abc import Callable
from typing import Any, TypeVar

V = TypeVar("V", bound=Callable[..., Any])


def public(reason: str) -> Callable[[V], V]:
    """Mark a view as open to anybody; `make lint-scope` refuses one without a reason."""

    def declare(view: V) -> V:
        view.__public__ = reason  # type: ignore[attr-defined]  # read back by the lint
        return view

    return declare


def is_public(view: Callable[..., Any]) -> bool:
    return hasattr(view, "__public__")
