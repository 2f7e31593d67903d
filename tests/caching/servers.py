"""A PostgreSQL and a Redis that tests stop, kill and wipe."""

from pathlib import Path

from webapp.stack import servers


class RedisServer(servers.RedisServer):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory, servers.free_port())
        self.start()

    def restart(self) -> None:
        """Start the server again, with the data that it last saved."""
        assert self.process is not None
        if self.process.poll() is None:
            self.resume()
            self.kill()
        self.start()

    def save(self) -> None:
        self.client.save()

    def wipe(self) -> None:
        self.client.flushall()


class PostgresServer(servers.PostgresServer):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory, servers.free_port(), "superuser")
        self.start()

    @property
    def superuser_url(self) -> str:
        url = self.url("postgres", "superuser", "postgres")
        return url.replace("postgresql:", "postgresql+psycopg2:")
