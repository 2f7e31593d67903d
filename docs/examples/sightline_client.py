"""Client that asks Sightline whether somebody may access something. It needs only `requests`.

    sightline = Sightline("https://sightline.example", token)
    answer = sightline.ask(
        "jo@example.org", "shop.invoices.list", tenant="acme", reason=Reason("support_case", "T-1")
    )
    if answer.allowed: …

Copy it into your service. docs/elevations.md describes its questions and answers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from time import sleep
from typing import Any, Literal
from uuid import uuid4

import requests
from requests.auth import AuthBase

PATH = "/admin/api/elevations"
TIMEOUT = (3.0, 10.0)
"""Seconds to connect, and to wait for the answer."""

ATTEMPTS = 4
PAUSE = 0.2
LONGEST_PAUSE = 5.0
"""Seconds before the second attempt, doubled before each further one, and at most."""

WORTH_A_RETRY = frozenset({502, 503, 504})


class Unavailable(Exception):
    """Sightline did not answer, even after retries: show nothing."""


class Refused(Exception):
    """Sightline refused the question: show nothing, and correct the caller."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class Reason:
    """`code` is incident, support_case, fraud, legal, maintenance or break_glass."""

    code: str
    ticket: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Tenant:
    id: str
    slug: str


@dataclass(frozen=True)
class Elevation:
    decision: Literal["allowed", "denied", "approval_required"]
    elevated: bool
    """`False` in the person's own tenant, where no rule is asked."""
    explanation: str
    """Why, in a sentence for that person."""
    rules: tuple[str, ...]
    excluded: tuple[Tenant, ...]
    """The tenants that an access to all tenants must leave out."""
    grants: tuple[str, ...]
    until: datetime | None
    """When the permission ends; then ask again. `None` where nothing is allowed."""
    minutes: int | None
    """The whole minutes until then, from the first answer to the question."""
    ask: str | None
    """Sightline's path at which to ask for an approval."""
    receipt: str
    """The id of the audit event."""
    policy_version: int | None

    @property
    def allowed(self) -> bool:
        return self.decision == "allowed"


@dataclass(frozen=True)
class _Token(AuthBase):
    """Bearer token as `auth`, since `requests` would prefer a ~/.netrc to a header."""

    token: str

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


@dataclass(frozen=True)
class Sightline:
    """Connection to Sightline. `token` belongs to a principal with the platform role `service`.

    Threads may share it.
    """

    url: str
    token: str
    timeout: tuple[float, float] = TIMEOUT
    attempts: int = ATTEMPTS
    pause: float = PAUSE

    def ask(
        self,
        email: str,
        surface: str,
        *,
        tenant: str | None,
        reason: Reason,
        mfa: bool = False,
        ip: str | None = None,
        key: str | None = None,
    ) -> Elevation:
        """Ask Sightline to decide and record an access. A `tenant` of `None` means all tenants.

        The same `key` gets the same answer again, without a second record. Without a `key` the
        question is new, and its retries share a new key.
        """
        question = {
            "principal": {"email": email, "mfa": mfa},
            "surface": surface,
            "tenant": tenant,
            "reason": asdict(reason),
            "ip": ip,
        }
        return _elevation(self._post(question, key or str(uuid4())))

    def _post(self, question: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        problem = "no attempt was made"
        for attempt in range(self.attempts):
            try:
                answer = requests.post(
                    self.url.rstrip("/") + PATH,
                    json=question,
                    headers={"Idempotency-Key": f'"{key}"'},
                    auth=_Token(self.token),
                    timeout=self.timeout,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                problem, retry_after = str(error), 0.0
            else:
                if answer.status_code not in WORTH_A_RETRY:
                    return _body(answer)
                problem, retry_after = f"it answered {answer.status_code}", _retry_after(answer)
            if attempt + 1 < self.attempts:
                sleep(min(max(retry_after, self.pause * 2**attempt), LONGEST_PAUSE))
        raise Unavailable(f"Sightline did not answer: {problem}")


def _body(answer: requests.Response) -> Mapping[str, Any]:
    try:
        body: Mapping[str, Any] = answer.json()
    except requests.JSONDecodeError as error:
        raise Unavailable(f"{answer.url} does not speak JSON") from error
    if answer.status_code != 200:
        code, title = str(body.get("code")), str(body.get("title"))
        raise Refused(answer.status_code, code, str(body.get("detail", title)))
    return body


def _retry_after(answer: requests.Response) -> float:
    seconds = answer.headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() else 0.0


def _elevation(body: Mapping[str, Any]) -> Elevation:
    return Elevation(
        decision=body["decision"],
        elevated=body["elevated"],
        explanation=body["explanation"],
        rules=tuple(body["rules"]),
        excluded=tuple(Tenant(left["id"], left["slug"]) for left in body["excluded"]["tenants"]),
        grants=tuple(body["grants"]),
        until=datetime.fromisoformat(body["until"]) if body["until"] else None,
        minutes=body["minutes"],
        ask=body["ask"],
        receipt=body["receipt"],
        policy_version=body["policy_version"],
    )
