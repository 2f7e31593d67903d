"""Databases on a PostgreSQL of their own, and the settings that lead the product to them."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import psycopg2

from tests.caching.servers import PostgresServer
from webapp.db import migrate
from webapp.stack.home import LOGIN_URLS
from webapp.stack.servers import OWNER_ROLE

PASSWORD = "pass word's \\100% %s :x"  # noqa: S105 - one that needs every kind of quoting


@dataclass(frozen=True)
class Database:
    """A database, and the roles that the product's settings name."""

    server: PostgresServer
    name: str
    login: str = "sightline_commands"
    owner: str = OWNER_ROLE
    others: dict[str, str] = field(default_factory=dict)
    """The other variables of the environment."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.others,
            "DATABASE_URL": self._url(self.login),
            **dict.fromkeys(LOGIN_URLS.values(), self._url(self.login)),
            "DATABASE_OWNER_URL": self._url(self.owner),
        }

    def make(self) -> "Database":
        """Make it with its owner, who may make roles unless the owner exists already."""
        self.server.ensure_database(PASSWORD, self.name)
        if self.owner != OWNER_ROLE:
            owner = migrate.identifier(self.owner)
            self.run(f"create role {owner} login", f"alter database {self.name} owner to {owner}")
            self.set_password(self.owner)
        return self

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run SQL as the server's superuser; returns the rows of the last statement."""
        connection = psycopg2.connect(self.server.url("postgres", "superuser", self.name))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def set_password(self, role: str) -> None:
        """Set a role's password, as psql's `\\password` does."""
        doubled = PASSWORD.replace("'", "''")
        self.run(f"alter role {migrate.identifier(role)} password '{doubled}'")

    def _url(self, role: str) -> str:
        return self.server.url(quote(role, safe=""), quote(PASSWORD, safe=""), self.name)
