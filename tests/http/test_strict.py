"""What has two readings is refused, and the answer says how it should look."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import reset_tzpath

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.elevations import calls as elevations
from tests.factories import Account, add_account
from tests.http.routes import USES, Place, Use
from tests.rules.calls import PATH, draft, problem
from webapp.rules.engine.templates import time_zones, zone_of
from webapp.scope.headers import HeaderError, parse_reason, parse_scope


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"limit={value}", "limit") for value in ("+5", "%2B5", "%205", "5%20", "5_0", "05")),
        *((f"limit={value}", "limit") for value in ("%EF%BC%95", "5.0", "", "1e1", "-1")),
        ("limit", "limit"),
        ("limit=5&limit=5", "limit"),
        ("limit=5&limit=6", "limit"),
        *((f"enabled={value}", "enabled") for value in ("1", "yes", "TRUE", "on", "")),
        ("q=%ff", "query"),
        ("q=%c3", "query"),
        ("q=100%", "query"),
        ("q=%zz", "query"),
        ("%ff=1", "query"),
        ("q=a&q=b", "q"),
        ("q=a%0ab", "q"),
        ("q=%EF%BF%BD%00", "q"),
        ("nonsense=1", "nonsense"),
        ("=1", ""),
    ],
)
def test_query_with_two_readings_is_refused(
    client: FlaskClient, admin: Account, query: str, field: str
) -> None:
    status, code, fields = problem(client.get(f"{PATH}?{query}", headers=admin.headers()))
    assert (status, code, len(fields)) == (422, "invalid", 1)
    assert field in fields or not field


def test_plain_query_is_read(client: FlaskClient, admin: Account) -> None:
    for query in ("limit=5", "enabled=true", "enabled=false", "q=caf%C3%A9+a%20b&limit=200", ""):
        assert client.get(f"{PATH}?{query}", headers=admin.headers()).status_code == 200, query


@pytest.mark.parametrize("use", [u for u in USES if u.method == "GET" and not u.lists])
def test_parameter_of_a_route_that_takes_none_is_refused(
    client: FlaskClient, here: Place, use: Use
) -> None:
    path = use.path(here.ids)
    answer = client.get(f"{path}?nonsense=1", headers=here.admin.headers())
    assert problem(answer)[0] in (422, 404)
    assert (problem(answer)[2] == ["nonsense"]) == (answer.status_code == 422)


@pytest.mark.parametrize(
    "changes",
    [
        {"mfa": "yes"},
        {"mfa": 1},
        {"enabled": "true"},
        {"max_minutes": "5"},
        {"max_minutes": 5.0},
        {"min_approvals": True},
        {"min_approvals": "１"},
    ],
)
def test_value_of_another_type_is_refused(
    client: FlaskClient, admin: Account, changes: dict[str, Any]
) -> None:
    answer = client.post(PATH, headers=admin.headers(), json=draft(**changes))
    assert problem(answer) == (422, "invalid", list(changes))


NO_ZONES = (
    *("localtime", "posixrules", "Factory", "zone.tab", "tzdata.zi", "leapseconds", "posix/UTC"),
    *("/etc/localtime", "/usr/share/zoneinfo/UTC", "../zoneinfo/UTC", "Europe", "europe/berlin"),
    *("Europe/Berlin ", "Europe//Berlin", "Europe/Berlin/", "UTC\n", "", "+01:00"),
)


@pytest.mark.parametrize("name", NO_ZONES)
def test_name_that_is_no_zone_of_tzdata_is_refused(
    client: FlaskClient, admin: Account, name: str
) -> None:
    window = {"days": ["mon"], "from": "08:00", "to": "17:00", "tz": name}
    answer = client.post(PATH, headers=admin.headers(), json=draft(windows=[window]))
    assert problem(answer) == (422, "invalid", ["windows.0.tz"])
    with pytest.raises(ValueError, match="time zone"):
        zone_of(name)


def test_zones_are_those_of_the_pinned_package_whatever_the_host_has(tmp_path: Path) -> None:
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Berlin").write_bytes(b"no zone")
    reset_tzpath([str(tmp_path)])
    try:
        assert {zone_of(name).key for name in time_zones()} == time_zones()
    finally:
        reset_tzpath()
    assert len(time_zones()) > 500


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ('incident;note="café"', 'note=%"caf%c3%a9"'),
        ('incident;note="café"'.encode().decode("latin-1"), 'note=%"caf%c3%a9"'),
        ('incident;ticket="T-1";note="über"', 'note=%"%c3%bcber"'),
        ("incident;note=login fails", "character 21"),
        ("incident;note='x'", 'note="login fails"'),
        ('incident;ticket="INC', 'ticket="INC-4711"'),
        ("", "incident;ticket="),
        ('incident;note="a\x1bb"', "display string"),
    ],
)
def test_header_that_cannot_be_read_says_how_it_should_look(header: str, says: str) -> None:
    with pytest.raises(HeaderError) as raised:
        parse_reason(header)
    assert says in str(raised.value)
    assert str(raised.value).isprintable()


def test_shown_form_of_a_note_is_read() -> None:
    assert parse_reason('incident;note=%"caf%c3%a9"').note == "café"
    with pytest.raises(HeaderError, match="tenant:acme"):
        parse_scope("tenant:acme, global")


def test_if_match_that_is_no_entity_tag_says_how_it_should_look(
    client: FlaskClient, here: Place
) -> None:
    for sent in ("1", "abc.1", '"a" "b"', '"a'):
        headers = here.admin.headers() | {"If-Match": sent}
        answer = client.delete(f"{PATH}/{here.ids['rule_id']}", headers=headers)
        assert problem(answer) == (422, "invalid", ["If-Match"]), sent
        assert '"0123abcd.1"' in answer.get_json(force=True)["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("ip", value) for value in ("nowhere", "10.0.0", "10.0.0.0/8", "fe80::1%eth0")),
        ("ip", "１.1.1.1"),
        *(("email", value) for value in ("nobody", "a@", "@b", "a b@c", "a@b@c")),
    ],
)
def test_address_that_is_none_is_refused_by_simulate_and_by_elevations(
    client: FlaskClient, app: Flask, admin: Account, field: str, value: str
) -> None:
    access = {"email": "a@example.org", "surface": "admin.rules.list", "reason": "incident"}
    body = {"rule": draft(), "access": access | {field: value}}
    answer = client.post(f"{PATH}/simulate", headers=admin.headers(), json=body)
    assert problem(answer) == (422, "invalid", [f"access.{field}"])
    service = add_account(app, "service")
    asked = elevations.question("a@example.org")
    asked |= {"ip": value} if field == "ip" else {"principal": {"email": value}}
    named = ["ip"] if field == "ip" else ["principal.email"]
    assert problem(elevations.ask(client, service, asked)) == (422, "invalid", named)


@pytest.mark.parametrize("form", ["{{{}}}", "urn:uuid:{}", "{0.hex}"])
def test_id_in_another_form_is_refused(client: FlaskClient, admin: Account, form: str) -> None:
    made: UUID = uuid4()
    body = {"remove": True, "replaces": form.format(made), "days": 1}
    answer = client.post(f"{PATH}/simulate", headers=admin.headers(), json=body)
    assert problem(answer) == (422, "invalid", ["replaces"])
