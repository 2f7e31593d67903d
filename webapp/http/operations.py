"""`@for_operators`: routes that only those who operate Sightline may read, where it is deployed.

Their credential is OPERATIONS_TOKEN, as a bearer token or as the password of HTTP's Basic scheme,
which browsers ask people for. It is no token of a principal: nothing that it opens is about a
tenant or a person.
"""

from collections.abc import Callable, Collection
from functools import wraps
from hmac import compare_digest
from typing import Any, TypeVar, cast

from flask import request

from webapp.http.errors import NotFound, Unauthenticated
from webapp.http.rate_limits import client_site, current_limits
from webapp.settings import current_settings

V = TypeVar("V", bound=Callable[..., Any])

CHALLENGE = 'Basic realm="Sightline for operators", charset="UTF-8", Bearer'


def for_operators(view: V) -> V:
    """Let a view answer in development, and elsewhere only to who shows OPERATIONS_TOKEN.

    Where none is set, there is no such page.
    """

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        settings = current_settings()
        if settings.deployed:
            _require(settings.operations_tokens)
        return view(*args, **kwargs)

    guarded.__operators__ = True  # type: ignore[attr-defined]  # read back by the API's description
    return cast(V, guarded)


def is_for_operators(view: Callable[..., Any]) -> bool:
    return hasattr(view, "__operators__")


def _require(tokens: Collection[str]) -> None:
    if not tokens:
        raise NotFound
    shown = _shown()
    if shown is None:
        raise Unauthenticated("Send OPERATIONS_TOKEN.", challenge=CHALLENGE)
    given = shown.encode(errors="replace")
    if True not in [compare_digest(given, token.encode()) for token in tokens]:
        current_limits().failures.take(client_site(request.remote_addr))
        raise Unauthenticated("This is not OPERATIONS_TOKEN.", challenge=CHALLENGE)


def _shown() -> str | None:
    """The token that the request carries, whoever's it is."""
    authorization = request.authorization
    if authorization is None:
        return None
    return authorization.password if authorization.type == "basic" else authorization.token
