"""How alembic runs here: always online, one at a time, and never long behind another's lock."""

from alembic import context
from sqlalchemy import text

from webapp.db import Base

ADVISORY_LOCK = 5_741_639_220_415_837_001
"""Any number that nobody else takes: it makes two releases that migrate at once take turns."""

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
with context.begin_transaction():
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
    connection.execute(text("set local lock_timeout = '5s'"))
    context.run_migrations()
