"""Compare what a page shows with what was printed.

Text is compared as it is: names, addresses, counts, statuses. Only what cannot be the same twice
may differ: an id, an entity tag, a token, a moment, a port. It is bound where the page first shows
it: from there on the page's id stands for that one id, and no other does.
"""

import re
from dataclasses import dataclass, field

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

KINDS = {
    "id": UUID,
    "tag": r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])",
    "token": r"slt_[\w-]+",
    "moment": r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d+(?:Z|\+00:00)",
    "second": r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:Z|\+00:00)",
    "month": r"20\d\d-\d\d",
    "port": r"(?<=127\.0\.0\.1:)\d+",
    "directory": r"(?:/[\w.-]+)+(?=/\.sightline)",
    "seconds": r"\d+\.\d{3}(?= s\b)",
}
UNIQUE = {"id", "tag", "token"}
"""Two of these are never the same; two moments may be."""

FREE = {"second", "seconds"}
"""What happens in one second on the page may take two."""

PARTICULAR = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()))
GAP = "…"


class Differs(AssertionError):
    """What was printed is not what the page shows."""


@dataclass
class Particulars:
    """What the particulars of one page stand for in this run."""

    meant: dict[tuple[str, str], str] = field(default_factory=dict)

    def compare(self, shown: str, printed: str) -> None:
        """Raise `Differs` unless the page shows all that was printed, and nothing else."""
        remaining = printed.splitlines()
        gap = False
        for line in shown.splitlines():
            if line.strip() == GAP:
                gap = True
                continue
            while gap and remaining and not self._fits(line, remaining[0]):
                del remaining[0]
            if not remaining:
                raise Differs(f"the page shows, and nothing printed:\n{line}\nprinted:\n{printed}")
            if not self._fits(line, remaining[0]):
                raise Differs(
                    f"the page shows:\n{line}\nprinted was:\n{remaining[0]}\nof:\n{printed}"
                    f"\nwhere the page's particulars mean:\n{self.meant}"
                )
            self._bind(line, remaining.pop(0))
            gap = False
        if remaining and not gap:
            lines = "\n".join(remaining)
            raise Differs(f"printed, and not shown by the page:\n{lines}")

    def _fits(self, shown: str, printed: str) -> bool:
        found = self._meaning(shown, printed)
        if found is None:
            return False
        meant = dict(self.meant)
        for particular, value in found:
            if meant.setdefault(particular, value) != value:
                return False
        unique = [(kind, value) for (kind, _), value in meant.items() if kind in UNIQUE]
        return len(unique) == len(set(unique))

    def _bind(self, shown: str, printed: str) -> None:
        self.meant.update(self._meaning(shown, printed) or [])

    def _meaning(self, shown: str, printed: str) -> list[tuple[tuple[str, str], str]] | None:
        """What the line's particulars stand for if the other line is the same but for them."""
        particulars = [(str(found.lastgroup), found[0]) for found in PARTICULAR.finditer(shown)]
        pattern, end = "", 0
        for found in PARTICULAR.finditer(shown):
            pattern += _literally(shown[end : found.start()]) + f"({KINDS[str(found.lastgroup)]})"
            end = found.end()
        matched = re.fullmatch(pattern + _literally(shown[end:]), printed)
        if matched is None:
            return None
        meaning = zip(particulars, matched.groups(), strict=True)
        return [(particular, value) for particular, value in meaning if particular[0] not in FREE]


def _literally(text: str) -> str:
    return ".*".join(map(re.escape, text.split(GAP)))
