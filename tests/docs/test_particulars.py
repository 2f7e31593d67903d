"""The comparison of a page with what was printed: what it lets differ, and what it refuses."""

import pytest

from tests.docs.particulars import Differs, Particulars

A, B = "01a20f55-0530-7761-9fb7-c2eef39775db", "01a20f55-08a4-7166-b532-da6b781efab1"
C, D = "01a227fc-0a74-7289-bbab-1b48a80ae1cb", "01a227fc-0a75-74b6-8bae-a16ee01c8001"


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("", ""),
        ("served\n", "served\n"),
        (f"Sightline-Audit: {A}\n", f"Sightline-Audit: {C}\n"),
        (f"{A}\n{B}\n{A}\n", f"{C}\n{D}\n{C}\n"),
        ("at 2026-11-24T20:52:39.856517Z", "at 2026-12-01T00:00:00.000001Z"),
        ("http://127.0.0.1:8000/docs", "http://127.0.0.1:41234/docs"),
        ("first\n…\nlast\n", "first\nsecond\nthird\nlast\n"),
        ("first\n…\n", "first\nsecond\n"),
        ("grant … to app;\n", "grant tenant to app;\n"),
    ],
)
def test_particulars_that_cannot_be_the_same_may_differ(shown: str, printed: str) -> None:
    Particulars().compare(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ('"email": "support@sightline.example"', '"email": "auditor@sightline.example"'),
        ("HTTP/1.1 200 OK", "HTTP/1.1 304 NOT MODIFIED"),
        ('"rows": 50', '"rows": 49'),
        ('outcome="hit"} 1.0', 'outcome="hit_local"} 1.0'),
        (f"{A}\n{A}\n", f"{C}\n{D}\n"),
        (f"{A}\n{B}\n", f"{C}\n{C}\n"),
        (f"receipt {A}", "receipt None"),
        (
            "at 2026-11-24T20:52:39.25Z\nat 2026-11-24T20:52:39.25Z",
            "at 2026-12-01T00:00:00.25Z\nat 2026-12-01T00:00:01.25Z",
        ),
        ("first\nlast\n", "first\nsecond\nlast\n"),
        ("first\n", "first\nlast\n"),
        ("first\nlast\n", "first\n"),
        ("", "Traceback\n"),
        ("first\n…\nlast\n", "first\nsecond\n"),
    ],
)
def test_everything_else_is_compared(shown: str, printed: str) -> None:
    with pytest.raises(Differs):
        Particulars().compare(shown, printed)


def test_an_id_means_the_same_in_later_blocks() -> None:
    particulars = Particulars()
    particulars.compare(A, C)
    with pytest.raises(Differs):
        particulars.compare(f"id {A}", f"id {D}")
