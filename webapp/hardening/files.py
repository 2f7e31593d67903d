"""Files that hold a secret, and directories that nobody else may write."""

import os
import stat
from pathlib import Path

from marshmallow import ValidationError

MAX_SECRET = 2**14
"""Bytes of a secret's file."""


def read_secret(path: str) -> str:
    """Read the one line of a secret's file, without the newline at its end."""
    try:
        # A pipe that nobody writes would hold up the start.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_SECRET + 1) if regular else b""
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError):
        raise ValidationError("names a file that cannot be read") from None
    if not regular:
        raise ValidationError("names no regular file")
    if not text:
        raise ValidationError("names an empty file")
    if len(content) > MAX_SECRET or set(text) & {"\n", "\r", "\0"}:
        raise ValidationError(f"names a file of more than one line, or of more than {MAX_SECRET} B")
    return text


def mode_for_others(path: str) -> str | None:
    """The mode of a file that its group or others may read; `None` for one that they may not."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    return f"{mode:04o}" if mode & 0o044 else None


def is_ours_alone(path: Path) -> bool:
    """Whether a file is this user's, and nobody else may write it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    writable = stat.S_IMODE(found.st_mode) & 0o022
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not writable


def check_directory(path: Path) -> None:
    """Refuse a directory that somebody else may write, or may make before this process does."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        _check_parent(path)
        return
    except OSError:
        raise ValidationError("names a directory that cannot be looked at") from None
    if stat.S_ISLNK(found.st_mode):
        raise ValidationError("is a symbolic link: name the directory itself")
    if not stat.S_ISDIR(found.st_mode):
        raise ValidationError("is no directory")
    problems = []
    if found.st_uid != os.geteuid():
        problems.append("belongs to another user than the one that this process runs as")
    if stat.S_IMODE(found.st_mode) & 0o022:
        problems.append("may be written by its group or by others: `chmod go-w` it")
    if problems:
        raise ValidationError(problems)


def _check_parent(path: Path) -> None:
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if there.stat().st_mode & 0o002:
        raise ValidationError("is not there, and anybody may make it: make it, for this user alone")
