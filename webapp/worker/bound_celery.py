"""Celery that knows the application whose tasks it runs."""

from typing import Any

from celery import Celery
from flask import Flask


class BoundCelery(Celery):
    """Gives the parts that Celery makes, its scheduler and its consumer, the application."""

    def __init__(self, flask_app: Flask, **options: Any) -> None:
        super().__init__(flask_app.name, **options)
        self.flask_app = flask_app
