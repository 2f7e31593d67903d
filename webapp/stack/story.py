"""`make demo`: shows what Sightline does by real requests to servers that end with the story."""

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from time import monotonic, sleep

import psutil

from webapp.demo import client
from webapp.demo.client import Answer, NoAnswer, Request
from webapp.demo.credentials import Credentials, read_credentials
from webapp.stack import narration, processes
from webapp.stack.home import Stack, open_stack, running
from webapp.stack.processes import METRICS, ProcfileError, release, run
from webapp.stack.servers import PostgresServer, ServerFailed, free_port
from webapp.stack.terminal import complain, say

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds until what has to happen must have happened."""

BEFORE_THE_KILL = 10
"""Accesses that are made right before PostgreSQL is killed."""

SEED = ("flask", "--app", "wsgi", "demo", "seed")
PAUSE = 0.05
"""Seconds between accesses that the cache answers. All their events fit on one page of a list."""

REASON = 'incident;ticket="INC-4711"'
RULES = Request("engineer", "/admin/api/rules?limit=200", scope="global", reason=REASON)
SEEN_BY_ACME = Request("acme-admin", "/admin/api/audits?surface=admin.rules.list&limit=1")
ACME_SAYS_NO = Request(
    "acme-admin",
    "/admin/api/rules",
    method="POST",
    body={
        "name": "Not during our audit",
        "effect": "deny",
        "surfaces": ["admin.rules.*"],
        "reasons": ["incident"],
    },
)
LEDGER = Request(
    "auditor",
    "/admin/api/audits?actor=engineer%40sightline.example&limit=200",
    scope="global",
    reason=REASON,
)
UNUSED_SETTINGS = ("CELERY_BROKER_URL", "SMTP_URL", "MAIL_FROM", "WEBHOOK_URL", "WEBHOOK_SECRET")
"""Settings of the caller's that the story does not use."""


class NotAsTold(Exception):
    """A step did not do what the story says."""


