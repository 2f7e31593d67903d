"""A stranger with the broker's and the cache's password, and without any key."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from itertools import cycle
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import redis
import requests
from kombu.serialization import dumps
from sqlalchemy import text

from reliability.faults import deliveries
from reliability.hostile.attack import Attack, Scene, addresses
from reliability.hostile.sql import append, columns_of, connected, roles_of
from reliability.stress.counts import Counts
from reliability.stress.sabotage import CacheSaboteur
from tests.audit.events import make_event, make_request
from tests.audit.ledgers import owner_connection
from tests.factories import INCIDENT, add_account
from tests.worker.bombs import bomb
from tests.worker.garbage import BRACKETS, GARBAGE, envelope
from webapp.audit.event import dump_event
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.audit.signature import sign_event
from webapp.caching.generations import LEASE, SKEW
from webapp.db.scopes import DirectoryScope
from webapp.directory import service
from webapp.extensions import db
from webapp.identity.last_use import TOUCH_TASK
from webapp.key_ring import KeyRing
from webapp.signing_key import SigningKey
from webapp.worker.redis_transport import MAX_MESSAGE
from webapp.worker.serialization import register_serializers

QUEUES = ("audit", "default")
KEYS = (
    *QUEUES,
    *("unacked", "unacked_index", "unacked_mutex"),
    *("_kombu.binding.audit", "_kombu.binding.default"),
)
FORGED = "forged"
"""The request ids of events that nobody's request has caused begin so."""

PAUSE = 0.2
YEAR_9999 = "9999-12-31T23:59:59+00:00"
PATIENCE = 60


def forged_event() -> bytes:
    request = make_request(f"{FORGED}.{uuid4().hex}")
    return dump_event(make_event(request=request))


def _push(scene: Scene, what: str, item: bytes | dict[str, Any]) -> None:
    for queue in QUEUES:
        try:
            scene.installation.broker.lpush(
                queue, json.dumps(item) if isinstance(item, dict) else item
            )
        except redis.ResponseError:  # this attacker has put something else there
            scene.installation.broker.delete(queue)
        scene.did[what] += 1


def _push_garbage(scene: Scene) -> None:
    for _ in scene.meanwhile():
        _push(scene, "pieces of garbage", scene.rng.choice(GARBAGE))
        _push(scene, "pieces of garbage", scene.rng.randbytes(scene.rng.randrange(5_000)))
        _push(scene, "nested brackets", envelope(BRACKETS))
        _push(scene, "half messages", json.dumps(envelope(b"[[], {}, {}]"))[:-20].encode())
        sleep(PAUSE)
    _push(scene, "messages above the largest", bytes(MAX_MESSAGE + 1))


def _push_bombs(scene: Scene) -> None:
    """Some kilobytes that stand for gigabytes, above the MAC and below a wrong one."""
    packed = bomb(2**30)
    for _ in scene.meanwhile():
        _push(
            scene, "bombs", envelope(packed, headers={"task": COMMIT_TASK, "compression": "zstd"})
        )
        _push(scene, "bombs", envelope(b"\x00" * 32 + packed, **{"content-type": _our_type(scene)}))
        sleep(PAUSE)


def _our_type(scene: Scene) -> str:
    """The content type of true tasks, which whoever reads the broker knows."""
    celery = scene.installation.app.extensions["celery"]
    return f"application/x-{celery.conf.task_serializer}"


def _forged_tasks(unused: str) -> Iterator[tuple[str, list[Any]]]:
    event = forged_event()
    signature = sign_event(SigningKey("k" * 43), event)
    yield COMMIT_TASK, [[[event.decode(), signature]]]
    yield TOUCH_TASK, [unused, YEAR_9999]
    yield TOUCH_TASK, [unused, datetime.now(UTC).isoformat()]
    yield "grants.expire", []
    yield "audit.make_partitions", []


def _forge_tasks(scene: Scene) -> None:
    """Tasks as true ones look, under another key and under none."""
    (serializer,) = register_serializers(KeyRing(b"the stranger's own secret"))
    unused = str(add_account(scene.installation.app).token_id)
    for _ in scene.meanwhile():
        for task, arguments in _forged_tasks(unused):
            headers = {"task": task, "id": str(uuid4()), "lang": "py"}
            _, _, body = dumps([arguments, {}, headers], serializer)
            data = body.encode() if isinstance(body, str) else body
            ours = {"content-type": _our_type(scene)}
            _push(scene, "tasks under another key", envelope(data, headers=headers, **ours))
            plain = json.dumps([arguments, {}, headers]).encode()
            _push(scene, "tasks without a MAC", envelope(plain, headers=headers))
        sleep(PAUSE)
    sleep(PAUSE)
    with owner_connection(scene.installation.app) as owner:
        query = text("select last_used_at from api_tokens where id = :id")
        used = owner.scalar(query, {"id": unused})
    scene.expect(used is None, f"a token that nobody has used was used at {used}")


