"""The functions that a view calls, and whether one of them writes.

Calls are followed by the names of functions in a module's globals, and by attributes of the
product's modules. A function that is passed as a value is found where it is named.
"""

import ast
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain
from textwrap import dedent
from types import CodeType, FunctionType, ModuleType
from typing import Any

from sqlalchemy import delete, insert, update
from sqlalchemy.dialects.postgresql import insert as upsert

from webapp.caching import CachedFunction, invalidate

_SESSION_WRITES = frozenset({"add", "add_all", "delete", "flush", "merge"})
_DML = (insert, update, delete, upsert)


def reached_by(view: Callable[..., Any]) -> set[FunctionType]:
    """The view, and the product's functions that it calls directly or through others."""
    start = inspect.unwrap(view)
    if not isinstance(start, FunctionType):
        return set()
    roots = {"webapp", start.__module__.partition(".")[0]}
    reached: set[FunctionType] = set()
    waiting = [start]
    while waiting:
        function = waiting.pop()
        if function in reached:
            continue
        reached.add(function)
        named = map(_as_function, named_by(function))
        waiting += [f for f in named if f and f.__module__.partition(".")[0] in roots]
    return reached


def writes(function: FunctionType) -> bool:
    """Whether a function itself changes rows: through the session, by DML, or by invalidating."""
    if function is invalidate:
        return True
    if any(value in _DML for value in _globals_named(function)):
        return True
    tree = ast.parse(dedent(inspect.getsource(function)))
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(
        isinstance(called, ast.Attribute)
        and called.attr in _SESSION_WRITES
        and ast.unparse(called.value).endswith("session")
        for called in calls
    )


def named_by(function: FunctionType) -> Iterator[Any]:
    """All values that a function names: globals, and attributes of the product's modules, also of
    those that it imports when it runs."""
    names = set(_names(function.__code__))
    imported = (import_module(name) for name in names if name.startswith("webapp."))
    for value in chain(_globals_named(function), imported):
        yield value
        if isinstance(value, ModuleType) and value.__name__.startswith("webapp."):
            yield from (getattr(value, name) for name in names if hasattr(value, name))


def _globals_named(function: FunctionType) -> Iterator[Any]:
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]


def _names(code: CodeType) -> Iterator[str]:
    """The names in a function's code, and in that of the functions defined inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _as_function(value: Any) -> FunctionType | None:
    if isinstance(value, CachedFunction):
        value = value.uncached
    if not callable(value):
        return None
    unwrapped = inspect.unwrap(value)
    return unwrapped if isinstance(unwrapped, FunctionType) else None
