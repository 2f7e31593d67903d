"""The commands `flask ledger`."""

import sys

import click

from webapp.audit import event
from webapp.commands import Commands, as_json, print_json, say
from webapp.db.scopes import SealingScope
from webapp.extensions import db
from webapp.ledger.sealing import resume as resuming
from webapp.ledger.sealing.following import this_host
from webapp.ledger.signing_keys_cli import keys
from webapp.scope.command_access import ReasonType
from webapp.scope.headers import Reason
from webapp.settings import SettingsError, current_settings

group = Commands(
    "ledger", help="Check the log of the ledger, prove what is in it, export it, and resume it."
)
group.add_command(keys)


@group.command("resume")
@click.option(
    "--after-restore",
    is_flag=True,
    required=True,
    help="The database was restored, and journals have not brought back what it has lost.",
)
@click.option(
    "--reason",
    required=True,
    type=ReasonType("Say what has happened, which is recorded"),
    metavar="REASON",
    help="What has happened, as the header Sightline-Reason has it. It is recorded.",
)
@as_json
def resume(*, after_restore: bool, reason: Reason, as_json: bool) -> None:
    """Open a new log in the place of one whose entries are lost; exit 1 where none is.

    Run it on a worker's host, with a worker's settings: the event that it records names the last
    checkpoint that this host has. What was sealed and is lost stays lost, and everybody sees that.
    """
    assert after_restore  # noqa: S101 - click requires it
    given = event.Reason(code=reason.code, note=reason.note, ticket=reason.ticket)
    try:
        host = this_host(current_settings())
        with db.scoped(SealingScope()):
            resumed = resuming.resume(db.session, host, given)
            db.session.commit()
    except (SettingsError, resuming.NothingToResume) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print_json(resumed)
        sys.exit(0)
    say(
        f"{resumed.old_origin} had {resumed.old_size} entries, root {resumed.old_root}; the"
        f" database had {resumed.database_size} of them."
    )
    say(f"{resumed.new_origin} goes on in its place. Tell those who verify it.")
