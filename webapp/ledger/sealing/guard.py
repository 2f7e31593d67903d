"""The guard: the tree in the database has to continue what was signed before.

A database that was restored from an older dump has a smaller tree, and one that was rewritten has
another. Whoever signed that would sign two histories.
"""

from dataclasses import dataclass

from webapp.ledger.sealing.checkpoint import describe_tree
from webapp.ledger.sealing.copies import Copy
from webapp.ledger.sealing.merkle import HashAt, root_at
from webapp.ledger.sealing.store import Log
from webapp.ledger.sealing.tiles import TileError


class RefusesToSign(Exception):
    """Why nothing may be signed. The text is for the operator, and names both trees."""


@dataclass(frozen=True)
class Behind:
    """The database's tree is smaller than the one that was signed: it was restored."""

    copy: Copy
    size: int

    @property
    def problem(self) -> str:
        return (
            f"the database has {self.size} entries of the log, and {self.copy.place} has a"
            f" checkpoint of {describe_tree(self.copy.size, self.copy.root)}"
        )


def compare(log: Log, hash_at: HashAt, copy: Copy | None) -> Behind | None:
    """Compare the tree with its own row, and with what was signed last.

    Raises `RefusesToSign` where they contradict each other. A tree that is only smaller may come
    back: journals may still have its events.
    """
    if _root(log.size, hash_at) != log.root:
        raise RefusesToSign(
            f"the tiles of the log do not have its root of {describe_tree(log.size, log.root)}"
        )
    if copy is None:
        return None
    if copy.log != log.number:
        _check_later(log, copy)
        return None
    if copy.origin != log.origin:
        raise RefusesToSign(
            f"the log is named {log.origin}, and {copy.place} has one of {copy.origin}"
        )
    if copy.size > log.size:
        return Behind(copy, log.size)
    found = _root(copy.size, hash_at)
    if found != copy.root:
        raise RefusesToSign(
            f"the database has {describe_tree(copy.size, found)}, and {copy.place} has a checkpoint"
            f" of {describe_tree(copy.size, copy.root)}"
        )
    return None


def _check_later(log: Log, copy: Copy) -> None:
    """Accept a later log than the copied one, which an operator has opened in its place."""
    if copy.log > log.number or log.resumed_by is None:
        raise RefusesToSign(
            f"the database's log is {log.origin}, and {copy.place} has a checkpoint of"
            f" {copy.origin}, {describe_tree(copy.size, copy.root)}"
        )


def _root(size: int, hash_at: HashAt) -> bytes | None:
    try:
        return root_at(size, hash_at)
    except TileError:
        return None
