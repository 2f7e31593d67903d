"""A process of the tests whose threads all call for the same value at the same moment.

    python -m tests.caching.caller DATABASE_URL REDIS_URL TENANT THREADS LOAD_SECONDS

It prints `ready`, waits for a line on standard input, and prints the results as JSON.
"""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import orjson

from tests.caching.sample import Query, create_app, list_titles, probe
from tests.caching.unit import inside
from webapp.db.scopes import TenantScope


def main(database_url: str, redis_url: str, tenant: str, threads: int, seconds: float) -> None:
    # Sixty-four threads connect at once, which may take long on a busy machine.
    app = create_app(database_url, redis_url, cache_timeout=30)
    scope = TenantScope(UUID(tenant))
    barrier = threading.Barrier(threads)
    probe.before_read = lambda: time.sleep(seconds)

    def call(_: int) -> list[object]:
        with inside(app, scope):
            barrier.wait()
            cached = list_titles(scope, Query())
            return [cached.outcome, cached.value.titles]

    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    sys.stdin.readline()
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(call, range(threads)))
    print(orjson.dumps({"loads": probe.loads, "results": results}).decode())  # noqa: T201 - read by the parent


if __name__ == "__main__":
    _, database_url, redis_url, tenant, threads, seconds = sys.argv
    main(database_url, redis_url, tenant, int(threads), float(seconds))
