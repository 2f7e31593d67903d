"""`flask ledger verify`, `prove`, `checkpoint` and `policy`: the log, checked and proven."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import click
import orjson
from flask.cli import with_appcontext
from rich.console import Console
from rich.progress import Progress
from sqlalchemy import exc as sql

from webapp.commands import as_json, describe, print_json, say
from webapp.db.scopes import LedgerScope, LogScope, SealingScope
from webapp.extensions import db
from webapp.ledger import completeness, disclosure
from webapp.ledger.sealing import published, verifying
from webapp.ledger.sealing.checkpoint import encode_base64
from webapp.ledger.sealing.copies import replace_file
from webapp.ledger.sealing.keys import log_keys
from webapp.ledger.sealing.merkle import consistency_proof_at
from webapp.ledger.sealing.note import NOTE_BYTES, NoteError, Verifier, open_checkpoint
from webapp.ledger.sealing.policy import policy_of
from webapp.ledger.sealing.verifying import (
    Anchor,
    Finding,
    LogCheck,
    LogToVerify,
    Report,
    Verified,
)
from webapp.scope.command_access import command_access, reason_option
from webapp.scope.headers import Reason
from webapp.settings import Settings, current_settings

FAILED, UNFINISHED = 1, 3
STATE_FILE = "verified.json"
STATE_BYTES = 2**26


@dataclass(frozen=True)
class Verification:
    """The result of checking the ledger and its log."""

    verdict: str
    """`good`, or `failed`."""
    logs: tuple[Verified, ...]
    read: int
    """How many entries were read."""
    pending: int
    """Events that are committed and not sealed yet."""
    found: Mapping[str, int]
    """How many findings there are of each word."""
    findings: tuple[Finding, ...]


@click.command("verify")
@with_appcontext
@click.option(
    "--full", is_flag=True, help="Begin with the first entry, whatever was verified before."
)
@click.option(
    "--checkpoint",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A checkpoint that somebody else has kept: the log has to go on from it.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where what was verified is kept: by default beside the copies of checkpoints.",
)
@as_json
def verify(*, full: bool, files: Sequence[Path], state: Path | None, as_json: bool) -> None:
    """Check the log, the events under it and the copies off the database, while all goes on.

    It makes each hash anew: entries from events, tiles from entries, the root from tiles. It
    compares the root with the copies of checkpoints on this host, and with what was verified
    before. After the first time it reads what has come since; --full reads all again. Each finding
    is a word, and what it is about. Exit codes: 0 all is well, 1 it is not, 3 it could not be
    finished.
    """
    settings = current_settings()
    kept = state or _state_file(settings)
    try:
        done = _verify(settings, {} if full else _read_state(kept), files, quiet=as_json)
    except (sql.OperationalError, sql.TimeoutError, OSError) as error:
        say(f"Not finished: {describe(error)}", err=True)
        sys.exit(UNFINISHED)
    if done.verdict == "good":
        _write_state(kept, done.logs)
    if as_json:
        print_json(done)
    else:
        _print(done)
    sys.exit(0 if done.verdict == "good" else FAILED)


def _verify(
    settings: Settings, before: Mapping[str, Verified], files: Sequence[Path], *, quiet: bool
) -> Verification:
    report = Report()
    with db.scoped(SealingScope()):
        signers = verifying.read_signers(db.session)
        logs = verifying.read_logs(db.session)
        pinned = _pinned(settings, logs)
        anchors = [*_copies(settings, logs, pinned, report), *_given(files, logs, pinned)]
        checks = [
            LogCheck(
                db.session,
                log,
                report,
                signers=signers,
                anchors=anchors,
                pinned=pinned.get(log.origin, ()),
                before=before.get(log.origin),
            )
            for log in logs
        ]
        read = sum(check.entries for check in checks)
        with _progress(read, quiet=quiet) as advance:
            verified = tuple(check.run(advance) for check in checks)
        pending, _ = verifying.check_whole_ledger(db.session, report)
    _check_journals(settings, report)
    return Verification(
        "good" if report.is_good else "failed",
        verified,
        read,
        pending,
        dict(report.counts),
        tuple(report.shown),
    )


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    with Progress(console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("verifying", total=total)
        yield lambda entries: progress.advance(task, entries)


def _pinned(settings: Settings, logs: Sequence[LogToVerify]) -> dict[str, Sequence[Verifier]]:
    """The public keys of the logs, by origin, where this host has the private ones."""
    if settings.log_signing_key is None or settings.log_origin is None:
        return {}
    keys = log_keys(settings)
    return {log.origin: keys.verifiers(log.origin) for log in logs}


def _copies(
    settings: Settings,
    logs: Sequence[LogToVerify],
    pinned: Mapping[str, Sequence[Verifier]],
    report: Report,
) -> Iterator[Anchor]:
    """The checkpoints that this host has kept of each log."""
    if settings.checkpoint_dir is None:
        return
    for log in logs:
        path = settings.checkpoint_dir / str(log.number) / "checkpoint"
        if path.exists():
            try:
                yield _anchor(path, pinned.get(log.origin) or log.verifiers)
            except NoteError as error:
                report.find("bad signature", f"{path}: {error}")


def _given(
    files: Sequence[Path], logs: Sequence[LogToVerify], pinned: Mapping[str, Sequence[Verifier]]
) -> Iterator[Anchor]:
    """The checkpoints that the operator names, each of a log that is there."""
    for path in files:
        keys = [key for log in logs for key in (pinned.get(log.origin) or log.verifiers)]
        try:
            anchor = _anchor(path, keys)
        except NoteError as error:
            raise click.UsageError(f"{path}: {error}.") from error
        if anchor.checkpoint.origin not in {log.origin for log in logs}:
            raise click.UsageError(f"{path}: there is no log {anchor.checkpoint.origin}.")
        yield anchor


def _anchor(path: Path, verifiers: Sequence[Verifier]) -> Anchor:
    with path.open("rb") as file:
        checkpoint, _ = open_checkpoint(file.read(NOTE_BYTES + 1), verifiers)
    return Anchor(str(path), checkpoint)


def _check_journals(settings: Settings, report: Report) -> None:
    with db.scoped(LedgerScope()):
        found = completeness.check_completeness(db.session, settings.journal_dir)
    for gap in found.missing:
        report.find("incomplete", f"numbers {gap.first} to {gap.last} of journal {gap.journal}")
    for doubled in found.doubled:
        what = doubled.id or f"number {doubled.seq} of journal {doubled.journal}"
        report.find("duplicated", f"{doubled.events} events have {what}")
    for contradiction in found.contradictions:
        report.find("forked", f"event {contradiction.event} came as two different ones")
    for name in found.forged:
        report.find("bad signature", name)
    for name in found.unreadable:
        report.find("incomplete", f"{name} cannot be read")


def _state_file(settings: Settings) -> Path:
    return (settings.checkpoint_dir or settings.home) / STATE_FILE


def _read_state(path: Path) -> dict[str, Verified]:
    """Read how far each log was verified; raises `UsageError` for a file that says something else.

    Without the file, all is read.
    """
    if not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            logs = [Verified(**each) for each in orjson.loads(file.read(STATE_BYTES))]
    except (ValueError, TypeError) as error:
        raise click.UsageError(f"{path} is not what was verified: remove it, or --full.") from error
    return {log.origin: log for log in logs}


def _write_state(path: Path, logs: Sequence[Verified]) -> None:
    """Keep how far each log is verified, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, orjson.dumps([asdict(log) for log in logs]))


