"""All attacks, in the order in which they happen."""

from reliability.hostile import broker, greed, journals, silence, slow_clients, sql

ATTACKS = (
    *slow_clients.ATTACKS,
    *greed.ATTACKS,
    *broker.ATTACKS,
    *sql.ATTACKS,
    *journals.ATTACKS,
    *silence.ATTACKS,
)
