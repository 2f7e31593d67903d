"""The Celery tasks, each ten lines: call a service, commit. Importing this registers them all."""

from tasks import audit, identity

__all__ = ["audit", "identity"]
