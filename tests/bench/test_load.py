"""A checked run of wrk: it counts every wrong answer, and only those."""

import shutil
from dataclasses import replace

import pytest
from flask import Flask

from bench.load import Target, run
from tests.factories import add_account, add_tenant
from tests.processes import Web

if shutil.which("wrk") is not None:

    @pytest.fixture(scope="module")
    def target(app: Flask, web: Web) -> Target:
        """An empty list, as it is answered."""
        tenant = add_tenant(app)
        headers = add_account(app, member_of={tenant.slug: "member"}).headers()
        body = b'{"items":[],"next_cursor":null,"total":0}'
        return Target("rules", f"{web.url}/admin/api/rules", body, headers, requires=("etag",))

    def test_right_answers_are_not_counted_as_wrong(target: Target) -> None:
        checked = run(target, 1, check=True)
        assert checked.requests > 0
        assert checked.wrong == 0

    def test_every_other_body_is_counted_as_wrong(target: Target) -> None:
        checked = run(replace(target, body=target.body + b" "), 1, check=True)
        assert checked.wrong >= checked.requests > 0

    def test_missing_header_is_counted_by_a_checked_run_only(target: Target) -> None:
        audited = replace(target, requires=("sightline-audit",))
        assert run(audited, 1).wrong == 0
        assert run(audited, 1, check=True).wrong > 0

    def test_repeated_value_is_counted_as_wrong_where_each_should_differ(target: Target) -> None:
        checked = run(replace(target, unique=("etag",)), 1, check=True)
        assert checked.wrong >= checked.requests - 1 > 0
