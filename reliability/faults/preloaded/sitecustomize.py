"""Sleep by select() in processes whose clock libfaketime moves.

Its clock_nanosleep() fails where the monotonic clock is left alone.
"""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex) -> None:
    select.select((), (), (), float(seconds))


time.sleep = _sleep
