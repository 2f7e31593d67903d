"""Tests that no scope can lower a generation, which would bring back what had been invalidated."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from tests.isolation.rows import Owned
from tests.isolation.test_session import SCOPES, MakeScope, relay_scope
from webapp.db.scopes import RelayScope
from webapp.db.session import ScopedSession

RAISING = [scope for scope in SCOPES if scope is not relay_scope]

READ = text("select generation from cache_generations where tag = 'identity'")
RAISE = text("select generation from raise_generations(array['identity', 'identity'])")


@pytest.mark.parametrize(
    "statement",
    [
        "update cache_generations set generation = 1",
        "insert into cache_generations values ('new', 1)",
        "insert into cache_generations values ('identity', 1)"
        " on conflict (tag) do update set generation = excluded.generation",
        "delete from cache_generations",
        "truncate cache_generations",
        "lock cache_generations in exclusive mode",
        "create or replace function raise_generations(tags text[])"
        " returns table (raised text, generation bigint) language sql as 'select null, 1'",
    ],
)
@pytest.mark.parametrize("scope", SCOPES)
def test_no_scope_can_write_or_lock_generations(
    session: ScopedSession, ours: Owned, scope: MakeScope, statement: str
) -> None:
    session.enter(scope(ours))
    with pytest.raises(ProgrammingError, match="permission denied|must be owner"):
        session.execute(text(statement))


def test_relay_cannot_raise_a_generation(session: ScopedSession) -> None:
    session.enter(RelayScope())
    with pytest.raises(ProgrammingError, match="permission denied"):
        session.execute(RAISE)


@pytest.mark.parametrize("scope", RAISING)
def test_every_other_scope_can_raise_a_generation_and_no_call_lowers_it(
    session: ScopedSession, ours: Owned, scope: MakeScope
) -> None:
    session.enter(scope(ours))
    before = session.scalar(READ) or 0
    raised = [session.scalars(RAISE).one() for _ in range(3)]
    assert before < raised[0] < raised[1] < raised[2] == session.scalar(READ)


def test_objects_of_the_caller_do_not_reach_the_function(inside: ScopedSession) -> None:
    """The function runs with its owner's rights."""
    inside.execute(text("create temporary table cache_generations (tag text, generation bigint)"))
    inside.execute(RAISE)
    assert inside.scalar(text("select count(*) from pg_temp.cache_generations")) == 0
