"""Drafts of rules: make the rule that a draft describes."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from webapp.http.errors import Invalid
from webapp.rules.rule import Rule


def rule_of_draft(draft: Mapping[str, Any], rule_id: UUID, tenant: str | None) -> Rule:
    """Make a rule from a draft. Raises `Invalid` if the draft is contradictory."""
    refuse_backwards(draft["starts_at"], draft["ends_at"])
    now = datetime.now(UTC)
    return Rule(
        **{**draft, "id": rule_id, "tenant": tenant},
        version=1,
        created_at=now,
        created_by="",
        updated_at=now,
        updated_by="",
    )


def refuse_backwards(starts_at: datetime | None, ends_at: datetime | None) -> None:
    """Raise `Invalid` if a rule would end before it starts."""
    if starts_at and ends_at and ends_at <= starts_at:
        problem = "must be after starts_at"
        raise Invalid(f"The rule's ends_at {problem}.", {"ends_at": [problem]})
