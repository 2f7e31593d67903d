"""Messages to the person who started the stack."""

import click


def say(text: str = "") -> None:
    """Print a line at once, before what it announces begins."""
    click.echo(text)


def complain(text: str) -> None:
    click.echo(f"sightline: {text}", err=True)
