"""What the stack tells the person who started it."""

import sys


def say(text: str = "") -> None:
    """Print a line at once, before what it announces takes its time."""
    print(text, flush=True)  # noqa: T201 - for the person at the terminal


def complain(text: str) -> None:
    print(f"sightline: {text}", file=sys.stderr, flush=True)  # noqa: T201 - likewise
