"""Rules of the architecture that import-linter cannot check."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from flask import Flask
from packaging.requirements import Requirement

import celeryconfig
import tasks  # noqa: F401 - registers the tasks
from tests.processes import ROOT, command_of
from webapp.caching import CachedFunction, invalidate
from webapp.caching.cached_function import registry
from webapp.extensions import db

PRODUCT = ("webapp", "tasks")
NAMELESS = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}

ENTRANCES = {
    "webapp.worker.beat": "named in celeryconfig.py",
    "webapp.worker.delivery": "named by the tasks' class in webapp.worker.celery_app",
    "webapp.application": "imported by wsgi.py",
    "tasks": "imported by wsgi.py",
    "webapp.boot": "imported by wsgi.py and gunicorn.conf.py",
    "webapp.db.tenant_tables": "imported by migrations",
    "webapp.observability.side_port": "imported by wsgi.py",
    "webapp.server.log": "named in gunicorn.conf.py",
    "webapp.server.worker": "named in gunicorn.conf.py",
    "webapp.stack.__main__": "make run",
    "webapp.stack.lint_scope": "make lint-scope",
    "webapp.stack.story": "make demo",
}

DANGEROUS_MODULES = {"pickle", "cPickle", "dill", "shelve", "marshal"}
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__"}
DANGEROUS_ATTRIBUTES = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput")}


def files(*folders: str) -> list[Path]:
    """The Python files of these folders, as paths from the project's root."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in found)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def walk(*folders: str) -> Iterator[tuple[str, ast.AST]]:
    """Every syntax node of the files in these folders, with its place."""
    for path in files(*folders):
        for node in ast.walk(tree_of(path)):
            yield f"{path}:{getattr(node, 'lineno', 1)}", node


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """The dotted names that a file imports anywhere. `from a import b` gives `a` and `a.b`."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_module_has_a_meaningless_name() -> None:
    named = files(*PRODUCT, "tests", "migrations")
    words = {path: set(re.split(r"[/_.]", str(path))) for path in named}
    assert {str(path) for path, said in words.items() if said & NAMELESS} == set()


def test_every_module_is_reached_from_an_entrance() -> None:
    modules = {module_of(path): path for path in files(*PRODUCT)}
    assert ENTRANCES.keys() <= modules.keys()
    reached: set[str] = set()
    waiting = set(ENTRANCES)
    while waiting:
        module = waiting.pop()
        reached.add(module)
        parts = module.split(".")
        packages = {".".join(parts[:length]) for length in range(1, len(parts))}
        waiting |= ((imports_of(modules[module]) | packages) & modules.keys()) - reached
    assert modules.keys() - reached == set()


def test_no_source_runs_data_as_code() -> None:
    assert [f"{place}: {ast.unparse(node)}" for place, node in walk(*PRODUCT) if _runs(node)] == []


def _runs(node: ast.AST) -> bool:
    match node:
        case ast.Import(names):
            return any(alias.name.partition(".")[0] in DANGEROUS_MODULES for alias in names)
        case ast.ImportFrom(module=str(module), names=names):
            imported = {(module, alias.name) for alias in names}
            return module in DANGEROUS_MODULES or bool(imported & DANGEROUS_ATTRIBUTES)
        case ast.Attribute(ast.Name(module), attr):
            return (module, attr) in DANGEROUS_ATTRIBUTES
        case ast.Call(ast.Name(name)) if name in DANGEROUS_CALLS:
            return True
        case ast.keyword("shell", value):
            return not (isinstance(value, ast.Constant) and value.value is False)
    return False


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval(code)",
        "run(command, shell=True)",
        "run(command, shell=wanted)",
        "os.system(command)",
        "from os import system",
    ],
)
def test_code_that_runs_data_is_recognized(code: str) -> None:
    assert any(map(_runs, ast.walk(ast.parse(code))))


def test_every_ignore_has_a_reason() -> None:
    bare = re.compile(r"# type: ignore(?!\[[\w, -]+\]  # \S)|# noqa(?!: [A-Z0-9, ]+ - \S)")
    sources = [*files(*PRODUCT, "tests", "migrations"), *ROOT.glob("*.py")]
    found = [
        f"{path}:{number}"
        for path in sources
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if bare.search(line) and path != Path(__file__).relative_to(ROOT)
    ]
    assert found == []


def test_every_task_has_a_name_of_its_own_and_a_queue_that_is_worked_on(app: Flask) -> None:
    celery: Celery = app.extensions["celery"]
    celery.finalize()
    decorators = [
        decorator
        for _, node in walk("tasks")
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
    ]
    for decorator in decorators:
        assert isinstance(decorator, ast.Call)
        assert "name" in {keyword.arg for keyword in decorator.keywords}
    queues = {queue.name for queue in celeryconfig.task_queues}
    names = {name for name in celery.tasks if not name.startswith("celery.")}
    assert len(names) == len(decorators) > 0
    for name in names:
        assert not name.startswith("tasks.")
        assert celery.amqp.router.route({}, name)["queue"].name in queues
    worker = command_of("worker")
    assert set(worker[worker.index("--queues") + 1].split(",")) == queues


def test_every_sent_task_is_registered(app: Flask) -> None:
    celery: Celery = app.extensions["celery"]
    celery.finalize()
    sent = {
        node.value.value
        for _, node in walk("webapp")
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and any(isinstance(t, ast.Name) and t.id.endswith("_TASK") for t in node.targets)
    }
    assert sent
    assert sent <= celery.tasks.keys()


CACHED = [function for name, function in registry.items() if name.startswith("webapp.")]


def test_product_has_cached_functions() -> None:
    assert CACHED


@pytest.mark.parametrize("function", CACHED, ids=lambda function: function.name)
def test_every_cached_function_can_be_warmed_and_invalidated(
    app: Flask, function: CachedFunction[Any, ..., Any]
) -> None:
    assert function.warm is not None
    for scope, *arguments in function.warm():
        outcomes = []
        for _ in range(2):
            with app.app_context(), db.scoped(scope):
                outcomes.append(function(scope, *arguments).outcome)
        with app.app_context(), db.scoped(scope):
            invalidate(*function.tags(scope, *arguments))
            db.session.commit()
        with app.app_context(), db.scoped(scope):
            outcomes.append(function(scope, *arguments).outcome)
        assert outcomes[1] in ("hit", "hit_local")
        assert outcomes[2] == "outdated"


def test_every_module_that_caches_invalidates() -> None:
    """A module with a cached function must also invalidate what it caches."""
    modules = {function.__module__ for function in CACHED}
    assert all("webapp.caching.invalidate" in imports_of(_path(module)) for module in modules)


def _path(module: str) -> Path:
    return Path(*module.split(".")).with_suffix(".py")


def test_make_explains_every_target() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    targets = [match for line in lines if (match := re.match(r"([\w-]+):(?!=)(.*)", line))]
    assert len(targets) > 5
    assert [match[1] for match in targets if not re.search(r"## \S", match[2])] == []
    (phony,) = (line.split()[1:] for line in lines if line.startswith(".PHONY:"))
    assert sorted(phony) == sorted(match[1] for match in targets)


REQUIREMENTS = [f"requirements{of}.txt" for of in ("", "-run", "-traces", "-dev")]


def pins(name: str) -> dict[str, str]:
    """The marker and the hashes of each requirement of a file, by name; all must be pinned."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    found = {}
    for line in filter(None, text.splitlines()):
        requirement, *hashes = re.split(r"\s+--hash=", line.rstrip())
        (specifier,) = Requirement(requirement).specifier
        assert specifier.operator == "=="
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in hashes)
        found[Requirement(requirement).name] = line
    return found


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_are_pinned_with_hashes_and_name_no_host(name: str) -> None:
    assert pins(name)
    assert "://" not in (ROOT / name).read_text()


def test_each_requirements_file_has_the_pins_of_the_one_below() -> None:
    product, run, traces, development = map(pins, REQUIREMENTS)
    assert product.items() < run.items() < development.items()
    assert product.items() < traces.items() < development.items()


def test_every_requirement_of_pyproject_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    named = [line for line in groups["dev"] if isinstance(line, str)]
    asked = {
        "requirements.txt": project["project"]["dependencies"],
        "requirements-run.txt": groups["run"],
        "requirements-traces.txt": groups["traces"],
        "requirements-dev.txt": named,
    }
    for name, lines in asked.items():
        assert {Requirement(line).name for line in lines} - pins(name).keys() == set()
