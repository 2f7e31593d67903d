"""For a process whose clock libfaketime moves: its clock_nanosleep fails where the monotonic clock
stays as it is, so that sleeping is waiting for nothing here."""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex) -> None:
    select.select((), (), (), float(seconds))


time.sleep = _sleep
