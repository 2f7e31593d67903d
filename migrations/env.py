"""How alembic runs here: always online, and never long behind another's lock.

`webapp.db.migrate` has the connection, and the lock that makes two releases at once take turns.
"""

from alembic import context
from sqlalchemy import text

from webapp.db.base import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
with context.begin_transaction():
    connection.execute(text("set local lock_timeout = '5s'"))
    context.run_migrations()
