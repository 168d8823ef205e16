"""``cachekit demo``, and the charts that it draws."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command_line import Outcome, Servers, cachekit_fixture
from support.memcached import Memcached, free_port
from support.targets import url_of

from cachekit.cli import chart, crowd, demo

__all__ = ["cachekit_fixture"]

# -- demo --------------------------------------------------------------------------------------------------------------


class TestDemo:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Less of everything."""
        size = demo.Size(numbers=60, requests=60, runs=4, alone=8, processes=2, threads=3)
        monkeypatch.setattr(demo, "QUICK", size)
        monkeypatch.setattr(crowd, "RUN_S", 0.05)

    def test_embedded(self, cachekit: Callable[..., Outcome]) -> None:
        """The demo shows a rising hit rate, one run for a crowd, and the new value after an invalidation."""
        code, out, err = cachekit("demo", "--quick")
        assert (code, err) == (0, "")
        rates = [float(text) for text in re.findall(r"([0-9.]+) %$", out, re.MULTILINE)]
        assert len(rates) == 4
        assert rates[-1] > rates[0]
        assert "8 callers; the function ran once" in out
        assert re.search(r"price\('tea'\) +4.9\n", out)
        assert re.search(r"ended;  price\('tea'\) +5.2 ", out)
        assert max(map(len, out.splitlines())) <= 80

    def test_servers(self, cachekit: Callable[..., Outcome], servers3: Servers) -> None:
        """On real servers the crowd comes from several processes, and still one of them runs the function."""
        before = sum(int(server.stats()["total_items"]) for server in servers3)
        code, out, _ = cachekit("demo", "--quick", "--servers", url_of(*servers3))
        assert code == 0
        assert "6 callers; the function ran once" in out
        # All that was ever stored there: what other tests left is cleared away behind our back.
        assert sum(int(server.stats()["total_items"]) for server in servers3) > before

    def test_begins_cold(self, cachekit: Callable[..., Outcome], server: Memcached) -> None:
        """A second demo on the same servers is not served what the first one left."""
        rates = [
            re.findall(r"([0-9.]+) %$", cachekit("demo", "--quick", "--servers", url_of(server)).out, re.MULTILINE)[0]
            for _ in range(2)
        ]
        assert all(float(rate) < 60 for rate in rates)

    @pytest.mark.parametrize(("url", "code"), [("127.0.0.1:{port}", 1), ("memcachd://h", 2)])
    def test_bad_servers(self, cachekit: Callable[..., Outcome], url: str, code: int) -> None:
        """Servers that are down or mistyped end the demo before it begins, with one line."""
        outcome = cachekit("demo", "--quick", "--servers", url.format(port=free_port()))
        assert (outcome.code, outcome.out) == (code, "")
        assert outcome.err.count("\n") == 1

    def test_interrupt(self, cachekit: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C ends it with the shell's exit code for that, and without a traceback."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(demo, "squares", interrupted)
        code, _, err = cachekit("demo", "--quick")
        assert (code, err) == (130, "cachekit demo: interrupted\n")


# -- chart -------------------------------------------------------------------------------------------------------------


class TestChart:
    @given(st.floats(0.001, 1000), st.floats(0.001, 1000), st.integers(1, 80), st.booleans())
    def test_bars(self, value: float, full: float, width: int, blocks: bool) -> None:
        """A bar is never empty, never too long, and full at its full value."""
        drawn = chart.bar(value, full, width, blocks=blocks)
        assert 1 <= len(drawn) <= width
        assert len(chart.bar(full, full, width, blocks=blocks)) == width
        assert " " not in drawn

    @pytest.mark.parametrize(("value", "full"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
    def test_no_bar(self, value: float, full: float) -> None:
        """Nothing is drawn for nothing."""
        assert chart.bar(value, full, 10) == ""

    def test_table(self) -> None:
        """Columns align, short rows run on, and a long cell of a short row widens nothing but its own columns."""
        rows = [("name", "n", "m"), ("a", "10", "200"), ("long name", "down: for a long long reason")]
        assert chart.table(rows) == [
            "name        n    m",
            "a          10  200",
            "long name  down: for a long long reason",
        ]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.0000012, "1.2 µs"),
            (0.00085, "850 µs"),
            (0.0123, "12.3 ms"),
            (1.5, "1.5 s"),
            (60, "1 m"),
            (3661, "1 h 1 m"),
            (273_600, "3 d 4 h"),
        ],
    )
    def test_spans(self, seconds: float, text: str) -> None:
        """A span has the unit that a person would choose."""
        assert chart.span(seconds) == text

    @pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
    def test_sizes(self, count: int, text: str) -> None:
        """A size has the unit that a person would choose."""
        assert chart.size(count) == text
