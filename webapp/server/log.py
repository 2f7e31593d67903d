"""gunicorn's own log lines, in the same form as all others."""

from gunicorn.config import Config
from gunicorn.glogging import Logger

from webapp.observability import logs
from webapp.settings import SettingsError, read_settings


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """The `logger_class` of gunicorn.conf.py."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        try:
            logs.configure(read_settings().env)
        except SettingsError as error:
            raise SystemExit(str(error)) from None