def _replay_tasks(scene: Scene) -> None:
    """Deliver true tasks again, and others with a bit changed."""
    copies = deliveries.empty_copies()
    deliveries.ensure_copies(scene.installation, copies, scene.rng)
    for _ in scene.meanwhile():
        deliveries.redeliver(scene.installation, copies, scene.rng)
        scene.did["true tasks again"] += min(deliveries.SOME, len(copies))
        message = json.loads(scene.rng.choice(list(copies)))
        body = bytearray(message["body"].encode())
        place = scene.rng.randrange(len(body) - 4)
        body[place] = ord("A") if body[place] != ord("A") else ord("B")
        message["body"] = body.decode()
        _push(scene, "changed tasks", message)
        sleep(PAUSE)


def _delete_queues(scene: Scene) -> None:
    """Delete what the broker holds, and put something else in its place."""
    for _ in scene.meanwhile():
        for key in KEYS:
            scene.installation.broker.delete(key)
            scene.did["keys deleted"] += 1
            if scene.rng.random() < 0.5:
                scene.installation.broker.set(key, "no list")
                scene.did["keys of another type"] += 1
        sleep(scene.seconds / 10)


def _flush_all(scene: Scene) -> None:
    for _ in scene.meanwhile():
        scene.installation.broker.flushall()
        scene.did["FLUSHALL"] += 1
        sleep(scene.seconds / 10)


def _swap_records(scene: Scene) -> None:
    """Put another event under an access's id into the ledger before the true one arrives."""
    headers = scene.attackers.engineer.headers("global", INCIDENT)
    for number, _ in enumerate(scene.meanwhile()):
        answer = requests.get(
            f"{scene.installation.url}/admin/api/rules",
            headers=headers | {"X-Request-ID": f"swapped.{uuid4().hex}.{number}"},
            timeout=PATIENCE,
        )
        receipt = answer.headers.get("Sightline-Audit")
        if receipt is None:
            continue
        scene.did["accesses"] += 1
        _swap(scene, receipt)
        sleep(PAUSE)


def _swap(scene: Scene, receipt: str) -> None:
    """With the password of a worker: others may not append."""
    values = columns_of(receipt, f"swapped.{uuid4().hex}")
    with connected(scene, "worker") as made:
        if any(append(made, role, values) for role in roles_of(made)):
            scene.did["events in another's place"] += 1
            scene.swapped.add(values["id"])


@contextmanager
def _sabotage(scene: Scene) -> Iterator[Counts]:
    """Overwrite the cache with garbage, old values and other tenants' values."""
    counts, stopping = Counts(), Event()
    settings = scene.installation.app.extensions["settings"]
    saboteur = CacheSaboteur(
        redis.Redis.from_url(settings.redis_url),
        f"sightline:{settings.env}:cache:",
        scene.installation.environment,
        counts,
        scene.rng,
    )
    thread = Thread(target=saboteur.work, args=(stopping,))
    thread.start()
    try:
        yield counts
    finally:
        stopping.set()
        thread.join()


def _overwrite_cache(scene: Scene) -> None:
    with _sabotage(scene) as counts:
        for _ in scene.meanwhile():
            sleep(PAUSE)
        while not counts.sabotage:  # what it has chosen found nothing to harm
            sleep(PAUSE)
    scene.did += counts.sabotage


def _bring_back_old_leases(scene: Scene) -> None:
    """Revoke a token, and bring back what the cache held before.

    A lease from before the revocation may still be believed, until it ends.
    """
    app, broker = scene.installation.app, scene.installation.broker
    sources = cycle(addresses(100))  # each has so many bad credentials, and then waits
    for _ in scene.meanwhile():
        account = add_account(app, "engineer")
        ask = _asker(scene, next(sources), account.headers("global", INCIDENT))
        scene.expect(ask() == 200, "a new token is not good")
        old = {key: broker.dump(key) for key in broker.scan_iter("*:cache:*", count=1000)}
        with app.app_context(), db.scoped(DirectoryScope()):
            service.revoke_token(account.token_id)
            db.session.commit()
        leases_end = monotonic() + LEASE + SKEW
        while monotonic() < leases_end + 1:
            for key, value in old.items():
                if value is not None:
                    broker.restore(key, 60_000, value, replace=True)
            scene.did["old values brought back"] += len(old)
            over = monotonic() > leases_end
            status = ask()
            scene.did[f"{'later' if over else 'while a lease lasts'}: {status}"] += 1
            if over:
                scene.expect(status in (401, 429), f"a revoked token is answered {status}")


def _asker(scene: Scene, source: str, headers: dict[str, str]) -> Callable[[], int]:
    place = urlsplit(scene.installation.url)

    def ask() -> int:
        # Another connection each time, to reach every process.
        connection = HTTPConnection(
            str(place.hostname), place.port, PATIENCE, source_address=(source, 0)
        )
        with closing(connection):
            connection.request("GET", "/admin/api/rules", headers=headers)
            return connection.getresponse().status

    return ask


ATTACKS = (
    Attack("broker: garbage, brackets, half messages", _push_garbage),
    Attack("broker: compressed bombs", _push_bombs),
    Attack("broker: forged tasks", _forge_tasks),
    Attack("broker: true tasks again, and changed", _replay_tasks),
    Attack("broker: queues deleted, keys of another type", _delete_queues),
    Attack("broker: FLUSHALL", _flush_all),
    Attack("broker and database: records swapped on their way", _swap_records),
    Attack("cache: garbage, old values, others' values", _overwrite_cache),
    Attack("cache: old leases after a revocation", _bring_back_old_leases),
)
