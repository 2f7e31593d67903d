"""A checked run of wrk: it counts every wrong answer, and only those."""

import shutil
from dataclasses import replace

import pytest
import requests
from flask import Flask

from bench.load import Run, Target, run
from tests.factories import add_account, add_tenant
from tests.processes import Web

pytestmark = pytest.mark.slow

if shutil.which("wrk") is not None:

    @pytest.fixture(scope="module")
    def target(app: Flask, web: Web) -> Target:
        """An empty list, as it is answered."""
        tenant = add_tenant(app)
        headers = add_account(app, member_of={tenant.slug: "member"}).headers()
        body = b'{"items":[],"next_cursor":null,"total":0}'
        url = f"{web.url}/admin/api/rules"
        assert requests.get(url, headers=headers, timeout=60).content == body
        return Target("rules", url, body, headers, requires=("etag",))

    def run_checked(target: Target) -> Run:
        """A checked run with at least two answers: a busy machine may give none in a second."""
        while (checked := run(target, 1, check=True)).requests < 2:
            pass
        return checked

    def test_right_answers_are_not_counted_as_wrong(target: Target) -> None:
        assert run_checked(target).wrong == 0

    def test_every_other_body_is_counted_as_wrong(target: Target) -> None:
        checked = run_checked(replace(target, body=target.body + b" "))
        assert checked.wrong >= checked.requests > 0

    def test_missing_header_is_counted_by_a_checked_run_only(target: Target) -> None:
        audited = replace(target, requires=("sightline-audit",))
        assert run(audited, 1).wrong == 0
        assert run_checked(audited).wrong > 0

    def test_repeated_value_is_counted_as_wrong_where_each_should_differ(target: Target) -> None:
        checked = run_checked(replace(target, unique=("etag",)))
        assert checked.wrong >= checked.requests - 1 > 0
