"""Which serialiser under the default codec? Speed as ratios to pickle, interleaved, and what each silently bends.

    python docs/design/codecs/measure.py [rounds]

Prints the Markdown tables of README.md. Needs ormsgpack, msgspec and zstandard, and cachekit on the path.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import json
import marshal
import pickle
import platform
import random
import statistics
import sys
import time
import uuid
import zlib
from collections.abc import Callable
from decimal import Decimal
from importlib import metadata
from typing import Any, NamedTuple

import msgspec
import ormsgpack

from cachekit.codecs import Registry, zstd
from cachekit.codecs.data import DataCodec

PASS = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT | ormsgpack.OPT_PASSTHROUGH_DATACLASS | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM | ormsgpack.OPT_PASSTHROUGH_SUBCLASS | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)  # fmt: skip


class Color(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


@dataclasses.dataclass
class Item:
    id: int
    name: str
    price: float
    active: bool
    tags: list[str]


class Candidate(NamedTuple):
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def hook(value: Any) -> ormsgpack.Ext:
    """The least that a lossless hook would do: tuples and the dataclass as ext values."""
    if type(value) is tuple:
        return ormsgpack.Ext(1, ormsgpack.packb(list(value), default=hook, option=PASS))
    if type(value) is Item:
        parts = [value.id, value.name, value.price, value.active, value.tags]
        return ormsgpack.Ext(2, ormsgpack.packb(parts, default=hook, option=PASS))
    raise TypeError


def unhook(tag: int, data: bytes) -> object:
    parts = ormsgpack.unpackb(data, ext_hook=unhook)
    return tuple(parts) if tag == 1 else Item(*parts)


def enc_hook(value: Any) -> msgspec.msgpack.Ext:
    """msgspec asks only for types that it does not know; tuples, sets, enums, dataclasses never come here."""
    if type(value) is complex:
        return msgspec.msgpack.Ext(1, repr(value).encode())
    raise NotImplementedError


def ext_hook(tag: int, data: memoryview) -> object:
    return complex(bytes(data).decode())


REGISTRY = Registry()
REGISTRY.register(Item)
OURS = DataCodec(REGISTRY)
MSGSPEC = msgspec.msgpack.Encoder(enc_hook=enc_hook)
MSGSPEC_DECODER = msgspec.msgpack.Decoder(ext_hook=ext_hook)
CANDIDATES = {
    "pickle (control)": Candidate(lambda value: pickle.dumps(value, 5), pickle.loads),
    "cachekit data codec": Candidate(OURS.encode, OURS.decode),
    "ormsgpack, all passed through": Candidate(
        lambda value: ormsgpack.packb(value, default=hook, option=PASS),
        lambda data: ormsgpack.unpackb(data, ext_hook=unhook),
    ),
    "ormsgpack, plain": Candidate(ormsgpack.packb, ormsgpack.unpackb),
    "msgspec msgpack": Candidate(MSGSPEC.encode, MSGSPEC_DECODER.decode),
    "json": Candidate(lambda value: json.dumps(value, separators=(",", ":")).encode(), json.loads),
    "marshal": Candidate(lambda value: marshal.dumps(value, 4), marshal.loads),
}


def row(number: int) -> dict[str, Any]:
    return {
        "id": number, "name": f"item number {number}", "price": number * 1.1, "stock": number % 7, "active": True,
        "sku": f"SKU-{number:08d}", "rating": 4.25, "views": number * 1000, "note": None, "category": "garden tools",
    }  # fmt: skip


def page(size: int, seed: int = 1) -> str:
    """Rendered HTML of about that many characters."""
    random_ = random.Random(seed)
    words = ("the", "quick", "brown", "fox", "over", "a", "lazy", "dog", "while", "many", "hands", "make", "work")
    parts: list[str] = []
    while sum(map(len, parts)) < size:
        text = " ".join(random_.choices(words, k=8))
        parts.append(
            f'<li class="item"><a href="/p/{random_.randrange(10**6)}">{text}</a> <b>{random_.random():.2f}</b></li>'
        )
    return "".join(parts)[:size]


VALUES: dict[str, Any] = {
    "dict of 10": row(3),
    "list of 100 dicts": [row(number) for number in range(100)],
    "text of 20 kB": page(20_000),
    "dataclass": Item(1, "spade", 9.5, True, ["garden", "tools"]),
}


def seconds(function: Callable[[Any], object], value: Any, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        function(value)
    return (time.perf_counter() - start) / count


def race(functions: dict[str, tuple[Callable[[Any], object], Any]], rounds: int) -> dict[str, float]:
    """Median of the ratios to the control, round by round: A B C A B C …; and the control's own time in µs under ''."""
    first = next(iter(functions))
    count = max(3, int(0.004 / max(seconds(*functions[first], 20), 1e-7)))
    ratios = collections.defaultdict[str, list[float]](list)
    for _ in range(rounds):
        times = {name: seconds(function, value, count) for name, (function, value) in functions.items()}
        ratios[""].append(times[first] * 1e6)
        for name, taken in times.items():
            ratios[name].append(taken / times[first])
    return {name: statistics.median(found) for name, found in ratios.items()}


