"""`flask demo`: tenants to try things on, and a first access. In development only."""

from dataclasses import replace

import click
from uuid_utils.compat import uuid7

from webapp.commands import Commands, as_json, print_json, say
from webapp.db.scopes import DirectoryScope, GlobalScope, TenantScope
from webapp.demo import accounts, client
from webapp.demo.credentials import FILE, Credentials, read_credentials, write_credentials
from webapp.demo.drafts import CUSTOMERS, PLATFORM_RULES, tenant_rules
from webapp.demo.rules import add_rules
from webapp.directory import service
from webapp.extensions import db
from webapp.http.errors import Unauthenticated
from webapp.identity import tokens
from webapp.settings import current_settings

group = Commands("demo", help="Make three tenants to try things on, and access all of them once.")


@group.command("seed")
@click.option(
    "--port",
    envvar="PORT",
    default=8000,
    show_default=True,
    show_envvar=True,
    type=click.IntRange(1, 65535),
    help="The port that the service listens on, for the address in demo.json.",
)
def seed_command(*, port: int) -> None:
    """Fill an empty database with tenants, accounts and rules, and write the accounts' tokens.

    The tokens go to demo.json. Where the database has tenants already, it stays as it is, and
    only tokens that are missing or no longer good are made anew.
    """
    with db.scoped(DirectoryScope()):
        empty = accounts.may_seed()
    if empty:
        _fill()
        say("Seeded three tenants with their rules, and the platform's.")
    else:
        say("There are tenants already: nothing to seed.")
    with db.scoped(DirectoryScope()):
        seeded = accounts.is_seeded()
    if seeded:
        _keep_credentials(f"http://127.0.0.1:{port}")


@group.command("access")
@as_json
def access_command(*, as_json: bool) -> None:
    """Read all tenants' rules as the engineer, and show the event that this leaves."""
    credentials = read_credentials(current_settings().home)
    if credentials is None:
        raise click.ClickException(f"There is no {FILE}: run `flask demo seed`.")
    try:
        answer = client.access(credentials)
        event = client.find_event(credentials, answer.receipt) if answer.receipt else None
    except client.NoAnswer as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print_json({"status": answer.status, "receipt": answer.receipt, "event": event})
    else:
        say(f"status   {answer.status}")
        say(f"receipt  {answer.receipt}")
        say("event    " + ("not committed" if event is None else ""))
        if event is not None:
            print_json(event)
    if answer.status != 200 or event is None:
        raise click.ClickException("The access was not answered and recorded as it should be.")


def _fill() -> None:
    """Seed scope by scope: first what others refer to, and last the accounts."""
    with db.scoped(DirectoryScope()):
        accounts.add_tenants()
        db.session.commit()
        ids = {slug: service.get_tenant(slug).id for slug in CUSTOMERS}
    for slug, tenant_id in ids.items():
        own = TenantScope(tenant_id)
        with db.scoped(own):
            add_rules(own, tenant_rules(slug), accounts.email_of(f"{slug}-admin"))
            db.session.commit()
    everywhere = GlobalScope(access_id=uuid7())
    with db.scoped(everywhere):
        add_rules(everywhere, PLATFORM_RULES, accounts.email_of("owner"))
        db.session.commit()
    with db.scoped(DirectoryScope()):
        accounts.add_accounts()
        db.session.commit()


def _keep_credentials(base_url: str) -> None:
    home = current_settings().home
    kept = read_credentials(home)
    if kept is not None and _are_good(kept):
        path = write_credentials(home, replace(kept, base_url=base_url))
    else:
        with db.scoped(DirectoryScope()):
            minted = accounts.mint_tokens()
            db.session.commit()
        path = write_credentials(home, Credentials(base_url, minted))
    say(f"The accounts' tokens are in {path}")


def _are_good(kept: Credentials) -> bool:
    """Whether each account has a token in the file that stands for it."""
    try:
        return all(
            tokens.verify(kept.tokens[account.name]).email == account.email
            for account in accounts.ACCOUNTS
        )
    except (KeyError, Unauthenticated):
        return False
