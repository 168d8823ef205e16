"""Text for a terminal of 80 columns: bars, tables, and numbers with units."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

WIDTH = 80
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def can_draw() -> bool:
    """Whether the terminal's encoding has the characters that bars are drawn with."""
    try:
        _EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def bar(value: float, full: float, width: int, *, blocks: bool = True) -> str:
    """A bar for ``value``, of ``width`` characters when it equals ``full``; drawn to an eighth of a character.

    A value above 0 always shows. ``blocks`` False: in plain ASCII.
    """
    if not value > 0 or not full > 0:
        return ""
    if not blocks:
        return "#" * max(1, round(width * min(value / full, 1.0)))
    eighths = max(1, round(8 * width * min(value / full, 1.0)))
    return _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def table(rows: Iterable[Sequence[str]], *, left: int = 1, gap: int = 2) -> list[str]:
    """Lines with every column as wide as its widest cell.

    The first ``left`` columns are flush left, the others flush right, with ``gap`` spaces between. A row of fewer cells
    lets its last one run on to the end of the line.
    """
    rows = list(rows)
    columns = max((len(row) for row in rows), default=0)
    bound = [row if len(row) == columns else row[:-1] for row in rows]
    widths = [max((len(row[at]) for row in bound if at < len(row)), default=0) for at in range(columns)]
    lines = []
    for row, cells in zip(rows, bound, strict=True):
        aligned = [cell.ljust(widths[at]) if at < left else cell.rjust(widths[at]) for at, cell in enumerate(cells)]
        lines.append((" " * gap).join([*aligned, *row[len(cells) :]]).rstrip())
    return lines


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of a name and what is to be said about it; the further lines of a long text are indented likewise."""
    pairs = list(pairs)
    width = max(len(name) for name, _ in pairs) + 2
    return [f"{name.ljust(width)}{text.replace(chr(10), chr(10) + ' ' * width)}" for name, text in pairs]


def number(count: float) -> str:
    """A whole number with its thousands apart: ``12 345``."""
    return f"{count:,.0f}".replace(",", " ")


def share(part: float, whole: float) -> str:
    """A percentage, or a dash where there is nothing to have a share in."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def size(count: int) -> str:
    """A number of bytes, in the unit that suits it."""
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def span(seconds: float) -> str:
    """A span of time with two or three digits that matter: ``850 µs``, ``12.3 s``, ``3 d 4 h``."""
    if seconds < 60:
        scale, unit = (1e6, "µs") if seconds < 0.001 else (1e3, "ms") if seconds < 1 else (1.0, "s")
        return f"{seconds * scale:.3g} {unit}"
    days, rest = divmod(int(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{amount} {unit}" for amount, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if amount]
    return " ".join(parts[:2])