def speed(rounds: int) -> None:
    print("| | " + " | ".join(f"{value}: encode | decode | bytes" for value in VALUES) + " |")
    print("|---|" + "---|" * (3 * len(VALUES)))
    cells = collections.defaultdict[str, list[str]](list)
    for value in VALUES.values():
        stored = {}
        for name, (encode, decode) in CANDIDATES.items():
            try:
                data = encode(value)
                decode(data)
                stored[name] = data
            except (TypeError, ValueError):
                continue
        encoding = race({name: (CANDIDATES[name].encode, value) for name in stored}, rounds)
        decoding = race({name: (CANDIDATES[name].decode, stored[name]) for name in stored}, rounds)
        for name in CANDIDATES:
            known = name in stored
            cells[name] += (
                [f"{encoding[name]:.2f}", f"{decoding[name]:.2f}", str(len(stored[name]))] if known else ["–"] * 3
            )
        cells["control in µs"] += [f"{encoding['']:.2f}", f"{decoding['']:.2f}", ""]
    for name, found in cells.items():
        print(f"| {name} | " + " | ".join(found) + " |")


AWKWARD: dict[str, Any] = {
    "tuple": (1, 2), "set": {1}, "bytearray": bytearray(b"x"), "int key": {1: 2}, "tuple key": {(1, 2): 3},
    "int of 70 bits": 2**70,
    "NaN": float("nan"), "datetime, UTC": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "Decimal": Decimal("1.0"),
    "UUID": uuid.UUID(int=1), "complex": 1j, "IntEnum": Color.RED, "str subclass": Text("x"),
    "OrderedDict": collections.OrderedDict(a=1), "dataclass": Item(1, "a", 1.0, True, []), "surrogate": "\ud800",
}  # fmt: skip


def losses() -> None:
    print("| | " + " | ".join(AWKWARD) + " |")
    print("|---|" + "---|" * len(AWKWARD))
    for name, (encode, decode) in CANDIDATES.items():
        cells = []
        for value in AWKWARD.values():
            try:
                back = decode(encode([value]))[0]
            except Exception:  # noqa: BLE001
                cells.append("refused")
                continue
            same = type(back) is type(value) and repr(back) == repr(value)
            cells.append("kept" if same else f"**{type(back).__name__}**")
        print(f"| {name} | " + " | ".join(cells) + " |")


def compression(rounds: int) -> None:
    found = zstd.find()
    assert found is not None
    squeeze, expand = found
    print("| text | zlib 1: bytes | compress µs | unpack µs | zstd 3: bytes | compress µs | unpack µs |")
    print("|---|---|---|---|---|---|---|")
    for size in (256, 512, 1024, 2048, 4096, 20_000, 100_000):
        text = page(size).encode()
        deflated, squeezed = zlib.compress(text, 1), squeeze(text)
        functions: list[Callable[[], object]] = [
            lambda text=text: zlib.compress(text, 1), lambda data=deflated: zlib.decompress(data),  # type: ignore[misc]
            lambda text=text: squeeze(text), lambda data=squeezed, size=size: expand(data, size),  # type: ignore[misc]
        ]  # fmt: skip
        times: list[list[float]] = [[] for _ in functions]
        for _ in range(rounds):
            for taken, function in zip(times, functions, strict=True):
                taken.append(seconds(lambda _, function=function: function(), None, 20) * 1e6)  # type: ignore[misc]
        a, b, c, d = (statistics.median(taken) for taken in times)
        print(f"| {size} | {len(deflated)} | {a:.1f} | {b:.1f} | {len(squeezed)} | {c:.1f} | {d:.1f} |")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 31
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("ormsgpack", "msgspec", "zstandard"))
    print(f"CPython {platform.python_version()}, {platform.machine()}, {versions}; {rounds} interleaved rounds.\n")
    print("Ratios to pickle (below 1 is faster):\n")
    speed(rounds)
    print("\nWhat becomes of `[value]` (bold: it silently comes back as that type):\n")
    losses()
    print("\nCompression:\n")
    compression(rounds)


if __name__ == "__main__":
    main()
