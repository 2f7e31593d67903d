"""The lint of routes: each fault in a small application, and the application without it."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
from flask import Flask, Response
from flask.views import MethodView
from sqlalchemy import update

from webapp.audit import recorder
from webapp.audit.recorder import finalize
from webapp.caching import invalidate
from webapp.extensions import db
from webapp.rules.models import RuleRow
from webapp.scope.answers import respond_empty
from webapp.scope.decision import Surface
from webapp.scope.lint.reach import reached_by
from webapp.scope.lint.routes import check_routes
from webapp.scope.surface import surface

View = Callable[..., Any]

list_rules = surface("rules.list", tenant_roles=["admin"], platform_roles=["support"])


def view() -> Response:
    return respond_empty()


def marked(function: View, **marks: object) -> View:
    """Set attributes of a view by hand, instead of by a decorator."""

    @wraps(function)
    def wrapped() -> str:
        return ""

    del wrapped.__wrapped__
    vars(wrapped).update(marks)
    return wrapped


def passing_on(function: View) -> View:
    @wraps(function)
    def outer(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return outer


def application(*views: View) -> Flask:
    app = Flask("small", static_folder=None)
    app.after_request(finalize)
    for number, function in enumerate(views):
        app.add_url_rule(f"/{number}", endpoint=f"view{number}", view_func=function)
    return app


def rules_found(*views: View) -> list[str]:
    return [finding.rule for finding in check_routes(application(*views))]


def test_routes_of_surfaces_and_public_views_pass() -> None:
    assert rules_found(list_rules(view), marked(view, __public__="a probe of the process")) == []


def test_view_without_declaration_is_found_with_its_route() -> None:
    (finding,) = check_routes(application(view))
    assert str(finding) == "route GET /0: undeclared: view0 declares neither @surface nor @public"


@pytest.mark.parametrize("reason", ["", "  ", True, 1])
def test_public_view_without_reason_is_found(reason: object) -> None:
    assert rules_found(marked(view, __public__=reason)) == ["no-reason"]


def test_view_declared_both_surface_and_public_is_found() -> None:
    assert rules_found(passing_on(marked_public(list_rules(view)))) == ["undecided"]


def marked_public(function: View) -> View:
    outer = passing_on(function)
    vars(outer)["__public__"] = "and also this"
    return outer


def test_static_route_is_found_unless_it_is_listed() -> None:
    app = Flask("small", static_folder=".")
    app.after_request(finalize)
    assert [finding.rule for finding in check_routes(app)] == ["undeclared"]


def test_surface_attribute_set_by_hand_is_found_unguarded() -> None:
    declared = Surface("rules.list", frozenset({"admin"}), frozenset({"support"}))
    assert rules_found(marked(view, __surface__=declared)) == ["unguarded"]


def test_surface_attribute_copied_from_a_view_is_found_unguarded() -> None:
    guarded = list_rules(view)
    assert rules_found(marked(guarded)) == ["unguarded"]


def test_guard_behind_other_decorators_passes() -> None:
    assert rules_found(passing_on(passing_on(list_rules(passing_on(view))))) == []


def test_guard_of_another_surface_is_found() -> None:
    guarded = list_rules(view)
    outer = passing_on(guarded)
    other = replace(vars(guarded)["__surface__"], platform_roles=frozenset())
    vars(outer)["__surface__"] = other
    assert rules_found(outer) == ["other-guard"]


def test_view_with_two_guards_is_found() -> None:
    other = surface("rules.read", tenant_roles=["admin"], platform_roles=[])
    assert rules_found(other(list_rules(view))) == ["other-guard"]


@pytest.mark.parametrize(
    "name", ["rules", "Rules.list", "rules list", "rules.", ".list", "rules.*"]
)
def test_surface_name_that_is_not_dotted_lower_case_is_found(name: str) -> None:
    assert rules_found(surface(name, tenant_roles=[], platform_roles=[])(view)) == ["surface-name"]


def test_surface_name_declared_in_two_ways_is_found() -> None:
    other = surface("rules.list", tenant_roles=["member"], platform_roles=["support"])
    assert rules_found(list_rules(view), other(view)) == ["surface-twice"]
    assert rules_found(list_rules(view), list_rules(view)) == []


def open_surface(reason: Any, *, changes: bool = False) -> View:
    declare = surface(
        "rules.list", tenant_roles=[], platform_roles=[], changes=changes, open_because=reason
    )
    guarded: View = declare(view)
    return guarded


def test_surface_is_closed_unless_open_because_is_given() -> None:
    closed = surface("rules.list", tenant_roles=[], platform_roles=[])(view)
    assert vars(closed)["__surface__"].open_because is None
    assert rules_found(open_surface("shows no more than a status page")) == []


@pytest.mark.parametrize("reason", ["", "  ", True, 1])
def test_open_surface_without_reason_is_found(reason: object) -> None:
    assert rules_found(open_surface(reason)) == ["no-reason"]


def test_open_surface_that_changes_rows_is_found() -> None:
    assert rules_found(open_surface("because", changes=True)) == ["open-change"]
    assert rules_found(open_surface(None, changes=True)) == []


def test_product_has_no_open_surface(app: Flask) -> None:
    surfaces = [getattr(view, "__surface__", None) for view in app.view_functions.values()]
    declared = [surface for surface in surfaces if surface is not None]
    assert declared
    assert [surface.name for surface in declared if surface.open_because is not None] == []


@pytest.mark.parametrize("times", [0, 2])
def test_application_that_does_not_finalize_once_is_found(times: int) -> None:
    app = Flask("small", static_folder=None)
    for _ in range(times):
        app.after_request(finalize)
    assert [finding.rule for finding in check_routes(app)] == ["unrecorded"]


def test_each_method_of_a_view_class_is_checked() -> None:
    class Rules(MethodView):
        @list_rules
        def get(self) -> Response:
            return respond_empty()

        def post(self) -> str:
            return ""

    (finding,) = check_routes(application(Rules.as_view("rules")))
    assert finding.subject == "route POST /0"
    assert finding.rule == "undeclared"


def _shows_rows() -> Response:
    return Response("rows that nobody counted")


def _changes_directly() -> Response:
    db.session.add(RuleRow())
    return respond_empty()


def _changes_through_others() -> Response:
    _invalidate_rules()
    return respond_empty()


def _changes_by_a_statement() -> Response:
    db.session.execute(update(RuleRow).values(name="x"))
    return respond_empty()


def _invalidate_rules() -> None:
    invalidate("rules:global")


def _records_and_changes() -> Response:
    recorder.begin(recorder.Access(**{}))
    return _changes_directly()


@pytest.mark.parametrize(("changes", "personal"), [(False, False), (True, False), (False, True)])
def test_surface_that_does_not_count_its_rows_is_found(changes: bool, personal: bool) -> None:
    declare = surface(
        "rules.list",
        tenant_roles=[],
        platform_roles=["support"],
        changes=changes,
        personal=personal,
    )
    assert "uncounted" in rules_found(declare(_shows_rows))


@pytest.mark.parametrize(
    "changing", [_changes_directly, _changes_through_others, _changes_by_a_statement]
)
def test_surface_that_changes_rows_without_declaring_it_is_found(
    changing: View,
) -> None:
    assert rules_found(list_rules(changing)) == ["uncommitted"]
    declare = surface("rules.list", tenant_roles=[], platform_roles=["support"], changes=True)
    assert rules_found(declare(changing)) == []


def test_personal_surface_that_changes_rows_without_recording_is_found() -> None:
    declare = surface(
        "rules.list", tenant_roles=[], platform_roles=["support"], changes=True, personal=True
    )
    assert rules_found(declare(_changes_directly)) == ["unrecorded"]
    assert rules_found(declare(_records_and_changes)) == []


def test_lint_follows_every_view_of_the_product_to_its_calls(app: Flask) -> None:
    """Otherwise the rules above would find nothing in the product, whatever its views did."""
    reached = {
        name: {function.__qualname__ for function in reached_by(app.view_functions[name])}
        for name in (
            "rules.create_rule",
            "grants.approve_grant",
            "elevations.create_elevation",
            "rules.list_rules",
        )
    }
    assert {"create_rule", "invalidate"} <= reached["rules.create_rule"]
    assert {"approve", "begin", "respond"} <= reached["grants.approve_grant"]
    assert {"answer", "begin"} <= reached["elevations.create_elevation"]
    assert {"list_rules", "respond_cached"} <= reached["rules.list_rules"]
