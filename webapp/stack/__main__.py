"""`python -m webapp.stack`: the whole product on one machine, until Ctrl-C.

A server that DATABASE_URL or REDIS_URL names is used as it is; the others are started here.
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from webapp.stack.home import (
    LOGIN_URLS,
    HomeInUse,
    locked,
    open_stack,
    publish,
    running_postgres,
    running_redis,
)
from webapp.stack.processes import (
    METRICS,
    ProcfileError,
    metrics_directory,
    release,
    run,
    supervise,
)
from webapp.stack.servers import ServerFailed, free_port, is_free
from webapp.stack.terminal import complain, say

ROOT = Path(__file__).parents[2]
DEFAULT_PORT = 8000
SEED = ("flask", "--app", "wsgi", "demo", "seed")


class PortInUse(Exception):
    pass


def main() -> int:
    home = Path(os.environ.get("SIGHTLINE_HOME", ROOT / ".sightline")).resolve()
    # A signal ends what runs here the way an error would: through every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        port = _choose_port(os.environ.get("PORT"))
        environment = {"PORT": str(port)}
        with locked(home), _servers(home, f"http://127.0.0.1:{port}") as found:
            environment |= {"SIGHTLINE_HOME": str(home), **found}
            say("Migrating the database …")
            release(ROOT, environment)
            say("Filling in the demo …")
            run(ROOT, SEED, environment)
            say("Starting the web server, the worker and the scheduler …")
            return supervise(ROOT, environment, home)
    except (HomeInUse, PortInUse, ProcfileError, ServerFailed) as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 0


@contextmanager
def _servers(home: Path, url: str) -> Iterator[Mapping[str, str]]:
    """Run the servers that the caller does not name; yields the variables that lead to all."""
    stack = open_stack(home, durable=True)
    environment = {**stack.environment, "PUBLIC_URL": url}
    with ExitStack() as started:
        if os.environ.get("REDIS_URL"):
            del environment["REDIS_URL"]
        else:
            say("Starting Redis …")
            started.enter_context(running_redis(stack))
        if os.environ.get("DATABASE_URL"):
            # The others go with it: all must lead to one database.
            for name in ("DATABASE_URL", "DATABASE_OWNER_URL", *set(LOGIN_URLS.values())):
                del environment[name]
        else:
            say("Starting PostgreSQL …")
            started.enter_context(running_postgres(stack))
            publish(home, environment | {METRICS: str(metrics_directory(home))})
        yield {
            **{name: os.environ.get(name) or value for name, value in environment.items()},
            "SIGHTLINE_ENV": "development",  # whatever the caller has set: it has no demo elsewhere
        }


def _choose_port(wanted: str | None) -> int:
    if wanted is None:
        return DEFAULT_PORT if is_free(DEFAULT_PORT) else free_port()
    if not wanted.isdecimal() or not 0 < int(wanted) < 65536:
        raise PortInUse(f"PORT is {wanted!r}; it must be a number from 1 to 65535")
    if not is_free(int(wanted)):
        raise PortInUse(f"port {wanted} is in use; choose another, as in `PORT=8001 make run`")
    return int(wanted)


if __name__ == "__main__":
    sys.exit(main())
