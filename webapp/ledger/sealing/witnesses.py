"""Witnesses, who cosign checkpoints that continue what they have cosigned before.

Each is asked by itself (https://c2sp.org/tlog-witness), over HTTP and outside any transaction. One
that is slow, gone or wrong holds up neither the log nor another witness: it is asked again later.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic

import structlog
import urllib3
from prometheus_client import Counter
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from webapp.ledger.sealing import store
from webapp.ledger.sealing.checkpoint import (
    Checkpoint,
    CheckpointError,
    encode_base64,
    parse_checkpoint,
    parse_decimal,
)
from webapp.ledger.sealing.merkle import consistency_proof_at
from webapp.ledger.sealing.models import LogCosignatureRow, LogWitnessRow
from webapp.ledger.sealing.note import (
    NoteError,
    parse_signatures,
    parse_verifier,
    split_note,
    verify_signature,
)
from webapp.ledger.sealing.store import Log, Tiles
from webapp.settings import WitnessSetting

ASK_TASK = "ledger.ask_witness"
"""Takes the name of a witness."""

TIMEOUT = urllib3.Timeout(connect=2, read=3)
PATIENCE = 6.0
"""Seconds that a whole answer may take."""
ANSWER_BYTES = 2**16
SIZE_TYPE = "text/x.tlog.size"

LEASE = timedelta(seconds=30)
"""How long a process that asks a witness keeps others from it: longer than asking can last."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)

log = structlog.get_logger()

ASKED = Counter(
    "sightline_log_witness_answers_total",
    "Checkpoints that were given to a witness, by outcome: cosigned or failed.",
    ("witness", "outcome"),
)


class WitnessFailed(Exception):
    """Why a witness has not cosigned. The text repeats nothing that the witness has sent."""


