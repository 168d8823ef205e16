"""Draws freshness.svg: the life of an entry, and what its callers see.

Run from the root of the repository: ``python -m docs.images.freshness``. Needs nothing but Python.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1000, 452
INK, GREY, PAPER = "#222222", "#666666", "#ffffff"
FRESH, EARLY, STALE, RESCUE, GONE = "#0b7a75", "#5aa9a3", "#e3b23c", "#b3541e", "#9a9a9a"
SANS = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"

# Where a phase begins, its colour and name, and what its callers see: who refreshes, the others, and where that fails.
RESCUED = ["the old value; nobody", "tries for the throttle", "time"]
PHASES = (
    (110, FRESH, "fresh", ["nobody"], ["a hit: one round", "trip, no lock"], ["–"]),
    (
        290,
        EARLY,
        "last fifth of it",
        ["with beta: one reader,", "by chance; early where", "the function is slow"],
        ["a hit"],
        ["a hit; nobody tries", "for the throttle time"],
    ),
    (
        466,
        STALE,
        "stale",
        ["the first who asks:", "he runs it, or a thread", "in the background"],
        ["the old value,", "at once"],
        RESCUED,
    ),
    (
        656,
        RESCUE,
        "stale if error",
        ["the first who asks"],
        ["wait for him, or for", "soft_timeout at most"],
        RESCUED,
    ),
    (836, GONE, "over", ["the first who asks"], ["wait for him"], ["the exception; the", "next one may try"]),
)
MARKS = ((110, "made"), (290, "0.8 ttl"), (466, "ttl"), (656, "+ stale"), (836, "+ stale_if_error"))
ROWS = ((150, ("who", "refreshes")), (240, ("the", "others")), (312, ("the function", "raises")))

parts: list[str] = []


def text(x: float, y: float, words: str, *, size: int = 13, colour: str = INK, mono: bool = False, **more: str) -> None:
    """One line of text; ``more`` are further attributes, such as text_anchor="middle"."""
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    family = MONO if mono else SANS
    parts.append(
        f'<text x="{x:g}" y="{y:g}" font-family="{family}" font-size="{size}" fill="{colour}"{attributes}>'
        f"{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str = GREY, *, width: float = 1, dash: str = "") -> None:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    parts.append(f'<path d="M{x1:g},{y1:g} L{x2:g},{y2:g}" stroke="{colour}" stroke-width="{width:g}"{dashes}/>')


def bar() -> None:
    """The life itself, from left to right."""
    for at, (x, colour, name, *_) in enumerate(PHASES):
        end = PHASES[at + 1][0] if at + 1 < len(PHASES) else WIDTH - 16
        parts.append(f'<rect x="{x}" y="60" width="{end - x}" height="44" fill="{colour}"/>')
        text((x + end) / 2, 87, name, size=15, colour=PAPER, font_weight="bold", text_anchor="middle")
    for x, mark in MARKS:
        line(x, 50, x, 372, dash="2 4")
        text(x, 44, mark, mono=True, text_anchor="middle" if x > 110 else "start")
    span(466, 22, "ttl=", FRESH, begin=110)
    span(656, 22, "stale=", STALE, begin=466)
    span(836, 22, "stale_if_error=", RESCUE, begin=656)


def span(end: float, y: float, option: str, colour: str, *, begin: float) -> None:
    """An option's reach, above the life."""
    line(begin + 3, y, end - 3, y, colour, width=2)
    for x in (begin + 3, end - 3):
        line(x, y - 4, x, y + 4, colour, width=2)
    text((begin + end) / 2, y - 6, option, mono=True, colour=colour, text_anchor="middle", font_weight="bold")


def table() -> None:
    for row, (y, words) in enumerate(ROWS):
        line(16, y - 26, WIDTH - 16, y - 26, "#d5d5d5")
        for at, word in enumerate(words):
            text(16, y + 18 * at, word, colour=GREY)
        for x, _, _, *cells in PHASES:
            for at, words_of_cell in enumerate(cells[row]):
                text(x + 8, y + 18 * at, words_of_cell)


def behind() -> None:
    """What does not fit the axis."""
    line(16, 378, WIDTH - 16, 378, "#d5d5d5")
    notes = (
        "Every age is read off the value's own header, in milliseconds, and held against the server's clock (± 1 s).",
        "expire() brings the end of the ttl forward to now. The server itself forgets the value a second after the",
        "end, or a lease (10 s) after the ttl, whichever is later.",
    )
    for at, note in enumerate(notes):
        text(16, 402 + 20 * at, note)


def main() -> None:
    parts.append(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="The life of an entry: fresh, perhaps refreshed early, stale, stale if error, over">'
    )
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>')
    for draw in (bar, table, behind):
        draw()
    parts.append("</svg>")
    Path(__file__).with_suffix(".svg").write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
