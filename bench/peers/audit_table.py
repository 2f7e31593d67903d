"""The audit table that people commonly write: its columns, its indexes and a row of it.

Its rows can be found as the ledger's can: by id, by moment, and by tenant and moment.
"""

from datetime import UTC, datetime
from uuid import uuid4

import orjson
from flask import Request

COLUMNS = (
    *("id", "tenant_id", "occurred_at", "actor_email", "surface", "reason", "request_id", "event"),
)

Row = tuple[str | None, ...]
"""The values of COLUMNS, as text: a Celery message carries them as they are."""


def create(name: str) -> str:
    """The statements that create the table `name`."""
    return (
        f"create table {name} (id uuid primary key, tenant_id uuid,"
        " occurred_at timestamptz not null, actor_email text not null, surface text not null,"
        " reason text, request_id text not null, event jsonb not null);"
        f" create index on {name} (tenant_id, occurred_at, id);"
        f" create index on {name} (occurred_at, id)"
    )


def insert(name: str) -> str:
    """The statement that inserts a row into the table `name`."""
    values = ", ".join(["%s"] * len(COLUMNS))
    return f"insert into {name} ({', '.join(COLUMNS)}) values ({values})"  # noqa: S608 - constants


def row_of(request: Request) -> Row:
    """The row of an access to all tenants by this request."""
    event = {
        "method": request.method,
        "path": request.path,
        "ip": request.remote_addr,
        "user_agent": request.user_agent.string,
        "scope": "global",
        "decision": "allowed",
        "status": 200,
    }
    return (
        str(uuid4()),
        None,
        datetime.now(UTC).isoformat(),
        "engineer@example.org",
        "admin.rules.list",
        request.headers.get("Sightline-Reason"),
        uuid4().hex,
        orjson.dumps(event).decode(),
    )
