"""The log's key is rotated without a checkpoint that verifiers of either key refuse."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from secrets import token_urlsafe
from typing import Any

import pytest

from tests.ledger.sealing.logs import Ledger, access, check_log
from webapp.ledger.sealing.guard import RefusesToSign
from webapp.ledger.sealing.keys import log_keys
from webapp.ledger.sealing.note import NoteError, SignatureType, open_checkpoint

pytestmark = pytest.mark.slow


@contextmanager
def settings(ledger: Ledger, **changes: Any) -> Iterator[None]:
    before = ledger.app.extensions["settings"]
    ledger.app.extensions["settings"] = replace(before, **changes)
    yield
    ledger.app.extensions["settings"] = before


def opens(ledger: Ledger, key: str) -> bool:
    """Whether somebody who pins a key believes the last checkpoint."""
    log = ledger.log
    pinned = replace(ledger.app.extensions["settings"], log_signing_key=key)
    verifier = log_keys(replace(pinned, log_signing_key_accepted=None)).verifiers(log.origin)[0]
    try:
        open_checkpoint((log.checkpoint or "").encode(), [verifier])
    except NoteError:
        return False
    return True


def test_rotated_key_signs_beside_the_old_one_and_each_is_recorded(ledger: Ledger) -> None:
    old, new = ledger.app.extensions["settings"].log_signing_key, token_urlsafe(32)
    steps = [
        ({}, {old}),
        ({"log_signing_key_accepted": new}, {old, new}),
        ({"log_signing_key": new, "log_signing_key_accepted": old}, {old, new}),
        ({"log_signing_key": new}, {new}),
    ]
    for changes, believed in steps:
        with settings(ledger, **changes):
            ledger.commit(access())
            ledger.seal_all()
            check_log(ledger)
            assert {key for key in (old, new) if opens(ledger, key)} == believed
    paths = ledger.run(
        "select event -> 'request' ->> 'path' from audit_events where surface = 'keys.use'"
    )
    assert len(paths) == 1
    assert paths[0][0].startswith("LOG_SIGNING_KEY ")


def test_copy_of_an_unknown_key_is_no_reason_to_sign(ledger: Ledger) -> None:
    ledger.commit(access())
    ledger.seal_all()
    ledger.commit(access())
    with (
        settings(ledger, log_signing_key=token_urlsafe(32)),
        pytest.raises(RefusesToSign, match="cannot be believed"),
    ):
        ledger.seal()


def test_second_key_signs_by_ml_dsa(ledger: Ledger) -> None:
    with settings(ledger, log_signing_key_pq=token_urlsafe(32)):
        ledger.commit(access())
        ledger.seal_all()
        log = ledger.log
        verifiers = ledger.host_keys().verifiers(log.origin)
    (quantum_safe,) = [v for v in verifiers if v.type is SignatureType.ML_DSA_44]
    checkpoint, _ = open_checkpoint((log.checkpoint or "").encode(), [quantum_safe])
    assert checkpoint.size == log.size
