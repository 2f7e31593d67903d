"""The steps of a rotation: what each process is set to, one step after the other."""

from webapp.key_ring import KeyRing

OLD, NEW, UNKNOWN = ("o" * 40, "n" * 40, "u" * 40)

STEPS = {
    "before": (OLD, None),
    "accepts the new one": (OLD, NEW),
    "signs with the new one": (NEW, OLD),
    "drops the old one": (NEW, None),
}
NAMES = tuple(STEPS)

BESIDE = [
    *zip(NAMES, NAMES[1:], strict=False),
    *zip(NAMES[1:], NAMES, strict=False),
]
"""Pairs of steps that processes are at, at the same time: who signs, and who verifies."""


def ring(step: str) -> KeyRing:
    return KeyRing.of(*STEPS[step])
