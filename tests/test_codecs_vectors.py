"""Stored values of every format, kept for ever: what one release wrote, every later one reads.

``python tests/test_codecs_vectors.py`` adds the samples that are not in the file yet. It never changes one that is.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import json
import pathlib
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest

from cachekit.codecs import (
    FOREVER,
    Compression,
    Header,
    Packer,
    Registry,
    fingerprint,
    flags,
    open_envelope,
    resolve,
    seal,
)

FILE = pathlib.Path(__file__).parent / "vectors" / "envelopes.json"


class Color(enum.Enum):
    RED = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    color: Color


REGISTRY = Registry()
for _cls, _name in ((Color, "sample.Color"), (Rights, "sample.Rights"), (Point, "sample.Point"), (Item, "sample.Item")):
    REGISTRY.register(_cls, name=_name)

ROW = {"id": 7, "name": "žluť", "price": 12.5, "active": True, "note": None, "raw": b"\x00\xff"}

DATA: dict[str, Any] = {
    "none": None, "true": True, "small int": -5, "64 bit": -(2**63), "big int": 2**64, "float": -0.0,
    "infinity": float("inf"),
    "row": ROW, "rows": [ROW, {}], "tuple": (1, (2.5, "x")), "set": {1}, "frozenset": frozenset({"a"}),
    "int keys": {1: "a", (2, None): [b"b"]}, "bytearray": [bytearray(b"x")], "complex": complex(1.5, -2),
    "naive": dt.datetime(2026, 11, 21, 18, 6, 1, 999999),  # noqa: DTZ001
    "utc": dt.datetime(2026, 11, 21, tzinfo=dt.UTC),
    "fixed": dt.datetime(2026, 11, 21, tzinfo=dt.timezone(dt.timedelta(hours=-3), "X")),
    "fold": dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")), "date": dt.date(2026, 11, 21),
    "time": dt.time(1, 2, 3, 4), "timedelta": dt.timedelta(-1, 2, 3), "zone": ZoneInfo("Europe/Paris"),
    "decimal": Decimal("1.00E+5"), "fraction": Fraction(-1, 3), "uuid": uuid.UUID(int=1),
    "ordered": OrderedDict(b=1, a=2),
    "defaultdict": defaultdict(list, {"a": [1]}), "counter": Counter("aab"), "deque": deque([1, 2], 5),
    "range": range(1, 9, 2),
    "path": pathlib.PurePosixPath("/a/b"), "ip": ipaddress.ip_address("::1"),
    "enum": Color.RED, "flag": Rights.READ | Rights.WRITE,
    "namedtuple": Point(1, 2), "dataclass": [Item("a", Color.RED)],
}  # fmt: skip
PLAIN: dict[str, Any] = {"text": "žluť", "empty text": "", "bytes": b"\x00\xff", "counter digits": 42}
LONG: dict[str, Any] = {"long text": "all work and no play " * 200, "long rows": [ROW] * 100}

DEFAULT = Packer(resolve(None, registry=REGISTRY))
JSON = Packer(resolve("json", registry=REGISTRY))
ZLIB = Packer(resolve(None, registry=REGISTRY), Compression(method="zlib"))
SAMPLES: dict[str, tuple[Packer, Any]] = {
    **{f"data/{name}": (DEFAULT, value) for name, value in DATA.items()},
    **{f"plain/{name}": (DEFAULT, value) for name, value in PLAIN.items()},
    **{f"zstd/{name}": (DEFAULT, value) for name, value in LONG.items()},
    **{f"zlib/{name}": (ZLIB, value) for name, value in LONG.items()},
    "json/row": (JSON, {"id": 7, "name": "žluť", "tags": ["a", None, 1.5]}),
}
KEY = b"app:report:0123456789abcdefghijklmn"
HEADERS = [
    Header(fingerprint(KEY), 1_795_284_361_123, 300_000, 0, 0, 311, 1_250, (77,)),
    Header(fingerprint(KEY), 1_795_284_361_123, FOREVER, 60_000, 3_600_000, 0, 2**32 - 1, (77, 2**64 - 1, 0)),
]


def sample(name: str, index: int) -> dict[str, Any]:
    """One entry of the file: a value stored directly, or behind a header."""
    packer, value = SAMPLES[name]
    number, payload = packer.pack(value)
    if index < 0:
        return {"name": name, "flags": number, "stored": payload.hex(), "header": None}
    stored = seal(HEADERS[index], payload)
    return {"name": name, "flags": number | flags.ENVELOPED, "stored": stored.hex(), "header": index}


def load() -> list[dict[str, Any]]:
    """Every committed sample."""
    entries: list[dict[str, Any]] = json.loads(FILE.read_text())
    return entries


@pytest.mark.parametrize("entry", load(), ids=lambda entry: f"{entry['name']}-{entry['header']}")
def test_old_values_are_read(entry: dict[str, Any]) -> None:
    """Every value ever stored in a released format is read as what it was, type for type."""
    packer, value = SAMPLES[entry["name"]]
    payload = bytes.fromhex(entry["stored"])
    assert flags.is_enveloped(entry["flags"]) is (entry["header"] is not None)
    if entry["header"] is not None:
        header, at = open_envelope(payload)
        assert header == HEADERS[entry["header"]]
        payload = payload[at:]
    back = packer.unpack(entry["flags"], payload)
    assert type(back) is type(value)
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize("entry", load(), ids=lambda entry: f"{entry['name']}-{entry['header']}")
def test_what_is_written_has_not_changed(entry: dict[str, Any]) -> None:
    """Today's writer makes the very same bytes, so that older readers in the fleet understand them too."""
    new = sample(entry["name"], -1 if entry["header"] is None else entry["header"])
    assert new["flags"] == entry["flags"]
    if not flags.compression_of(entry["flags"]):  # compressors may find shorter streams in later versions
        assert new["stored"] == entry["stored"]


def test_every_sample_is_committed() -> None:
    """No format without a sample: each one here is in the file, directly and behind both headers."""
    committed = {(entry["name"], entry["header"]) for entry in load()}
    assert committed >= {(name, header) for name in SAMPLES for header in (None, 0)}


def main() -> None:
    """Add what is missing."""
    entries = load() if FILE.exists() else []
    have = {(entry["name"], entry["header"]) for entry in entries}
    for name in SAMPLES:
        for index in (-1, 0, 1) if name == "data/row" else (-1, 0):
            if (name, None if index < 0 else index) not in have:
                entries.append(sample(name, index))
    FILE.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")


if __name__ == "__main__":
    main()
