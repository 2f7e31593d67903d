"""Register the keys of the development stack's processes, as operators do on each host."""

from collections.abc import Mapping
from contextlib import closing
from socket import gethostname

import psycopg2

from webapp.signing_key import signing_key
from webapp.stack.home import SIGNING_KEYS

_REGISTER = (
    "insert into signing_keys (public_key, process, label) values (%s, %s, %s)"
    " on conflict do nothing"
)


def register(environment: Mapping[str, str]) -> None:
    """Register the keys that an environment has, in a database that is migrated."""
    _, _, owner = environment["DATABASE_OWNER_URL"].partition("://")  # whichever driver it names
    with (
        closing(psycopg2.connect(f"postgresql://{owner}")) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        for process, variable in SIGNING_KEYS.items():
            public = signing_key(environment[variable]).public
            cursor.execute(_REGISTER, (public, process, gethostname()))
