"""Output of the story: chapters, requests and the decisive lines of their answers."""

from http import HTTPStatus

import click
import orjson

from webapp.demo.client import Answer, Request
from webapp.stack.terminal import say


def chapter(number: int, text: str) -> None:
    click.secho(f"\n{number}. {text}\n", bold=True)


def command(text: str) -> None:
    click.secho(f"   $ {text}", fg="cyan")


def request(made: Request) -> None:
    lines = [f"{made.method} {made.path}", f"as {made.account}"]
    lines += [f"{name}: {value}" for name, value in made.headers.items()]
    if made.body is not None:
        lines.append(orjson.dumps(made.body).decode())
    for line in lines:
        click.secho(f"   > {line}", fg="cyan")


def status(answer: Answer) -> None:
    found = HTTPStatus(answer.status)
    click.secho(
        f"   < {found.value} {found.phrase}", fg="green" if answer.status < 400 else "yellow"
    )


def line(text: str, meaning: str = "") -> None:
    """A line of an answer, and what it means."""
    say(f"   < {text}" + (f"   ({meaning})" if meaning else ""))


def remark(text: str) -> None:
    say(f"   {text}")
