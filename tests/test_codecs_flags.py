"""The client-flag table."""

from __future__ import annotations

import itertools

import pytest

from cachekit.codecs import flags

FORMATS = range(1, 16)
COMPRESSIONS = (0, flags.ZLIB, flags.ZSTD)


def test_every_combination_is_told_apart() -> None:
    """Format, compression and envelope can each be read back from the number, and no two combinations share one."""
    seen = set()
    for format_id, compression, enveloped in itertools.product(FORMATS, COMPRESSIONS, (False, True)):
        number = flags.client_flags(format_id, compression=compression, enveloped=enveloped)
        assert flags.format_of(number) == format_id
        assert flags.compression_of(number) == compression
        assert flags.is_enveloped(number) is enveloped
        assert 0 < number < 2**32
        seen.add(number)
    assert len(seen) == 15 * 3 * 2


@pytest.mark.parametrize("number", [0, 1, 2, 4, 16, 256, 512, 2048, 0xCA00, 0xCA81, 0xCB01, 0x1CA01, 2**32 - 1])
def test_foreign_flags_are_not_ours(number: int) -> None:
    """Flags of other clients (small numbers, n << 8) and of later layouts are never taken for ours."""
    assert not flags.is_ours(number)
    assert flags.format_of(number) == 0
    assert flags.compression_of(number) == 0
    assert not flags.is_enveloped(number)


def test_the_table_never_changes() -> None:
    """These numbers stand in stored values: a change would make every cache cold, or worse."""
    assert (flags.DATA, flags.JSON, flags.TEXT, flags.BYTES, flags.INT) == (1, 2, 3, 4, 5)
    assert (flags.ZLIB, flags.ZSTD, flags.ENVELOPED, flags.MARK) == (1, 2, 64, 0xCA00)


@pytest.mark.parametrize(("format_id", "compression"), [(0, 0), (16, 0), (1, 4), (-1, 0)])
def test_no_such_flags(format_id: int, compression: int) -> None:
    """A format or compression that has no bits is an error, never another one's flags."""
    with pytest.raises(ValueError, match="no client flags"):
        flags.client_flags(format_id, compression=compression)


def test_words() -> None:
    """Tools and errors say what flags mean."""
    assert flags.describe(0) == "foreign bytes"
    assert flags.describe(flags.client_flags(1, compression=2, enveloped=True)) == "data, zstd, enveloped"
    assert flags.describe(flags.client_flags(9)) == "own format 9"
    assert "0x10" in flags.describe(16)
