"""Extensions, unbound until `create_app` binds them to an application."""

from typing import Any

import marshmallow as ma
from celery import Celery, Task
from flask import Flask, current_app
from flask_caching import Cache
from flask_smorest import Api
from flask_sqlalchemy_lite import SQLAlchemy

from webapp.db import ScopedSession, refuse_unsafe_login_role
from webapp.settings import Settings


class Database(SQLAlchemy):
    """Flask-SQLAlchemy-Lite with the scoped session as its session's type."""

    @property
    def session(self) -> ScopedSession:
        session = super().session
        assert isinstance(session, ScopedSession)  # noqa: S101 - session_options make it so
        return session


db = Database(session_options={"class_": ScopedSession})
cache = Cache()
api = Api()


def current_settings() -> Settings:
    settings: Settings = current_app.extensions["settings"]
    return settings
