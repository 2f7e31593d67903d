"""The operator: whoever runs a command on a host, and is therefore the actor of what it records."""

import os
import pwd
from dataclasses import dataclass
from socket import gethostname

import click
from flask.cli import ScriptInfo

from webapp.settings import current_settings


@dataclass(frozen=True)
class Operator:
    name: str
    """`SIGHTLINE_OPERATOR`, or the name of the operating system's user."""
    account: str
    """The operating system's user, and the host: `ada@web-1`."""


def current_operator() -> Operator | None:
    """The operator of the command that runs now; `None` in a request and in a task."""
    context = click.get_current_context(silent=True)
    if context is None or context.find_object(ScriptInfo) is None:
        return None
    user = _user()
    return Operator(current_settings().operator or user, f"{user}@{gethostname()}")


def _user() -> str:
    """The user that the process runs as: not what the environment says."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run as a user without a name
        return f"uid-{uid}"
