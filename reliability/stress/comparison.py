"""Compare accesses with committed events: each access has one event, which is true of it."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reliability.stress.counts import Attempt, Counts
from reliability.stress.ledger import Recorded

Statuses = Mapping[str, int]

_LINE = re.compile(r"method=\S+ .* status=(\d{3})\b.* x_request_id=(\S+)")


def answered(log: Path, run: str) -> Statuses:
    """Read from the web processes' log the status of each answer, by request id: there is no other
    witness of a request whose client hung up."""
    with log.open(errors="replace") as lines:
        found = [match for match in map(_LINE.search, lines) if match]
    return {match[2]: int(match[1]) for match in found if match[2].startswith(run)}


def compare(counts: Counts, statuses: Statuses, events: Sequence[Recorded]) -> None:
    """Count accesses and events, and every difference between them as a fault."""
    by_request: defaultdict[str, list[Recorded]] = defaultdict(list)
    for event in events:
        by_request[event.request_id].append(event)
    counts.events = len(events)
    for attempt in counts.attempts:
        _finalize(
            counts,
            attempt,
            attempt.status or statuses.get(attempt.request_id),
            by_request.pop(attempt.request_id, []),
        )
    for request_id, recorded in by_request.items():
        counts.fault("unrequested", f"{request_id}, which nobody sent", len(recorded))


def _finalize(
    counts: Counts, attempt: Attempt, status: int | None, recorded: list[Recorded]
) -> None:
    """How an event differs from its request. `status` is the answer's, also if its client has not
    seen it."""
    if attempt.status is None and status is not None and status >= 500:
        counts.fault("5xx", f"{attempt.request_id}: {status}, seen in the log only")
    if attempt.effect is None or status is None:
        if recorded:
            counts.fault("unrequested", f"{attempt.request_id} ({attempt.surface})", len(recorded))
        return
    counts.accesses += 1
    if not recorded:
        counts.fault("lost", f"{attempt.request_id} ({attempt.surface}), answered {status}")
    elif len(recorded) > 1:
        counts.fault("doubled", f"{attempt.request_id} ({attempt.surface})", len(recorded) - 1)
    else:
        for wrong in _differences(attempt, status, recorded[0]):
            counts.fault("wrong records", f"{attempt.request_id}: {wrong}")


def _differences(attempt: Attempt, status: int, recorded: Recorded) -> Iterator[str]:
    event = recorded.event
    served = "served" if status < 400 else "failed"
    told: dict[str, tuple[object, object]] = {
        "actor": (recorded.actor_id, attempt.actor_id),
        "surface": (recorded.surface, attempt.surface),
        "effect": (event["decision"]["effect"], attempt.effect),
        "outcome": (event["outcome"], served if attempt.effect == "allowed" else "denied"),
        "status": (event["http_status"], status),
        "repeats": (event["repeats"], 1),
    }
    if attempt.status is not None:
        told["receipt"] = ((str(recorded.id),), attempt.receipts)
    if attempt.rows is not None:
        # An answer of 304 shows none: the client has read its own copy.
        told["rows"] = (event["rows"], 0 if status == 304 else attempt.rows)
    for name, (is_there, should_be) in told.items():
        if is_there != should_be:
            yield f"{name} is {is_there!r}, not {should_be!r}"
