"""The clock of this process, set to a moment, so that no test waits for it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, tzinfo
from types import ModuleType
from unittest import mock

INSTANT = timedelta(microseconds=1)
"""The shortest time between two different moments."""


@contextmanager
def clock_at(moment: datetime, *modules: ModuleType) -> Iterator[None]:
    """Make `moment` the current time for these modules."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # no Clock
            return moment.astimezone(tz)

    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "datetime", Clock))
        yield
