"""Text from strangers, such as names in their files, made fit to be shown: nothing unseen, nothing endless."""

from __future__ import annotations


def plain(value: object, limit: int = 80) -> str:
    """One line of at most `limit` characters: unseen characters in Python notation, the middle left out.

    Unseen is what Python does not call printable: controls, separators of lines, the marks and overrides of writing
    direction, invisible letters, and lone surrogates, which UTF-8 cannot carry.
    """
    text = str(value)
    head = (limit - 1) * 2 // 3
    tail = limit - 1 - head
    # Only the ends can be shown; a text of any length costs no more than them.
    ends = text if len(text) <= 2 * limit else text[:limit] + text[-limit:]
    shown = seen(ends)
    return shown if len(text) <= limit and len(shown) <= limit else f"{shown[:head]}…{shown[-tail:]}"


def markdown(value: object, limit: int = 200) -> str:
    """`plain`, with runs of white space as one space, and so that nothing in it is Markdown or ends a table's cell."""
    shown = plain(" ".join(str(value).split()), limit)
    return "".join(f"\\{letter}" if letter in "\\`*_~<>[]|#!&" else letter for letter in shown)


def seen(text: str, kept: str = "") -> str:
    """The text with its unseen characters, but for those `kept`, in Python notation."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in kept else _notation(letter) for letter in text)


def _notation(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