@dataclass(frozen=True)
class Question:
    """A checkpoint for a witness, and the proof that it continues the one that the witness has."""

    number: int
    note: str
    old_size: int
    proof: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        lines = [f"old {self.old_size}", *map(encode_base64, self.proof)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note.encode()

    @property
    def checkpoint(self) -> Checkpoint:
        text, _ = split_note(self.note.encode())
        return parse_checkpoint(text)


@dataclass(frozen=True)
class Behind:
    """A witness's answer that it has another size than it was told."""

    size: int


def find_due(session: Session, witnesses: Iterable[WitnessSetting]) -> list[str]:
    """Return the witnesses that have not cosigned the last checkpoint, and may be asked now."""
    found = store.read_open(session)
    if found is None or found.checkpoint is None:
        return []
    now = session.scalars(select(func.clock_timestamp())).one()
    rows = {row.name: row for row in session.scalars(select(LogWitnessRow))}
    names = [witness.name for witness in witnesses]
    return [name for name in names if name not in rows or _is_due(rows[name], found, now)]


def _is_due(row: LogWitnessRow, found: Log, now: datetime) -> bool:
    if (row.log, row.size) == (found.number, found.size):
        return False
    if row.asked_at is None:
        return True
    if row.failures:
        return now - row.asked_at >= _pause_after(row.failures)
    answered = row.cosigned_at is not None and row.cosigned_at >= row.asked_at
    return answered or now >= row.asked_at + LEASE


def _pause_after(failures: int) -> timedelta:
    doublings: int = min(failures - 1, 10)
    return min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def take(session: Session, name: str) -> Question | None:
    """Prepare what to ask a witness; `None` where it is not due, or another process asks it.

    Once the caller has committed, no other process asks it for the time of `LEASE`.
    """
    fresh = {"name": name, "log": 0, "size": 0, "failures": 0}
    session.execute(insert(LogWitnessRow).values(fresh).on_conflict_do_nothing())
    row = session.scalar(
        select(LogWitnessRow).where(LogWitnessRow.name == name).with_for_update(skip_locked=True)
    )
    found = store.read_open(session)
    now = session.scalars(select(func.clock_timestamp())).one()
    if row is None or found is None or found.checkpoint is None or not _is_due(row, found, now):
        return None
    row.asked_at = now
    return question(session, found, row.size if row.log == found.number else 0)


def question(session: Session, found: Log, old_size: int) -> Question:
    """Make the proof from a size that a witness has; raises `WitnessFailed` if it has more."""
    if old_size > found.size:
        raise WitnessFailed(
            f"it has cosigned size {old_size} of {found.origin}, and the database has {found.size}"
        )
    hash_at = Tiles(session, found.number).hash_at(found.size)
    proof = consistency_proof_at(old_size, found.size, hash_at)
    return Question(found.number, found.checkpoint or "", old_size, tuple(proof))


def ask(witness: WitnessSetting, asked: Question) -> str | Behind:
    """Give a checkpoint to a witness; returns the line that it signs with, or the size it has.

    Raises `WitnessFailed`.
    """
    status, content_type, body = _post(f"{witness.url}/add-checkpoint", asked.body)
    if status == 409 and content_type.partition(";")[0].strip() == SIZE_TYPE:
        return Behind(_size_of(body))
    if status != 200:
        raise WitnessFailed(f"it answers {status}")
    return _cosignature(witness, asked, body)


def _post(url: str, body: bytes) -> tuple[int, str, bytes]:
    until = monotonic() + PATIENCE
    try:
        with urllib3.PoolManager(timeout=TIMEOUT) as http:
            response = http.request(
                "POST", url, body=body, redirect=False, retries=False, preload_content=False
            )
            try:
                return (
                    response.status,
                    response.headers.get("Content-Type", ""),
                    _read(response, until),
                )
            finally:
                response.close()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise WitnessFailed(f"it does not answer: {type(error).__name__}") from error


def _read(response: urllib3.BaseHTTPResponse, until: float) -> bytes:
    """Read a body within its bounds: who sends it byte by byte holds up nobody."""
    read = b""
    while part := response.read1(ANSWER_BYTES):
        read += part
        if len(read) > ANSWER_BYTES or monotonic() > until:
            raise WitnessFailed("its answer is too long, or takes too long")
    return read


def _size_of(body: bytes) -> int:
    try:
        return parse_decimal(body.decode("ascii").removesuffix("\n"))
    except (CheckpointError, UnicodeDecodeError) as error:
        raise WitnessFailed("it does not say which size it has") from error


def _cosignature(witness: WitnessSetting, asked: Question, body: bytes) -> str:
    """Return the witness's line, once its signature holds."""
    try:
        verifier = parse_verifier(witness.key)
        text, _ = split_note(asked.note.encode())
        made = [
            signature
            for signature in parse_signatures(body.decode())
            if (signature.name, signature.key_id) == (verifier.name, verifier.key_id)
        ]
        if not made:
            raise WitnessFailed("it has not signed with its key")
        verify_signature(text, made[0], verifier)
    except (NoteError, UnicodeDecodeError) as error:
        raise WitnessFailed("its signature is wrong") from error
    return made[0].line


def keep(session: Session, name: str, asked: Question, line: str) -> None:
    """Keep a cosignature beside the checkpoint, and forget those on earlier ones."""
    size = asked.checkpoint.size
    row = session.get_one(LogWitnessRow, name)
    row.log, row.size, row.failures, row.problem = asked.number, size, 0, None
    row.cosigned_at = session.scalars(select(func.clock_timestamp())).one()
    values = {"log": asked.number, "size": size, "name": name, "line": line}
    session.execute(insert(LogCosignatureRow).values(values).on_conflict_do_nothing())
    earlier = (LogCosignatureRow.name == name) & (
        (LogCosignatureRow.log < asked.number) | (LogCosignatureRow.size < size)
    )
    session.execute(delete(LogCosignatureRow).where(earlier))
    ASKED.labels(name, "cosigned").inc()


def note_failure(session: Session, name: str, problem: str) -> None:
    """Note why a witness has not cosigned. It is asked again after a while, and then less often."""
    row = session.get_one(LogWitnessRow, name)
    row.failures += 1
    row.problem = problem
    row.asked_at = session.scalars(select(func.clock_timestamp())).one()
    ASKED.labels(name, "failed").inc()
    log.warning("witness_failed", witness=name, problem=problem)


def read_witness_problems(session: Session, names: Sequence[str]) -> dict[str, str]:
    """Read what witnesses have last failed with, by name."""
    found = select(LogWitnessRow.name, LogWitnessRow.problem).where(
        LogWitnessRow.problem.is_not(None), LogWitnessRow.name.in_(names)
    )
    return {name: problem or "" for name, problem in session.execute(found)}
