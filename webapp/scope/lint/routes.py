"""Check that every route is public by declaration, or guarded by `@surface` and recorded."""

import re
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from webapp.audit.recorder import begin, finalize
from webapp.scope import answers
from webapp.scope.decision import Surface
from webapp.scope.lint.finding import LintFinding
from webapp.scope.lint.reach import reached_by, writes
from webapp.scope.surface import surface

View = Callable[..., Any]

UNDECLARED_PUBLIC: dict[str, str] = {}
"""Endpoints of libraries, which cannot be decorated here, each with a reason to be public."""

ANSWERS = frozenset(
    {
        answers.respond,
        answers.respond_page,
        answers.respond_cached,
        answers.respond_json,
        answers.respond_file,
        answers.respond_stream,
        answers.respond_empty,
    }
)
"""The functions by which a surface's view answers."""

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_AUTOMATIC = frozenset({"HEAD", "OPTIONS"})


def check_routes(app: Flask) -> list[LintFinding]:
    findings = list(_check_recording(app))
    surfaces: dict[str, Surface] = {}
    for rule in app.url_map.iter_rules():
        for subject, view in _views(app, rule):
            findings += [
                LintFinding(subject, None, name, message)
                for name, message in _check_view(rule.endpoint, view, surfaces)
            ]
    return findings


def _check_recording(app: Flask) -> Iterator[LintFinding]:
    """Check that `finalize` runs: without it, no event of an access would leave its request."""
    times = app.after_request_funcs.get(None, []).count(finalize)
    if times != 1:
        message = f"audit.finalize must run after each request once, not {times} times"
        yield LintFinding("app", None, "unrecorded", message)


def _views(app: Flask, rule: Rule) -> Iterator[tuple[str, View]]:
    """The view functions of a route: one, or one for each method if the view is a class."""
    methods = sorted((rule.methods or set()) - _AUTOMATIC)
    view = app.view_functions[rule.endpoint]
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        yield f"route {','.join(methods)} {rule.rule}", view
        return
    for method in methods:
        yield f"route {method} {rule.rule}", getattr(view_class, method.lower())


def _check_view(
    endpoint: str, view: View, surfaces: dict[str, Surface]
) -> Iterator[tuple[str, str]]:
    declared: Surface | None = getattr(view, "__surface__", None)
    public = getattr(view, "__public__", None)
    if declared is None:
        if public is None and endpoint not in UNDECLARED_PUBLIC:
            yield "undeclared", f"{endpoint} declares neither @surface nor @public"
        elif public is not None and not (isinstance(public, str) and public.strip()):
            yield "no-reason", f"{endpoint} is public without a reason"
        return
    if public is not None:
        yield "undecided", f"{endpoint} declares both @surface and @public"
    if not _NAME.fullmatch(declared.name):
        yield "surface-name", f"{declared.name!r} is not dotted lower-case"
    yield from _check_open(declared)
    if surfaces.setdefault(declared.name, declared) != declared:
        yield "surface-twice", f"{declared.name} is declared elsewhere with other roles or flags"
    guards = _guards(view)
    if not guards:
        yield "unguarded", f"{endpoint} carries a surface but not the guard of @surface"
    elif guards != [declared]:
        yield "other-guard", f"{endpoint} is not guarded by the surface that it declares"
    else:
        yield from _check_actions(endpoint, view, declared)


def _check_open(declared: Surface) -> Iterator[tuple[str, str]]:
    """Check that a surface that may answer without a record has a reason, and changes nothing."""
    if declared.open_because is None:
        return
    if not (isinstance(declared.open_because, str) and declared.open_because.strip()):
        yield "no-reason", f"{declared.name} is open without a reason"
    if declared.changes:
        yield "open-change", f"{declared.name} changes something: it cannot be open"


def _check_actions(endpoint: str, view: View, declared: Surface) -> Iterator[tuple[str, str]]:
    """Check that the view counts the rows it shows, and declares and records its changes."""
    reached = reached_by(view)
    if not reached & ANSWERS:
        yield "uncounted", f"{endpoint} answers without webapp.scope.answers, which counts rows"
    stores = declared.changes or bool(declared.stores_because and declared.stores_because.strip())
    if not stores and any(map(writes, reached)):
        yield "uncommitted", f"{endpoint} changes rows, and {declared.name} does not declare it"
    if declared.personal and declared.changes and begin not in reached:
        yield "unrecorded", f"{endpoint} changes something personal and records nothing"


def _guards(view: View) -> list[Surface]:
    """The surfaces whose guards a call of the view passes through, outermost first."""
    found = []
    step: Any = view
    while step is not None:
        if getattr(step, "__code__", None) is _GUARD:
            names = step.__code__.co_freevars
            found.append(step.__closure__[names.index("declared")].cell_contents)
        step = getattr(step, "__wrapped__", None)
    return found


def _guard_code() -> CodeType:
    """The code of a guard, which all guards share: only their closures differ."""
    declare = surface("lint.reference", tenant_roles=(), platform_roles=())
    guarded: Any = declare(_guard_code)  # any function will do: it is never called
    code: CodeType = guarded.__code__
    return code


_GUARD = _guard_code()