def main() -> int:
    # A signal ends what runs here the way an error would: through every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = monotonic()
    say("The story of one incident, on servers of its own that end with it.")
    try:
        with tempfile.TemporaryDirectory(prefix="sightline-story-") as directory:
            run_story(Path(directory))
    except (NotAsTold, NoAnswer, ProcfileError, ServerFailed) as error:
        complain(f"the story went another way: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    say(f"\nTold in {monotonic() - begun:.0f} seconds. The servers have ended; nothing is left.")
    say("For servers that stay: make run")
    return 0


def run_story(home: Path) -> None:
    stack = open_stack(home, durable=True)
    environment = _environment(stack, home)
    say("Starting PostgreSQL and Redis …")
    with running(stack):
        say("Filling in three tenants: Acme, Globex and Initech …")
        release(ROOT, environment, quietly=True)
        run(ROOT, SEED, environment, quietly=True)
        credentials = read_credentials(home)
        if credentials is None:
            raise NotAsTold("there are no tokens")
        say("Starting the web server and the worker …")
        with processes.running(ROOT, environment, ("web", "worker"), home):
            story = Story(stack.postgres, environment, credentials)
            story.engineer_reads()
            story.acme_sees_it()
            story.acme_says_no()
            story.next_access_leaves_acme_out()
            story.postgres_is_killed()
            story.postgres_comes_back()
            story.nothing_is_lost()


@dataclass
class Story:
    """The steps, in their order. Each raises `NotAsTold` where its claim does not hold."""

    postgres: PostgresServer
    environment: Mapping[str, str]
    credentials: Credentials
    receipts: list[str] = field(default_factory=list)
    """One for each access that was answered."""

    def engineer_reads(self) -> None:
        narration.chapter(1, "An engineer reads the rules of all tenants, because of an incident.")
        answer = self._access()
        _show_header(answer, "Sightline-Audit", "the receipt: the record is on disk already")
        _show_header(answer, "Sightline-Excluded", "no tenant is left out", expected="0")
        _show_owners(answer, {"acme", "globex", "initech", None})

    def acme_sees_it(self) -> None:
        narration.chapter(2, "Acme's admin sees who it was, where, and why.")

        def shows_the_access(answer: Answer) -> bool:
            return [event["id"] for event in answer.body["items"]] == self.receipts

        answer = self._ask(SEEN_BY_ACME, HTTPStatus.OK, until=shows_the_access)
        (event,) = answer.body["items"]
        narration.line(event["id"], "the receipt's record, in the ledger")
        narration.line(f"{event['actor']['email']} at {event['surface']}: {event['outcome']}")
        narration.line(f"{event['reason']['code']}, {event['reason']['ticket']}")

    def acme_says_no(self) -> None:
        narration.chapter(3, "Acme says no: its admin writes a rule.")
        answer = self._ask(ACME_SAYS_NO, HTTPStatus.CREATED)
        narration.line(f"a rule of {answer.body['tenant']}, version {answer.body['version']}")

    def next_access_leaves_acme_out(self) -> None:
        narration.chapter(4, "The very next access leaves Acme out, and says so.")
        answer = self._access()
        _show_header(answer, "Sightline-Audit")
        _show_header(answer, "Sightline-Excluded", "Acme", expected="1")
        _show_owners(answer, {"globex", "initech", None})

    def postgres_is_killed(self) -> None:
        narration.chapter(5, "The engineer goes on reading, and PostgreSQL is killed.")
        for _ in range(BEFORE_THE_KILL):
            self._keep(_expect(client.send(self.credentials, RULES), HTTPStatus.OK))
        narration.remark(f"{BEFORE_THE_KILL} more accesses are answered, each with its receipt.")
        narration.command(f"kill -9 {_kill(self.postgres)}")
        answered, refusal = self._read_until_refused()
        narration.remark(
            f"{answered} more are answered from the cache, each with its receipt; the next is"
            " refused:"
        )
        narration.status(refusal)
        narration.line(refusal.body["title"])

    def postgres_comes_back(self) -> None:
        narration.chapter(6, "PostgreSQL is started again, and accesses are answered again.")
        self.postgres.start()
        answer = self._access(until=lambda answer: answer.status == HTTPStatus.OK)
        _show_header(answer, "Sightline-Audit")

    def nothing_is_lost(self) -> None:
        narration.chapter(7, "Nothing is lost: the ledger has every receipt, and every number.")

        def has_every_receipt(answer: Answer) -> bool:
            return set(self.receipts) <= {event["id"] for event in answer.body["items"]}

        answer = self._ask(LEDGER, HTTPStatus.OK, until=has_every_receipt)
        committed = Counter(event["id"] for event in answer.body["items"])
        if {committed[receipt] for receipt in self.receipts} != {1}:
            raise NotAsTold(f"a receipt is not once in the ledger: {committed}")
        narration.line(f"{len(self.receipts)} receipts, each of them once in the ledger")
        narration.command("flask --app wsgi audit verify --complete")
        narration.remark(self._verify())

    def _access(self, until: Callable[[Answer], bool] = lambda _: True) -> Answer:
        answer = self._ask(RULES, HTTPStatus.OK, until)
        self._keep(answer)
        return answer

    def _ask(
        self,
        request: Request,
        status: HTTPStatus,
        until: Callable[[Answer], bool] = lambda _: True,
    ) -> Answer:
        """Show a request and its answer. The request is made again until the answer is `until`."""
        narration.request(request)
        deadline = monotonic() + PATIENCE
        answer = client.send(self.credentials, request)
        while not until(answer) and monotonic() < deadline:
            sleep(0.1)
            answer = client.send(self.credentials, request)
        _expect(answer, status)
        if not until(answer):
            raise NotAsTold(f"{request.path} did not show in time what it should")
        narration.status(answer)
        return answer

    def _keep(self, answer: Answer) -> None:
        if answer.receipt is None:
            raise NotAsTold("an access was answered without a receipt")
        self.receipts.append(answer.receipt)

    def _read_until_refused(self) -> tuple[int, Answer]:
        """Read on; returns how many accesses were answered, and the first that was refused."""
        answered, deadline = 0, monotonic() + PATIENCE
        while monotonic() < deadline:
            answer = client.send(self.credentials, RULES)
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                return answered, answer
            self._keep(_expect(answer, HTTPStatus.OK))
            answered += 1
            sleep(PAUSE)
        raise NotAsTold("accesses were answered for a minute without the database")

    def _verify(self) -> str:
        """Verify the ledger; returns the line that sums it up."""
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "audit", "verify", "--complete"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        summary = done.stdout.strip().rpartition("\n")[2]
        if done.returncode or " 0 missing" not in summary:
            raise NotAsTold(f"the ledger is not complete: {done.stdout}{done.stderr}")
        return summary


def _environment(stack: Stack, home: Path) -> dict[str, str]:
    metrics = home / "metrics"
    metrics.mkdir()
    return {
        **dict.fromkeys(UNUSED_SETTINGS, ""),
        **stack.environment,
        "SIGHTLINE_HOME": str(home),
        "JOURNAL_DIR": str(home / "journal"),
        "PORT": str(free_port()),
        METRICS: str(metrics),
    }


def _kill(server: PostgresServer) -> int:
    """Kill a server and everything that it has started, at once; returns its process id."""
    assert server.process is not None  # noqa: S101 - the stack has started it
    process = psutil.Process(server.process.pid)
    children = process.children(recursive=True)
    server.kill()
    for child in children:
        with suppress(psutil.NoSuchProcess):  # most of them end with their parent
            child.kill()
    return process.pid


def _expect(answer: Answer, status: HTTPStatus) -> Answer:
    if answer.status != status:
        raise NotAsTold(f"the answer is {answer.status}, not {status.value}: {answer.body}")
    return answer


def _show_header(
    answer: Answer, name: str, meaning: str = "", *, expected: str | None = None
) -> None:
    value = answer.headers.get(name)
    if value is None or expected not in (None, value):
        raise NotAsTold(f"{name} is {value}, not {expected}")
    narration.line(f"{name}: {value}", meaning)


def _show_owners(answer: Answer, expected: set[str | None]) -> None:
    """Show whose rules an answer has."""
    owners = Counter(rule["tenant"] for rule in answer.body["items"])
    if owners.keys() != expected:
        raise NotAsTold(f"the rules are those of {set(owners)}")
    ordered = sorted(owners, key=lambda owner: (owner is None, owner))
    parts = [f"{owners[owner]} of {owner or 'the platform'}" for owner in ordered]
    narration.line(f"{owners.total()} rules: {', '.join(parts)}")


if __name__ == "__main__":
    sys.exit(main())
