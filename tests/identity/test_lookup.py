"""Who asks for a tenant or a person cannot tell by the work that it takes whether there is one."""

from uuid import uuid4

from flask import Flask

from tests.factories import INCIDENT, Account, MadeTenant, add_tenant
from tests.http.test_rate_limits import statements
from webapp.db.scopes import DirectoryScope
from webapp.directory import service
from webapp.extensions import db
from webapp.identity import lookup

PATH = "/admin/api/rules"


def test_tenant_that_others_use_takes_a_stranger_as_long_as_none(
    app: Flask, tenant: MadeTenant, engineer: Account, outsider: Account
) -> None:
    client = app.test_client()
    for _ in range(2):  # this process knows the tenant
        answer = client.get(PATH, headers=engineer.headers(f"tenant:{tenant.slug}", INCIDENT))
        assert answer.status_code == 200
    client.get(PATH, headers=outsider.headers())  # and the stranger's token
    asked: dict[str, list[list[str]]] = {}
    for slug in (tenant.slug, f"t-{uuid4().hex}"):
        for _ in range(2):
            with statements(app) as sent:
                headers = outsider.headers(f"tenant:{slug}", INCIDENT)
                assert client.get(PATH, headers=headers).status_code == 403
            asked.setdefault(slug, []).append([s for s in sent if "slug" in s])
    known, unknown = asked.values()
    assert [len(sent) for sent in known] == [len(sent) for sent in unknown] == [1, 0]


def test_misses_are_remembered_until_there_is_such_a_tenant_or_person(app: Flask) -> None:
    slug, email = f"t-{uuid4().hex}", f"{uuid4().hex}@example.org"
    with app.app_context():
        assert lookup.find_tenant_id(slug) is None
        assert lookup.find_principal(email, mfa=False) is None
        with statements(app) as sent:
            assert lookup.find_tenant_id(slug) is None
            assert lookup.find_principal(email, mfa=False) is None
        assert [s for s in sent if "slug" in s or "email" in s] == []
    made = add_tenant(app, slug)
    with app.app_context():
        with db.scoped(DirectoryScope()):
            service.create_user(email)
            db.session.commit()
        assert lookup.find_tenant_id(slug) == made.id
        assert lookup.find_principal(email, mfa=False) is not None
