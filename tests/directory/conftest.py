"""A second application, like a second process."""

from tests.identity.conftest import other_app

__all__ = ["other_app"]
