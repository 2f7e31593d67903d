"""Extensions, unbound until `create_app` binds them to an application."""

from contextlib import AbstractContextManager
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from celery import Celery, Task
from flask import Flask
from flask.typing import TeardownCallable
from flask_caching import Cache
from flask_sqlalchemy_lite import SQLAlchemy
from sqlalchemy import event, literal, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from webapp.context import current_application, current_state
from webapp.db.scopes import Scope
from webapp.db.session import ScopedSession, refuse_unsafe_login_role
from webapp.settings import Settings

POOL = {
    "pool_size": 8,
    "max_overflow": 8,
    "pool_timeout": 5,
    "pool_recycle": 1800,
    "pool_pre_ping": True,
}
CONNECT = {
    "connect_timeout": 3,
    "application_name": "sightline",
    # A statement that hangs must give its connection back; a request left idle in its transaction
    # must not hold row locks for ever.
    "options": "-c statement_timeout=15s -c idle_in_transaction_session_timeout=60s",
    # Ends connections to a server that is gone without a word.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


_MADE, _ENTERED = "sightline_session", "sightline_scope"

S = TypeVar("S", bound=Scope)


class Database(SQLAlchemy):
    """Flask-SQLAlchemy-Lite with the scoped session as its session's type.

    A scope may be entered before there is a session: an answer out of the cache needs none, and to
    make one takes a good part of such a request.
    """

    @property
    def session(self) -> ScopedSession:
        session = self.get_session()
        assert isinstance(session, ScopedSession)  # noqa: S101 - session_options make it so
        return session

    def get_session(self, name: str = "default") -> Session:
        session = super().get_session(name)
        state = current_state()
        state[_MADE] = session
        if _ENTERED in state:
            session.info["scope"] = state.pop(_ENTERED)
        return session

    @property
    def made_session(self) -> ScopedSession | None:
        """The session of this application context, if anybody has asked for it yet."""
        made: ScopedSession | None = current_state().get(_MADE)
        return made

    @property
    def scope(self) -> Scope | None:
        """What the session is in, or will be when it is made."""
        return _scope_of(current_state())

    def scoped(self, scope: S) -> AbstractContextManager[S]:
        """Run a block in `scope`, then return to the scope before it."""
        return _Scoped(scope)


class _Scoped(AbstractContextManager[S]):
    """A class and no generator, which would take longer than all that happens in here."""

    __slots__ = ("_before", "_scope", "_state")

    def __init__(self, scope: S) -> None:
        self._scope = scope

    def __enter__(self) -> S:
        self._state = current_state()
        self._before = _scope_of(self._state)
        _enter(self._state, self._scope)
        return self._scope

    def __exit__(self, *_: object) -> None:
        _enter(self._state, self._before)


def _scope_of(state: dict[str, Any]) -> Scope | None:
    made: ScopedSession | None = state.get(_MADE)
    entered: Scope | None = state.get(_ENTERED)
    return entered if made is None else made.scope


def _enter(state: dict[str, Any], scope: Scope | None) -> None:
    made: ScopedSession | None = state.get(_MADE)
    if made is not None:
        made.enter(scope)
    else:
        state[_ENTERED] = scope


db = Database(session_options={"class_": ScopedSession})
cache = Cache()


def current_settings() -> Settings:
    settings: Settings = current_application().extensions["settings"]
    return settings


def init_db(app: Flask) -> None:
    """Bind the database; its first connection is refused unless the login role is harmless."""
    settings: Settings = app.extensions["settings"]
    engine = {"url": settings.database_url, "connect_args": CONNECT, **POOL}
    app.config["SQLALCHEMY_ENGINES"] = {"default": engine}
    db.init_app(app)
    # Of its two ends of sessions, one is for a kind that nobody here has.
    app.teardown_appcontext_funcs = [
        _if_made(end) for end in app.teardown_appcontext_funcs if not iscoroutinefunction(end)
    ]
    with app.app_context():
        event.listen(db.engine, "first_connect", _refuse_unsafe_login_role)


def _if_made(end: TeardownCallable) -> TeardownCallable:
    """Flask-SQLAlchemy-Lite accesses through Flask's proxies for sessions that few requests
    make."""

    def end_made(error: BaseException | None) -> None:
        if _MADE in current_state():
            end(error)

    return end_made


def reach_database() -> None:
    """Raises `UnsafeLoginRole`, or what SQLAlchemy raises when the database does not answer."""
    with db.engine.connect() as connection:
        connection.execute(select(literal(1)))


def _refuse_unsafe_login_role(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    refuse_unsafe_login_role(connection)


def init_celery(app: Flask) -> None:
    """Set up Celery by `celeryconfig`; its tasks run in an application context of their own."""
    settings: Settings = app.extensions["settings"]

    class ContextTask(Task[Any, Any]):
        Request = "webapp.worker.delivery:Delivery"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery = Celery(app.name, task_cls=ContextTask, set_as_current=False)
    celery.config_from_object("celeryconfig")
    celery.conf.update(broker_url=settings.celery_broker_url)
    if settings.celery_broker_url.startswith("redis"):
        celery.conf.broker_transport_options = {
            "socket_timeout": settings.audit_timeout,
            "socket_connect_timeout": settings.audit_timeout,
            "retry_on_timeout": False,
            "max_retries": 0,
            "visibility_timeout": 60,
        }
    celery.set_default()
    app.extensions["celery"] = celery
