"""Flask's contexts themselves. Where several things are wanted of one, each through Flask's proxies
costs as much as five without; all that a request does goes through here."""

from typing import Any

from flask import Flask, Request
from flask.ctx import RequestContext

# What its proxies `app_ctx` and `request_ctx` read.
from flask.globals import _cv_app, _cv_request


def environ_key(header: str) -> str:
    """Where WSGI's environment (PEP 3333) has a request's header: found there at once."""
    return f"HTTP_{header.upper().replace('-', '_')}"


def current_application() -> Flask:
    """Raises `RuntimeError` outside an application context, as all of them do."""
    try:
        return _cv_app.get().app
    except LookupError as error:
        raise RuntimeError("outside of an application context") from error


def current_state() -> dict[str, Any]:
    """What `flask.g` holds, by name."""
    try:
        return _cv_app.get().g.__dict__
    except LookupError as error:
        raise RuntimeError("outside of an application context") from error


def current_context() -> RequestContext:
    try:
        return _cv_request.get()
    except LookupError as error:
        raise RuntimeError("outside of a request") from error


def current_request() -> Request:
    try:
        return _cv_request.get().request
    except LookupError as error:
        raise RuntimeError("outside of a request") from error
