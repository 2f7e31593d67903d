"""A second application, like a second process, and the tables' owner."""

from tests.identity.conftest import other_app
from tests.isolation.conftest import owner_engine

__all__ = ["other_app", "owner_engine"]
