"""What Flask calls around a view, ours calls: the same, in the same order, whatever fails."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from secrets import token_hex
from typing import Any

import pytest
from blinker import Signal
from flask import (
    Blueprint,
    Flask,
    Response,
    after_this_request,
    request,
    session,
)
from flask.sessions import SecureCookieSessionInterface
from flask.signals import (
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    got_request_exception,
    request_finished,
    request_started,
    request_tearing_down,
)
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Conflict
from werkzeug.test import Client

from webapp.lean import LeanFlask, LeanResponse, add_header

FAILS = ("", "before", "view", "after", "after_this", "teardown", "conflict", "answers", "handler")


class Recorded:
    """An application that writes down what is called, and in which one thing fails."""

    def __init__(self, kind: type[Flask], fails: str = "") -> None:
        self.app = kind("app")
        self.app.config["PROPAGATE_EXCEPTIONS"] = False
        self.called: list[str] = []
        self.fails = fails
        outer, inner = Blueprint("outer", "outer"), Blueprint("inner", "inner")
        for name, where in (("app", self.app), ("outer", outer), ("inner", inner)):
            self._hook(name, where)
        inner.get("/<int:number>")(self._view)
        inner.get("/")(self._index)
        outer.register_blueprint(inner, url_prefix="/inner")
        self.app.register_blueprint(outer, url_prefix="/outer")
        self.app.get("/alone")(self._index)
        self.app.errorhandler(ValueError)(self._handle)
        self.app.errorhandler(500)(lambda _: self.app.response_class("broken", 500))

    def _note(self, what: str, part: str) -> None:
        self.called.append(what)
        if self.fails == part and "outer" in what:
            raise ValueError(what)

    def _hook(self, name: str, where: Flask | Blueprint) -> None:
        for number in (1, 2):
            self._hook_once(f"{name} {number}", where)

    def _hook_once(self, name: str, where: Flask | Blueprint) -> None:
        @where.url_value_preprocessor
        def see(endpoint: str | None, values: dict[str, Any] | None) -> None:
            self._note(f"values {name} {endpoint} {sorted(values or {})}", "values")
            if values:
                values.setdefault("seen", name)

        @where.before_request
        def before() -> ResponseReturnValue | None:
            self._note(f"before {name}", "before")
            return ("answered", 202) if self.fails == "answers" and name == "outer 1" else None

        @where.after_request
        def after(response: Response) -> Response:
            self._note(f"after {name} {response.status_code}", "after")
            response.headers.add("After", name)
            return response

        @where.teardown_request
        def teardown(error: BaseException | None) -> None:
            self._note(f"teardown {name} {error!r}", "teardown")

    def _view(self, number: int, seen: str) -> dict[str, object]:
        @after_this_request
        def after_this(response: Response) -> Response:
            self._note("after this, outer", "after_this")
            return response

        self._note("view, outer", "view")
        if self.fails == "conflict":
            raise Conflict
        return {"number": number, "seen": seen, "empty": len(session), "of": request.blueprints}

    def _index(self) -> Response:
        return self.app.response_class(",".join(request.blueprints))

    def _handle(self, error: ValueError) -> ResponseReturnValue:
        if self.fails == "handler":
            raise error
        return f"handled {error}", 418

    def ask(self, path: str, method: str) -> tuple[object, ...]:
        self.called.clear()
        try:
            answer = Client(self.app).open(path, method=method)
        except ValueError as error:
            return repr(error), list(self.called)
        return answer.status, answer.data, sorted(answer.headers), list(self.called)


@pytest.mark.parametrize("fails", FAILS)
@pytest.mark.parametrize("path", ["/outer/inner/7", "/outer/inner/", "/alone", "/none"])
def test_hooks_are_called_as_flask_calls_them(path: str, fails: str) -> None:
    plain, lean = Recorded(Flask, fails), Recorded(LeanFlask, fails)
    for method in ("GET", "HEAD", "OPTIONS", "POST") * 2:  # then those that it remembers
        assert lean.ask(path, method) == plain.ask(path, method)


def test_a_hook_may_come_until_the_first_request() -> None:
    app, called = LeanFlask("app"), list[str]()
    app.get("/")(lambda: "here")
    with app.test_request_context("/"):
        app.preprocess_request()
    app.before_request(lambda: called.append("before"))
    Client(app).get("/")
    assert called == ["before"]
    with pytest.raises(AssertionError, match="setup method"):
        app.before_request(lambda: called.append("late"))


@contextmanager
def heard(signals: Mapping[str, Signal], by: list[str], app: Flask) -> Iterator[None]:
    def listen(name: str) -> Callable[..., None]:
        return lambda _, **what: by.append(f"{name} {sorted(what)}")

    listeners = {name: listen(name) for name in signals}
    for name, signal in signals.items():
        signal.connect(listeners[name], app)
    yield
    for name, signal in signals.items():
        signal.disconnect(listeners[name], app)


SIGNALS = {
    "popped": appcontext_popped,
    "pushed": appcontext_pushed,
    "tearing down": appcontext_tearing_down,
    "exception": got_request_exception,
    "finished": request_finished,
    "started": request_started,
    "request tearing down": request_tearing_down,
}


@pytest.mark.parametrize("fails", ["", "before", "handler", "conflict"])
@pytest.mark.parametrize("path", ["/outer/inner/7", "/outer/inner/"])
def test_who_listens_hears_every_signal(path: str, fails: str) -> None:
    plain, lean = Recorded(Flask, fails), Recorded(LeanFlask, fails)
    said: dict[Recorded, list[str]] = {plain: [], lean: []}
    for recorded, by in said.items():
        recorded.ask(path, "GET")  # so that ours remembers
        with heard(SIGNALS, by, recorded.app):
            recorded.ask(path, "GET")
    assert said[lean] == said[plain]
    assert len(said[lean]) >= len(SIGNALS) - 1


def test_what_a_view_leaves_in_a_session_is_refused_as_without_a_key() -> None:
    app = LeanFlask("app")

    @app.get("/")
    def index() -> str:
        assert session.get("name") is None
        with pytest.raises(RuntimeError, match="session is unavailable"):
            session["name"] = "kept"
        return "here"

    assert Client(app).get("/").status_code == 200


def test_who_gives_it_sessions_has_them_as_in_flask() -> None:
    answers = []
    for kind in (Flask, LeanFlask):
        app = kind("app")
        app.session_interface = SecureCookieSessionInterface()
        app.secret_key = token_hex()
        app.get("/set", endpoint="set")(lambda: session.update(seen=True) or "set")
        app.get("/seen", endpoint="seen")(lambda: str(session.get("seen")))
        app.get("/other", endpoint="other")(lambda: "other")
        client = Client(app)
        asked = [client.get(path) for path in ("/seen", "/set", "/seen", "/other")]
        answers.append([(a.data, a.headers.get("Vary"), "Set-Cookie" in a.headers) for a in asked])
    assert answers[0] == answers[1]
    assert answers[0][2][0] == b"True"


def test_files_that_were_sent_are_closed() -> None:
    app, files = LeanFlask("app"), list[Any]()

    @app.post("/")
    def receive() -> str:
        files.append(request.files["file"])
        return "here"

    Client(app).post("/", data={"file": (BytesIO(b"sent"), "file")})
    assert files[0].closed


HEADERS = [("Content-Type", "application/json"), ("ETag", '"1"')]


def bodiless() -> LeanResponse:
    answer = LeanResponse(status=304, headers=HEADERS[1:], direct_passthrough=True)
    del answer.headers["Content-Type"]
    return answer


@pytest.mark.parametrize(
    ("ready", "made"),
    [
        (
            LeanResponse.ready(b"[]", HEADERS),
            LeanResponse(b"[]", headers=HEADERS, direct_passthrough=True),
        ),
        (LeanResponse.unchanged(HEADERS[1:]), bodiless()),
    ],
    ids=["200", "304"],
)
def test_an_answer_that_is_made_at_once_is_what_the_constructor_makes(
    ready: LeanResponse, made: LeanResponse
) -> None:
    assert vars(ready).keys() == vars(made).keys()
    assert ready.headers == made.headers
    assert (ready.status, ready.status_code) == (made.status, made.status_code)
    assert vars(ready) | {"headers": None} == vars(made) | {"headers": None}
    ready.headers["ETag"] = '"2"'
    assert HEADERS[1] == ("ETag", '"1"')


def test_a_header_that_was_added_is_found() -> None:
    answer = LeanResponse(b"")
    add_header(answer.headers, "Sightline-Audit", "one")
    assert answer.headers["sightline-audit"] == "one"
