"""What the stack tells the person who started it."""

import click


def say(text: str = "") -> None:
    """Print a line at once, before what it announces takes its time."""
    click.echo(text)


def complain(text: str) -> None:
    click.echo(f"sightline: {text}", err=True)
