"""Scopes as values: two of them share a visibility only if they see the same rows."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.db.scopes import (
    NO_EXCLUSION,
    DirectoryScope,
    Exclusion,
    GlobalScope,
    IdentityScope,
    LedgerScope,
    MaintenanceScope,
    PolicyScope,
    PrincipalScope,
    RelayScope,
    Scope,
    TenantScope,
)

FEW = [UUID(int=number) for number in range(1, 6)]
ACCESS = UUID(int=99)

ids = st.sampled_from(FEW)
sets = st.frozensets(ids)
scopes: st.SearchStrategy[Scope] = st.one_of(
    st.builds(TenantScope, ids),
    st.builds(GlobalScope, st.uuids(), st.builds(Exclusion, sets)),
    st.builds(PrincipalScope, ids, sets, st.booleans()),
    st.sampled_from(
        [
            IdentityScope(),
            DirectoryScope(),
            LedgerScope(),
            RelayScope(),
            PolicyScope(),
            MaintenanceScope(),
        ]
    ),
)


def seen_from(scope: Scope) -> Scope:
    """The parts of a scope that say which rows it sees: all but the access it is entered for."""
    return replace(scope, access_id=ACCESS) if isinstance(scope, GlobalScope) else scope


@given(scopes, scopes)
def test_scopes_share_a_visibility_only_if_they_see_the_same_rows(one: Scope, other: Scope) -> None:
    assert (one.visibility == other.visibility) is (seen_from(one) == seen_from(other))


@given(sets, sets)
def test_global_accesses_share_a_visibility_only_if_they_exclude_the_same_tenants(
    one: frozenset[UUID], other: frozenset[UUID]
) -> None:
    first, second = GlobalScope(UUID(int=1), Exclusion(one)), GlobalScope(ACCESS, Exclusion(other))
    assert (first.visibility == second.visibility) is (one == other)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_exclusions_of_equal_size_differ_by_any_one_tenant(count: int) -> None:
    tenants = [UUID(int=number) for number in range(1, count + 1)]
    all_of_them = Exclusion(frozenset(tenants))
    for position in {0, count // 2, count - 1}:
        others = {*tenants[:position], UUID(int=count + 1), *tenants[position + 1 :]}
        assert Exclusion(frozenset(others)).visibility != all_of_them.visibility
    assert NO_EXCLUSION.visibility != all_of_them.visibility
