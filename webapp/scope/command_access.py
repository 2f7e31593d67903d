"""The way of a command to tenants' rows: say why, read, record, and only then print.

No rule is asked, since the operator is at the machine. So the record is what tenants have: one
event for each command, committed before the first byte is printed.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import click
from sqlalchemy.exc import DBAPIError

from webapp.audit import append, event
from webapp.audit.event import AuditEvent, EventScope
from webapp.audit.operation import access_of_command, changes_of_command, tenant_scope
from webapp.db.scopes import GlobalScope, Scope, TenantScope
from webapp.extensions import db
from webapp.http.errors import AuditUnavailable
from webapp.http.parsing import terms_of
from webapp.identity.lookup import require_tenant
from webapp.scope.headers import REASON_CODES, HeaderError, Reason, parse_reason

_EXAMPLE = """--reason 'incident;ticket="INC-4711";note="login fails"'"""


class ReasonType(click.ParamType[Reason]):
    """A reason, as the header `Sightline-Reason` has it."""

    name = "reason"

    def __init__(self, missing: str = "Say why you read tenants' data, which is recorded") -> None:
        """`missing`: what to say where none is given."""
        self._missing = missing

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Reason:
        try:
            # A server decodes headers by Latin-1, whatever the bytes mean.
            reason = parse_reason(str(value).encode().decode("latin-1"))
        except HeaderError as error:
            self.fail(f"The reason {error}.", param, ctx)
        if reason.code == "break_glass":
            self.fail("The reason break_glass is for requests: a command opens no incident.")
        return reason

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        return f"{self._missing}: {_EXAMPLE}"


reason_option = click.option(
    "--reason",
    required=True,
    type=ReasonType(),
    metavar="REASON",
    help="Why you read tenants' data, as the header Sightline-Reason has it: one of"
    f" {', '.join(code for code in REASON_CODES if code != 'break_glass')}, and"
    ' ;ticket="…" and ;note="…" where there are any. It is recorded, and tenants see it.',
)


@dataclass
class CommandAccess:
    """What one command reads of tenants, until it is recorded."""

    scope: Scope
    """The tenant's, or that of all of them."""
    rows: int | None = 0
    """How many rows the command shows; `None` where it goes on to show more."""
    changed: Mapping[EventScope, int] = field(default_factory=dict)
    """How many rows the command changes of each owner. Then it is recorded as these changes."""

    def go_on(self) -> AbstractContextManager[Scope]:
        """Enter the scope again, once the access is recorded."""
        return cast(AbstractContextManager[Scope], db.scoped(self.scope))


@contextmanager
def command_access(
    command: str, reason: Reason, terms: Mapping[str, object], *, tenant: str | None = None
) -> Iterator[CommandAccess]:
    """Run a block that reads tenants' rows for a command, and record it when the block ends.

    The block says how many rows the command shows, and prints nothing. A block that fails is
    recorded too. `terms` is what the command looks for. With the slug of a `tenant` the block runs
    in its scope, otherwise in that of all tenants. Raises `NotFound` for a tenant that is none, and
    `AuditUnavailable` where the record is not committed: then nothing may be shown.
    """
    tenant_id = None if tenant is None else require_tenant(tenant)
    given = {name: str(value) for name, value in terms.items() if value not in (None, False)}
    begun = access_of_command(
        command,
        event.Reason(code=reason.code, note=reason.note, ticket=reason.ticket),
        tenant_scope(tenant_id, tenant),
        terms_of(given),
    )
    scope = GlobalScope(begun.id) if tenant_id is None else TenantScope(tenant_id)
    access = CommandAccess(scope)
    with db.scoped(scope):
        try:
            yield access
        except DBAPIError:  # it says nothing of tenants' rows
            raise
        except Exception:
            db.session.rollback()
            _record([replace(begun, outcome="failed", rows=0)])
            raise
        _record(
            changes_of_command(begun, access.changed)
            if access.changed
            else [replace(begun, rows=access.rows)]
        )


def _record(events: list[AuditEvent]) -> None:
    """Commit the events, with what the block has changed."""
    try:
        append.append_own(db.session, events)
    except DBAPIError as error:
        raise AuditUnavailable from error
    db.session.commit()
