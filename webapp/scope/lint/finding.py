"""A finding of `make lint-scope`: what is wrong, and where."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class LintFinding:
    """A breach of a rule."""

    subject: str
    """A file's path from the project's root, or `route GET /x`, `table rules`, `app`."""
    line: int | None
    rule: str
    message: str

    @property
    def where(self) -> str:
        return self.subject if self.line is None else f"{self.subject}:{self.line}"

    def __str__(self) -> str:
        return f"{self.where}: {self.rule}: {self.message}"
