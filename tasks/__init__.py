"""The Celery tasks, each ten lines: call a service, commit. Importing this registers them all."""

from tasks import audit, grants, identity, notices

__all__ = ["audit", "grants", "identity", "notices"]