def _print(done: Verification) -> None:
    for finding in done.findings:
        say(f"{finding.word}: {finding.text}")
    for word, count in done.found.items():
        if count > verifying.SHOWN:
            say(f"{word}: {count - verifying.SHOWN} more")
    faults = [word for word in verifying.FAULTS if done.found.get(word)]
    if faults:
        say(f"The check fails: {', '.join(faults)}.")
        return
    for log in done.logs:
        numbers = len(log.series)
        say(f"{log.origin}: size {log.size}, root {log.root}, {numbers} series without a gap.")
    say(f"{done.read} entries read, {done.pending} events wait to be sealed.")


@click.command("prove")
@with_appcontext
@click.argument("event", type=click.UUID)
@click.option("--tenant", metavar="SLUG", help="Prove it as this tenant is shown it.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the proof into this file, by custom EVENT.tlog-proof.",
)
@reason_option
def prove(*, event: UUID, tenant: str | None, output: Path | None, reason: Reason) -> None:
    """Prove that the log has an event, for somebody who checks it without Sightline.

    The proof shows the event itself. With --tenant it shows no more than that tenant sees.
    """
    with command_access("ledger prove", reason, {"event": event}, tenant=tenant) as access:
        proof = disclosure.prove_event(db.session, event)
        access.rows = 1
    if output is None:
        click.echo(proof.text.decode(), nl=False)
    else:
        output.write_bytes(proof.text)


@click.command("checkpoint")
@with_appcontext
@click.option("--log", "number", type=click.IntRange(1), help="Of this log; the open one, if none.")
@click.option(
    "--since",
    type=click.IntRange(0),
    metavar="SIZE",
    help="Prove before it that the log goes on from a tree of this size, as witnesses are told.",
)
def checkpoint(*, number: int | None, since: int | None) -> None:
    """Print the newest checkpoint of the log, for somebody to keep."""
    with db.scoped(LogScope()):
        log = _chosen(number)
        size, note = published.read_sized_checkpoint(db.session, log)
        if since is not None and since > size:
            raise click.UsageError(f"The log has {size} entries.")
        reader = published.tile_reader(db.session, log, size)
        proof = [] if since is None else consistency_proof_at(since, size, reader)
    if since is not None:
        click.echo("".join([f"old {since}\n", *(f"{encode_base64(each)}\n" for each in proof)]))
    click.echo(note.decode(), nl=False)


def _chosen(number: int | None) -> int:
    if number is not None:
        return number
    logs = published.list_logs(db.session)
    return next((log.number for log in logs if log.state == "open"), published.FIRST)


@click.command("policy")
@with_appcontext
def policy() -> None:
    """Print whose signatures on checkpoints to believe, for those who verify the log."""
    with db.scoped(LogScope()):
        logs, signers = published.list_logs(db.session), published.list_signers(db.session)
    click.echo(policy_of(logs, signers, current_settings()), nl=False)


COMMANDS = (checkpoint, policy, prove, verify)
"""What `flask ledger` has beside the commands that change the log."""
