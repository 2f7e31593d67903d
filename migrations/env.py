"""Alembic's environment: migrations run online, and never wait long for a lock.

`webapp.db.migrate` passes the connection. It holds the lock that makes concurrent releases take
turns.
"""

from alembic import context
from sqlalchemy import text

from webapp.db.base import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
with context.begin_transaction():
    connection.execute(text("set local lock_timeout = '5s'"))
    context.run_migrations()
