"""Alembic's environment: migrations run online.

`webapp.db.migrate` passes the connection, in a transaction that keeps other releases out and waits
for no lock for long.
"""

from alembic import context

from webapp.db.base import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
