"""Text that people give: the rule for it, and the escape for what is older than the rule."""

import re

LINE = "one line of printable text"

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
"""Letters, marks and symbols that show nothing: fillers, joiners and variation selectors."""


def is_line(text: str) -> bool:
    """Whether a text is one line of printable characters, and more than spaces.

    It has no character of the categories Cc (controls, with ESC and line breaks), Cf (formats, with
    all bidirectional controls and zero widths), Cs, Co, Cn, Zl or Zp, no space but U+0020, and none
    that is invisible though its category is another.
    """
    return _is_shown(text) and not text.isspace()


def escaped(text: str) -> str:
    """A text as one line that shows all of it: `\\x1b` for ESC, `\\u202e` for a reversed line."""
    if _is_shown(text):
        return text
    return "".join([c if _is_shown(c) else _escape(c) for c in text])


def escaped_lines(text: str) -> str:
    """The same for a text whose lines are its author's, and not those of the data in it."""
    return "\n".join(map(escaped, text.split("\n")))


def escaped_json(document: str) -> str:
    """The same for a JSON document, which keeps its meaning: each character becomes JSON's escape
    of it."""
    if _is_shown(document):
        return document
    return "".join([c if c == "\n" or _is_shown(c) else _json_escape(c) for c in document])


def percent_encoded(raw: bytes) -> str:
    """Bytes as one line that they can be read back from: what is no printable UTF-8 is `%` and two
    digits, and so is `%` itself."""
    text = raw.decode(errors="surrogateescape")
    if "%" not in text and _is_shown(text):
        return text
    return "".join([c if c != "%" and _is_shown(c) else _percent(c) for c in text])


def _is_shown(text: str) -> bool:
    return text.isprintable() and _INVISIBLE.search(text) is None


def _percent(character: str) -> str:
    return "".join([f"%{byte:02X}" for byte in character.encode(errors="surrogateescape")])


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
