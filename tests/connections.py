"""Engines beside an application's own, for looking at what it did."""

from flask import Flask
from sqlalchemy import Engine, create_engine

BESIDE = "engines beside"


def engine_beside(app: Flask, url: str, lock_timeout: str = "0") -> Engine:
    """An engine of an application's tests, which keeps its connections for the next test."""
    engines: dict[tuple[str, str], Engine] = app.extensions.setdefault(BESIDE, {})
    if (url, lock_timeout) not in engines:
        options = {"options": f"-c lock_timeout={lock_timeout}"}
        engines[url, lock_timeout] = create_engine(url, connect_args=options, pool_pre_ping=True)
    return engines[url, lock_timeout]


def dispose_engines_beside(app: Flask) -> None:
    for engine in app.extensions.pop(BESIDE, {}).values():
        engine.dispose()
