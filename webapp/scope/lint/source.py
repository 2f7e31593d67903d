"""Rules on source code: what it may not do with the database, read from its syntax tree.

Row level security holds whatever the code does. These rules keep the ways around the scoped session
few enough to be reviewed.
"""

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from webapp.scope.lint.finding import LintFinding

RAW_SQL = "raw-sql"
TENANT_DML = "tenant-dml"
BULK = "bulk"
CONNECTION = "connection"
SESSION_SET = "session-set"
COMMIT = "commit"
SCOPE_ENTRY = "scope-entry"

_DML = frozenset({"insert", "update", "delete"})
_BULK_METHODS = frozenset({"bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"})
_CONNECTION_METHODS = frozenset({"connection", "get_bind", "raw_connection", "cursor"})
_ENGINE_METHODS = frozenset({"connect", "begin"})
_CONNECTORS = frozenset(
    {"sqlalchemy.create_engine", "sqlalchemy.engine_from_config", "psycopg2.connect"}
)
_SCOPE_ENTRIES = frozenset({"enter", "scoped"})
_SESSION_SET = re.compile(
    r"^\s*(re)?set\s+(session\s+|local\s+)?(role|all|authorization|sightline|row_security)\b"
    r"|\bset_config\s*\([^()]*,\s*false\s*\)",
    re.IGNORECASE | re.MULTILINE,
)


def check_source(path: Path, root: Path, tenant_names: Collection[str]) -> list[LintFinding]:
    """Find breaches in a file. `tenant_names` are models and tables that hold tenants' rows."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    reader = _Reader(_imports(tree), tenant_names)
    found = [breach for node in ast.walk(tree) for breach in reader.read(node)]
    found += [
        (line, SESSION_SET, "a setting or role that outlives its transaction")
        for line, string in _strings(tree)
        if _SESSION_SET.search(string)
    ]
    subject = path.relative_to(root).as_posix()
    return [LintFinding(subject, line, rule, message) for line, rule, message in found]


class _Reader:
    def __init__(self, imports: dict[str, str], tenant_names: Collection[str]) -> None:
        self._imports = imports
        self._tenant_names = tenant_names

    def read(self, node: ast.AST) -> Iterator[tuple[int, str, str]]:
        found: Iterator[tuple[str, str]] = iter(())
        match node:
            case ast.Call():
                found = self._call(node)
            case ast.Name() | ast.Attribute():
                found = self._name(node)
        for rule, message in found:
            yield getattr(node, "lineno", 1), rule, message

    def _name(self, node: ast.Name | ast.Attribute) -> Iterator[tuple[str, str]]:
        """Find forbidden names, whether they are called or passed on."""
        name = self._qualified(node)
        if _is_sqlalchemy(name) and name.endswith((".text", ".TextClause")):
            yield RAW_SQL, "text() is SQL that this check cannot read"
        if name in _CONNECTORS:
            yield CONNECTION, f"{name} opens a connection without a scope"
        if isinstance(node, ast.Attribute):
            if node.attr == "exec_driver_sql":
                yield RAW_SQL, "exec_driver_sql is SQL that this check cannot read"
            if node.attr in _BULK_METHODS:
                yield BULK, f"{node.attr} bypasses the session's events"
            if node.attr == "__table__":
                yield TENANT_DML, "a model's bare table bypasses the session"

    def _call(self, node: ast.Call) -> Iterator[tuple[str, str]]:
        yield from self._dml(node)
        if not isinstance(node.func, ast.Attribute):
            return
        method, receiver = node.func.attr, _last_name(node.func.value)
        if method in _CONNECTION_METHODS:
            yield CONNECTION, f".{method}() bypasses the session"
        if method in _ENGINE_METHODS and "engine" in receiver:
            yield CONNECTION, f"{receiver}.{method}() begins a transaction without a scope"
        if method in ("execute", "executemany") and node.args and _is_string(node.args[0]):
            yield RAW_SQL, f".{method}() of a string"
        if method == "commit":
            yield COMMIT, "only views, commands and tasks commit"
        if method in _SCOPE_ENTRIES and ("session" in receiver or receiver == "db"):
            yield SCOPE_ENTRY, f".{method}() of {receiver} enters a scope without a decision"

    def _dml(self, node: ast.Call) -> Iterator[tuple[str, str]]:
        name = self._qualified(node.func)
        verb = name.rpartition(".")[2]
        if not _is_sqlalchemy(name) or verb not in _DML:
            return
        target = _last_name(node.args[0]) if node.args else ""
        if target in self._tenant_names:
            yield TENANT_DML, f"{verb}() of {target}; change its rows through the session"
        elif not target[:1].isupper():
            yield TENANT_DML, f"{verb}() of something that is not a model's name"

    def _qualified(self, node: ast.expr) -> str:
        """The dotted name that an expression refers to, resolved by the file's imports."""
        if isinstance(node, ast.Name):
            return self._imports.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self._qualified(node.value)}.{node.attr}"
        return ""


def _imports(tree: ast.Module) -> dict[str, str]:
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string literal. An f-string is one literal, with a `?` for each value."""
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in formatted for part in node.values}
    for node in formatted:
        yield node.lineno, "".join(_literal(part) or "?" for part in node.values)
    for part in ast.walk(tree):
        if id(part) not in parts and (string := _literal(part)):
            yield getattr(part, "lineno", 1), string


def _literal(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str() as value):
            return value
    return None


def _is_sqlalchemy(name: str) -> bool:
    return name.partition(".")[0] == "sqlalchemy"


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return _last_name(function)
    return ""


def _is_string(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(left=left, right=right):
            return _is_string(left) or _is_string(right)
        case ast.Call(func=ast.Attribute(value=value, attr="format")):
            return _is_string(value)
    return False
