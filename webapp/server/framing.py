"""Where a request ends, in the bytes of it that have arrived so far (RFC 9112 §6).

This decides only when gunicorn's parser is called, and for how many bytes. What it cannot follow it
hands over as it is: the parser refuses it.
"""

import re
from collections.abc import Generator

MAX_HEAD = 64 * 1024
"""Bytes of a head, or of a chunked body's trailer. gunicorn refuses most that are shorter."""

MAX_CHUNK_LINE = 8 * 1024
"""Bytes of the line with a chunk's size."""

MAX_FRAMES = 64 * 1024
"""Bytes that the frames of a chunked body may add to it."""

_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_BODY_FIELDS = (b"content-length", b"transfer-encoding")
_LENGTH = re.compile(rb"content-length:[ \t]*([0-9]{1,18})[ \t]*")
_CHUNKED = re.compile(rb"transfer-encoding:[ \t]*chunked[ \t]*")
_CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?", re.DOTALL)

_Steps = Generator[None, None, int]
"""Yields where more bytes are needed, and returns a place in the bytes."""


class _NotFollowed(Exception):
    """The request is too long or malformed, which the parser has to say."""


class Framing:
    """Finds the end of one request in `data`, which grows. Its body may have `most` bytes."""

    def __init__(self, data: bytearray, most: int) -> None:
        self.has_head = False
        self.awaits_continue = False
        """Whether the client sends its body only after `100 Continue`."""
        self.followed = True
        """False once the request was found to be too long or malformed."""
        self._data = data
        self._most = most
        self._steps = self._follow()

    def end(self) -> int | None:
        """The place where the request ends; `None` while that has not arrived.

        What is too long or malformed ends where the bytes end.
        """
        try:
            next(self._steps)
        except StopIteration as done:
            place: int = done.value
            return place
        except _NotFollowed:
            self.followed = False
            return len(self._data)
        return None

    def _follow(self) -> _Steps:
        body = yield from self._find(_HEAD_END, 0, MAX_HEAD)
        head = self._data[:body].lower()
        length = _body_length(head)
        self.has_head = True
        self.awaits_continue = _CONTINUE.search(head) is not None
        if length is None:
            return (yield from self._follow_chunks(body))
        if length > self._most:
            raise _NotFollowed
        yield from self._await(body + length)
        return body + length

    def _follow_chunks(self, at: int) -> _Steps:
        most = at + self._most + MAX_FRAMES
        while True:
            data_at = yield from self._find(_LINE_END, at, MAX_CHUNK_LINE)
            line = _CHUNK_SIZE.fullmatch(self._data[at : data_at - len(_LINE_END)])
            if line is None:
                raise _NotFollowed
            size = int(line[1], 16)
            if size == 0:
                # The trailer ends with an empty line, which may follow this line at once.
                return (yield from self._find(_HEAD_END, data_at - len(_LINE_END), MAX_HEAD))
            at = data_at + size + len(_LINE_END)
            if at > most:
                raise _NotFollowed
            yield from self._await(at)
            if self._data[at - len(_LINE_END) : at] != _LINE_END:
                raise _NotFollowed

    def _find(self, mark: bytes, start: int, most: int) -> _Steps:
        """Return the place behind the first `mark`."""
        at = start
        while (found := self._data.find(mark, at)) < 0:
            if len(self._data) - start > most:
                raise _NotFollowed
            at = max(start, len(self._data) - len(mark) + 1)
            yield
        return found + len(mark)

    def _await(self, length: int) -> Generator[None, None, None]:
        while len(self._data) < length:
            yield


def _body_length(head: bytearray) -> int | None:
    """The length that a head, in lower case, gives its body; `None` for a chunked one."""
    if not any(name in head for name in _BODY_FIELDS):
        return 0
    fields = [line for line in head.split(_LINE_END)[1:] if line.startswith(_BODY_FIELDS)]
    if not fields:
        return 0
    if len(fields) > 1:
        raise _NotFollowed
    if length := _LENGTH.fullmatch(fields[0]):
        return int(length[1])
    if _CHUNKED.fullmatch(fields[0]):
        return None
    raise _NotFollowed
