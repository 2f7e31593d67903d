"""The clock of this process, put to a moment: what is decided exactly there needs no waiting."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, tzinfo
from types import ModuleType
from unittest import mock

INSTANT = timedelta(microseconds=1)
"""The shortest time that moments are told apart by."""


@contextmanager
def clock_at(moment: datetime, *modules: ModuleType) -> Iterator[None]:
    """For these modules it is now `moment`."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # no Clock
            return moment.astimezone(tz)

    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "datetime", Clock))
        yield
