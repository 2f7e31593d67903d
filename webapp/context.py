"""Flask's contexts themselves. Where several things are wanted of one, each through Flask's proxies
costs as much as five without; all that a request does goes through here."""

from typing import Any

from flask import Flask, Request
from flask.globals import app_ctx, request_ctx


def environ_key(header: str) -> str:
    """Where WSGI's environment (PEP 3333) has a request's header: found there at once."""
    return f"HTTP_{header.upper().replace('-', '_')}"


def current_application() -> Flask:
    """Raises `RuntimeError` outside an application context, as all of them do."""
    app: Flask = app_ctx._get_current_object().app  # type: ignore[attr-defined]  # a LocalProxy
    return app


def current_state() -> dict[str, Any]:
    """What `flask.g` holds, by name."""
    state: dict[str, Any] = app_ctx._get_current_object().g.__dict__  # type: ignore[attr-defined]  # the same
    return state


def current_request() -> Request:
    asked: Request = request_ctx._get_current_object().request  # type: ignore[attr-defined]  # the same
    return asked
