"""What PostgreSQL has granted, compared with what is declared: memberships and functions.

`make lint-scope` compares the privileges in tables.
"""

from collections import defaultdict
from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.orm import Session

from webapp.db.roles import LOGINS, SCOPE_ROLES, login_role
from webapp.db.row_security import FUNCTIONS

_MEMBERSHIPS = text(
    "select m.rolname, g.rolname from pg_auth_members a"
    " join pg_roles m on m.oid = a.member join pg_roles g on g.oid = a.roleid"
    " where (a.set_option or a.inherit_option) and not m.rolsuper"
    " and (g.rolname = any(:scopes) or m.rolname = any(:ours))"
)
_CALLERS = text(
    "select p.proname, coalesce(r.rolname, 'everybody') from pg_proc p"
    " cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
    " left join pg_roles r on r.oid = a.grantee"
    " where p.pronamespace = cast('public' as regnamespace) and p.prosecdef"
    " and a.grantee <> p.proowner"
)


def find_differences(session: Session) -> list[str]:
    """Describe what roles may become or call beyond what is declared, and what they lack."""
    return sorted([*_memberships(session), *_callers(session)])


def _memberships(session: Session) -> Iterator[str]:
    ours = [*SCOPE_ROLES, *map(login_role, LOGINS)]
    granted: dict[str, set[str]] = defaultdict(set)
    for member, role in session.execute(_MEMBERSHIPS, {"scopes": list(SCOPE_ROLES), "ours": ours}):
        granted[member].add(role)
    for process, needed in LOGINS.items():
        login = login_role(process)
        held = granted.pop(login, None)
        if held is None:
            continue  # a DBA may have given it another name
        for role in held.difference(needed):
            yield f"{login} may become {role}, which {process} needs not"
        for role in set(needed) - held:
            yield f"{login} may not become {role}, which {process} needs"
    for member, held in granted.items():
        if member in SCOPE_ROLES or held not in map(set, LOGINS.values()):
            yield f"{member} may become {', '.join(sorted(held))}, as no login should"


def _callers(session: Session) -> Iterator[str]:
    declared = {(name, role) for name, roles in FUNCTIONS.items() for role in roles}
    granted = {(name, role) for name, role in session.execute(_CALLERS)}
    for name, role in granted - declared:
        yield f"{role} may call {name}"
    for name, role in declared - granted:
        yield f"{role} may not call {name}"
