"""The peers that record: each leaves one row in its table for each answer."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import requests

from bench.machine import NOTHING_PINNED
from bench.servers import Place, RecordingPeer, run_bare, run_delay, run_own_insert
from tests.audit.receipts import wait_for
from tests.factories import INCIDENT

pytestmark = pytest.mark.slow

ANSWERS = 3
BODY = b'{"items":[]}'


@pytest.fixture
def place(environment: dict[str, str], tmp_path: Path) -> Place:
    variables = {"WEB_CONCURRENCY": "1", "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    return Place(NOTHING_PINNED, {**environment, **variables}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("run_peer", [run_own_insert, run_delay])
def test_recording_peer_leaves_one_row_for_each_answer(
    place: Place, run_peer: Callable[[Place, bytes], AbstractContextManager[RecordingPeer]]
) -> None:
    with run_peer(place, BODY) as peer:
        before = peer.count_rows()
        for _ in range(ANSWERS):
            answer = requests.get(
                f"{peer.web.url}/rules", headers={"Sightline-Reason": INCIDENT}, timeout=30
            )
            assert answer.content == BODY
        answers = peer.count_answers()
        wait_for(lambda: peer.count_rows() >= answers)
        assert peer.count_rows() == answers >= before + ANSWERS


def test_bare_peer_answers_with_the_bytes_that_it_is_given(place: Place) -> None:
    with run_bare(place, BODY) as web:
        answer = requests.get(f"{web.url}/rules", timeout=30)
    assert answer.content == BODY
    assert answer.headers["Content-Type"] == "application/json"
