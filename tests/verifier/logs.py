"""Logs in memory, and the exports, proofs and policies that a verifier is given of them."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.audit.events import make_event
from webapp.audit.event import AuditEvent, EventScope, dump_event
from webapp.ledger.export.lines import Disclosure, Header, Lines, Tree, disclose
from webapp.ledger.sealing.checkpoint import Checkpoint
from webapp.ledger.sealing.leaf import (
    EventLeaf,
    canonical_json,
    commitment_of,
    encode_bytes,
    event_leaf,
    heartbeat_leaf,
    parse_leaf,
)
from webapp.ledger.sealing.merkle import hash_children, hash_leaf, inclusion_proof, root_from_hashes
from webapp.ledger.sealing.note import (
    Signer,
    cosigner,
    ed25519_signer,
    ml_dsa_44_cosigner,
    sign_note,
)
from webapp.ledger.sealing.proof import InclusionProof

ORIGIN = "ledger.example.com/log"
SEALED_AT = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
WEB_KEY = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
WEB_FINGERPRINT = "00112233445566ff"
TENANTS = {slug: uuid5(UUID(int=1), slug) for slug in ("acme", "globex")}

Json = dict[str, Any]


def label_of(tenant: UUID) -> str:
    return f"label-of-{str(tenant)[:8]}"


def json_of(event: AuditEvent) -> Json:
    value: Json = orjson.loads(dump_event(event))
    return value


def access(tenant: str | None = "acme", **changes: Any) -> Json:
    """An access to a tenant, or to all tenants."""
    scope = EventScope(kind="global", tenant=None, tenant_id=None)
    if tenant is not None:
        scope = EventScope(kind="tenant", tenant=tenant, tenant_id=TENANTS[tenant])
    return json_of(make_event(scope=scope, **changes))


def change(tenant: str = "acme") -> Json:
    return access(tenant, kind="change", surface="admin.rules.create")


def series_of(event: Mapping[str, Any]) -> str:
    scope = event["scope"]
    if scope["tenant_id"]:
        return label_of(UUID(scope["tenant_id"]))
    seen = event["kind"] == "access" and event["decision"]["effect"] == "allowed"
    return "all" if seen and scope["kind"] == "global" else "platform"


def sign_event(event: Mapping[str, Any], key: Ed25519PrivateKey = WEB_KEY) -> str:
    data = key.sign(b"sightline event v1\n" + canonical_json(event))
    return f"{WEB_FINGERPRINT}:{encode_bytes(data)}"


@dataclass
class Log:
    """A log: what is sealed in it, and the events."""

    origin: str = ORIGIN
    seed: bytes = b"k" * 32
    entries: list[bytes] = field(default_factory=list)
    events: list[Json | None] = field(default_factory=list)
    numbers: Counter[str] = field(default_factory=Counter)
    witnesses: Mapping[str, bytes] = field(default_factory=dict)
    """The seed of each, by its name."""
    with_ml_dsa: bool = False

    def seal(self, *events: Json) -> "Log":
        for event in events:
            label = series_of(event)
            self.numbers[label] += 1
            self.append(event, [(label, self.numbers[label])])
        return self

    def append(self, event: Json, series: Sequence[tuple[str, int]]) -> None:
        self.events.append(event)
        self.entries.append(event_leaf(commitment_of(event), series))

    def beat(self) -> "Log":
        self.numbers["heartbeat"] += 1
        self.events.append(None)
        self.entries.append(heartbeat_leaf(SEALED_AT, self.numbers["heartbeat"]))
        return self

    def copy(self) -> "Log":
        return replace(
            self,
            entries=[*self.entries],
            events=[*self.events],
            numbers=Counter(self.numbers),
        )

    @property
    def hashes(self) -> list[bytes]:
        return [hash_leaf(entry) for entry in self.entries]

    def hash_at(self, level: int, index: int) -> bytes:
        if level == 0:
            return hash_leaf(self.entries[index])
        halves = (self.hash_at(level - 1, 2 * index + half) for half in (0, 1))
        return hash_children(*halves)

    @property
    def signers(self) -> list[Signer]:
        at = int(SEALED_AT.timestamp())
        signers = [ed25519_signer(self.origin, self.seed), cosigner(self.origin, self.seed, at)]
        signers += [cosigner(name, seed, at) for name, seed in self.witnesses.items()]
        if self.with_ml_dsa:
            signers.append(ml_dsa_44_cosigner(self.origin, self.seed, at))
        return signers

    @property
    def checkpoint(self) -> str:
        tree = Checkpoint(self.origin, len(self.entries), root_from_hashes(self.hashes))
        return sign_note(tree.text, self.signers).decode()

    def policy(self, *pins: str, quorum: str = "none") -> str:
        """The policy that believes this log, with further lines."""
        keys = [str(self.signers[0].verifier)]
        named = [
            f"witness {name} {cosigner(name, seed, 0).verifier}"
            for name, seed in self.witnesses.items()
        ]
        return "\n".join([*(f"log {key}" for key in keys), *named, f"quorum {quorum}", *pins, ""])


def pin(log: Log) -> str:
    return f"#sightline checkpoint {base64.b64encode(log.checkpoint.encode()).decode()}"


def web_key() -> str:
    public = WEB_KEY.public_key().public_bytes_raw()
    return f"#sightline key web {WEB_FINGERPRINT} {encode_bytes(public)}"


def export(
    log: Log,
    tenant: str | None = None,
    *,
    anchor: int | None = None,
    pending: Iterable[tuple[datetime, Json]] = (),
    filter_: Mapping[str, str] | None = None,
    only: Iterable[int] | None = None,
    signed: bool = False,
) -> list[bytes]:
    """The lines of an export of a log, as a tenant or an auditor gets it."""
    label = label_of(TENANTS[tenant]) if tenant else None
    header = Header(
        exported_at=SEALED_AT.isoformat(),
        scope="tenant" if tenant else "global",
        tenant=tenant,
        label=label,
        filter=filter_ or {},
        anchor=anchor,
    )
    lines, tree = Lines(), Tree(log.hash_at, anchor)
    written = [lines.header(header)]
    chosen = range(len(log.entries)) if only is None else only
    for index in chosen:
        leaf, event = parse_leaf(log.entries[index]), log.events[index]
        if not isinstance(leaf, EventLeaf) or event is None:
            continue
        labels = {each for each, _ in leaf.series}
        if tenant is None or labels & {label, "all"}:
            written.append(lines.entry(tree, index, leaf, _shown(event, tenant, signed=signed)))
    written.append(lines.end_of_log(tree, len(log.entries), log.checkpoint))
    written += [lines.pending(at, _shown(each, tenant, signed=signed)) for at, each in pending]
    return [*written, lines.trailer()]


def _shown(event: Json, tenant: str | None, *, signed: bool) -> Disclosure:
    withheld = frozenset({"excluded"} if tenant else ())
    return disclose(event, withheld, sign_event(event) if signed else None)


def proof_of(log: Log, index: int) -> bytes:
    """The proof of one entry, as a file."""
    leaf, event = parse_leaf(log.entries[index]), log.events[index]
    assert isinstance(leaf, EventLeaf)
    assert event is not None
    shown = {
        "commitment": leaf.commitment,
        "series": [[*each] for each in leaf.series],
        **disclose(event, frozenset()).line,
    }
    hashes = tuple(inclusion_proof(index, log.hashes))
    return InclusionProof(index, hashes, log.checkpoint.encode(), canonical_json(shown)).text
