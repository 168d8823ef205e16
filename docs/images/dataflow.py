"""Draws dataflow.svg: the way of one call through the files.

Run from the root of the repository: ``python -m docs.images.dataflow``. Needs nothing but Python.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1000, 780
INK, GREY, HIT, COLD, PAPER = "#222222", "#666666", "#0b7a75", "#b3541e", "#ffffff"
SANS = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"

parts: list[str] = []


def text(x: float, y: float, words: str, *, size: int = 14, colour: str = INK, mono: bool = False, **more: str) -> None:
    """One line of text; ``more`` are further attributes, such as text_anchor="middle"."""
    attributes = " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in more.items())
    family = MONO if mono else SANS
    parts.append(
        f'<text x="{x:g}" y="{y:g}" font-family="{family}" font-size="{size}" fill="{colour}" {attributes}>'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float, colour: str, *, fill: str = PAPER, dash: str = "") -> None:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    parts.append(
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" stroke="{colour}" '
        f'stroke-width="2"{dashes}/>'
    )


def arrow(*points: tuple[float, float], colour: str, width: float = 3, dash: str = "") -> None:
    path = " L".join(f"{x:g},{y:g}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    parts.append(
        f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashes} '
        f'marker-end="url(#{"hit" if colour == HIT else "cold"})"/>'
    )


def step(x: float, y: float, number: str, what: str, file: str, lines: list[str], *, colour: str = HIT) -> None:
    """A numbered station, 300 wide and 92 high: what happens, in which file, and two lines about it."""
    box(x, y, 300, 92, colour)
    parts.append(f'<circle cx="{x + 24}" cy="{y + 24}" r="14" fill="{colour}"/>')
    text(x + 24, y + 29, number, size=15, colour=PAPER, text_anchor="middle", font_weight="bold")
    text(x + 48, y + 29, what, size=15, font_weight="bold")
    text(x + 288, y + 29, file, size=13, colour=GREY, mono=True, text_anchor="end")
    for at, line in enumerate(lines):
        text(x + 16, y + 58 + 21 * at, line, size=13)


def code() -> None:
    box(20, 16, 640, 54, INK, fill="#f3f3f3")
    text(36, 49, 'report(42, month="2026-11")', size=17, mono=True)
    text(644, 49, '{"user": 42, "orders": 3}', size=17, mono=True, text_anchor="end")


def going() -> None:
    """The left side: the request on its way down."""
    arrow((170, 70), (170, 106), colour=HIT)
    step(
        20,
        110,
        "1",
        "call",
        "function.py",
        ["CachedFunction.__call__: the object that", "stands where the function stood"],
    )
    arrow((170, 202), (170, 236), colour=HIT)
    step(20, 240, "2", "key", "keys/", ["arguments → canonical typed bytes", "→ shop:reports.report:C4oFSrLQ…"])
    arrow((170, 332), (170, 366), colour=HIT)
    step(20, 370, "3", "ring", "ring.py", ["table[crc32(key) & mask]: one look-up", "says which server holds the key"])
    arrow((170, 462), (170, 496), colour=HIT)
    step(20, 500, "4", "ask", "sync/reader.py", ["one write: mg <key> c f t v N300 O7", "and mg <generation> c N0 O7"])


def coming() -> None:
    """The right side: the reply on its way up."""
    arrow((510, 500), (510, 466), colour=HIT)
    arrow((510, 370), (510, 336), colour=HIT)
    arrow((510, 240), (510, 74), colour=HIT)
    step(
        360,
        500,
        "5",
        "answer",
        "sync/connection.py",
        ["one read: VA 83 c3 f51777 t301 O7 …", "and HD c2 O7 Z; O7: it is our answer"],
    )
    step(
        360,
        370,
        "6",
        "decide",
        "glance.py",
        ["young, of this key, generation as now?", "(in full: policy.py, codecs/envelope.py)"],
    )
    step(360, 240, "7", "value", "codecs/", ["client flags say which format;", "payload → value, with its own types"])
    text(526, 160, "a hit: one round trip,", size=13, colour=HIT)
    text(526, 180, "no lock, no thread, no flow", size=13, colour=HIT)


def servers() -> None:
    arrow((170, 592), (170, 644), (490, 644), (490, 676), colour=HIT)
    arrow((560, 680), (560, 596), colour=HIT)
    for at, (name, holds) in enumerate((("10.0.0.1", ""), ("10.0.0.2", ""), ("10.0.0.3", "holds the key"))):
        x = 20 + 220 * at
        box(x, 680, 200, 76, HIT if holds else GREY, fill="#e8f3f2" if holds else "#f3f3f3")
        text(x + 100, 711, "memcached", size=15, text_anchor="middle", font_weight="bold")
        text(x + 100, 734, f"{name} {holds}", size=13, colour=GREY, text_anchor="middle")
    text(188, 632, "the thread's own connection, 250 ms in all", size=13, colour=GREY)


def cold() -> None:
    """The far right: what happens when the reply is not plainly fresh."""
    arrow((660, 416), (716, 416), colour=COLD, dash="7 5")
    text(664, 404, "else", size=13, colour=COLD)
    box(720, 110, 260, 482, COLD, dash="7 5")
    text(736, 138, "anything else", size=15, font_weight="bold")
    text(964, 138, "flows/", size=13, colour=GREY, mono=True, text_anchor="end")
    text(736, 162, "policy.judge gives a verdict:", size=13)
    verdicts = [
        ("absent, and ours to fill", "run the function; store under the", "CAS number of the lease"),
        ("being filled by another", "wait; take over when that takes", "longer than a lease"),
        ("expired, or due early", "claim it: one reader refreshes, the", "others are served, or wait"),
        ("no answer, server down", "run the function, store nothing;", "counted, and the hooks hear of it"),
    ]
    for at, (verdict, first, second) in enumerate(verdicts):
        y = 196 + 84 * at
        text(736, y, verdict, size=13, colour=COLD, font_weight="bold")
        text(736, y + 21, first, size=13)
        text(736, y + 41, second, size=13)
    text(736, 536, "The caller gets the result, stored", size=13)
    text(736, 556, "or not. If the function raised, the", size=13)
    text(736, 576, "lease is given back.", size=13)
    arrow((850, 110), (850, 43), (664, 43), colour=COLD, dash="7 5")
    arrow((850, 592), (850, 718), (664, 718), colour=COLD, dash="7 5")
    text(862, 640, "ms <key> …", size=13, colour=COLD, mono=True)
    text(862, 660, "C<cas> F… T311", size=13, colour=COLD, mono=True)
    text(700, 742, "store under the lease, or give it back", size=13, colour=COLD)


def main() -> None:
    parts.append(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="The way of one call through the files of cachekit">'
    )
    parts.append("<defs>")
    for name, colour in (("hit", HIT), ("cold", COLD)):
        parts.append(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="5" markerHeight="5" '
            f'orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" fill="{colour}"/></marker>'
        )
    parts.append("</defs>")
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>')
    for draw in (code, going, coming, servers, cold):
        draw()
    parts.append("</svg>")
    Path(__file__).with_suffix(".svg").write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
