"""Text of a report: what comes from outside made harmless and short, numbers as people read them."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..text import plain, seen

MISSING = "–"


def escape(value: object, limit: int = 80) -> str:
    """`plain`, safe inside an HTML element or a quoted attribute."""
    return html.escape(plain(value, limit))


def label(value: object, limit: int = 80) -> str:
    """`escape` in an element that keeps the writing direction of the text to itself."""
    return f"<bdi>{escape(value, limit)}</bdi>"


def escape_lines(text: str, limit: int = 100_000) -> str:
    """HTML of a text of several lines, whose tail beyond `limit` characters is counted, not shown."""
    shown = seen(text[:limit].replace("\r\n", "\n"), kept="\t\n")
    more = f"\n… {len(text) - limit:,} more characters" if len(text) > limit else ""
    return html.escape(shown + more)


def percent(fraction: float | None) -> str:
    """0.4128 -> '41.3'; the unit stands in the heading."""
    return MISSING if fraction is None else f"{100 * fraction:.1f}"


def difference(now: float, before: float) -> str:
    """Signed difference of two fractions in points, as their printed percentages differ: '+2.3', '−0.4', '±0.0'."""
    points = round(100 * now, 1) - round(100 * before, 1)
    digits = f"{abs(points):.1f}"
    if digits == "0.0":
        return "±0.0"
    return f"{'+' if points > 0 else '−'}{digits}"


def duration(seconds: float | None) -> str:
    """41.23 -> '41.2 s', 723 -> '12 min 03 s', 11100 -> '3 h 05 min'."""
    if seconds is None:
        return MISSING
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def rate(per_second: float | None) -> str:
    """Three digits are enough: 8.13, 81.3, 1,234."""
    if per_second is None:
        return MISSING
    decimals = max(0, 3 - len(str(int(per_second))))
    return f"{per_second:,.{decimals}f}"


def distance(value: float | None) -> str:
    """Three decimals; three digits where the number is large."""
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"


def count(number: int, noun: str) -> str:
    """'1 query', '281 queries', '1 line'."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun[:-1]}ies" if noun.endswith("y") else f"{number:,} {noun}s"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in plain text: the first column to the left, the others to the right, two spaces between."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in text)
