"""The Celery tasks. Each calls a service and commits. Importing this package registers them all."""

from tasks import audit, grants, identity, keys, ledger, notices, rules

__all__ = ["audit", "grants", "identity", "keys", "ledger", "notices", "rules"]
