"""The application twice, as two processes are."""

from tests.identity.conftest import other_app

__all__ = ["other_app"]
