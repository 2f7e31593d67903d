"""`flask ledger keys`: which processes' signatures are believed."""

from socket import gethostname
from typing import get_args

import click

from webapp.audit import signing_keys
from webapp.audit.signature import Signer
from webapp.audit.signing_keys import ListedKey, Registration
from webapp.commands import Commands, as_json, print_rows, say
from webapp.db.scopes import DirectoryScope
from webapp.extensions import db
from webapp.settings import current_settings

SAID: dict[Registration, str] = {
    "registered": "Registered {key} for {process}.",
    "known": "{key} is registered for {process} already.",
    "restored": "{key} was retired, and is registered for {process} again.",
}

keys = Commands(
    "keys",
    help="Register and retire the public keys of the processes that sign audit events. An event is"
    " committed only under a key that is registered and not retired.",
)


@keys.command("register")
@click.argument("process", type=click.Choice(get_args(Signer)))
@click.option(
    "--label",
    default=gethostname,
    show_default="the name of this host",
    help="What people know the key by.",
)
def register(*, process: Signer, label: str) -> None:
    """Register the key of JOURNAL_SIGNING_KEY for the web processes, the workers or the commands
    of a host.

    Run it on the host, with the key that the process has; only its public part is stored. A key
    that was retired is believed again.
    """
    key = current_settings().signing_key
    with db.scoped(DirectoryScope()):
        done = signing_keys.register(db.session, key.public, process, label)
        db.session.commit()
    say(SAID[done].format(key=key.fingerprint, process=process))


@keys.command("list")
@as_json
def list_command(*, as_json: bool) -> None:
    """List the keys, those that are believed first."""
    with db.scoped(DirectoryScope()):
        found = signing_keys.list_keys(db.session)
    print_rows(ListedKey, found, as_json=as_json)


@keys.command("retire")
@click.argument("fingerprint")
def retire(*, fingerprint: str) -> None:
    """Believe a key no more: what it has signed and is not committed goes to quarantine.

    Drain the journals of its host before, unless the key has leaked.
    """
    with db.scoped(DirectoryScope()):
        retired = signing_keys.retire(db.session, fingerprint)
        db.session.commit()
    say(f"Retired {fingerprint}." if retired else f"{fingerprint} is retired already.")
