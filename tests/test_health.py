"""Marking down, probing and recovering, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.health import PROBE_S, STRIKES, Health


def middle() -> float:
    """A random number, the mean one."""
    return 0.5


def test_a_server_is_up_until_it_proves_otherwise() -> None:
    """A new one may be asked, and a success changes nothing about that."""
    health = Health()
    assert health.up
    assert health.succeeded() is False
    assert health.up


def test_a_refused_connect_marks_down_at_once() -> None:
    """There is nobody there: no second try is needed to know that."""
    health = Health()
    assert health.failed(100.0, middle, refused=True) is True
    assert (health.up, health.down_since) == (False, 100.0)


def test_one_timeout_is_forgiven_two_in_a_row_are_not() -> None:
    """One lost reply may be one lost packet."""
    health = Health()
    assert health.failed(100.0, middle) is False
    assert health.up
    assert health.failed(100.25, middle) is True
    assert (health.up, health.down_since) == (False, 100.25)
    assert STRIKES == 2


def test_only_failures_in_a_row_count() -> None:
    """A full reply between two failures wipes the first out."""
    health = Health()
    for at in range(10):
        assert health.failed(float(at), middle) is False
        assert health.succeeded() is False
        assert health.strikes == 0
    assert health.up


def test_a_timeout_and_then_a_refusal() -> None:
    """The refusal alone suffices, whatever came before."""
    health = Health()
    health.failed(100.0, middle)
    assert health.failed(100.1, middle, refused=True) is True


@pytest.mark.parametrize(("random", "pause_s"), [(0.0, 0.8), (0.5, 1.0), (0.999_999, 1.2)])
def test_the_first_probe_comes_after_about_a_second(random: float, pause_s: float) -> None:
    """With jitter, so that a fleet does not probe in step."""
    health = Health()
    health.failed(100.0, lambda: random, refused=True)
    assert health.probe_due_in(100.0) == pytest.approx(pause_s * PROBE_S, abs=1e-5)
    assert health.probe_due_in(100.0 + pause_s / 2) == pytest.approx(pause_s / 2, abs=1e-5)
    assert health.probe_due_in(200.0) == 0.0


def test_a_failed_probe_puts_off_the_next_and_is_no_news() -> None:
    """The server was down before and is down since then; only who marks it down is told so."""
    health = Health()
    assert health.failed(100.0, middle, refused=True) is True
    assert health.failed(101.0, middle) is False
    assert health.failed(101.5, middle, refused=True) is False
    assert health.down_since == 100.0
    assert health.probe_due_in(101.5) == pytest.approx(PROBE_S)


def test_one_good_answer_brings_it_back_and_only_that_is_news() -> None:
    """Recovery is told once, and the strikes begin anew."""
    health = Health()
    health.failed(100.0, middle, refused=True)
    assert health.succeeded() is True
    assert (health.up, health.strikes, health.down_since) == (True, 0, None)
    assert health.succeeded() is False
    assert health.failed(102.0, middle) is False
    assert health.up


STEPS: dict[str, Callable[[Health, float, float], bool]] = {
    "timeout": lambda health, now, chance: health.failed(now, lambda: chance),
    "refused": lambda health, now, chance: health.failed(now, lambda: chance, refused=True),
    "reply": lambda health, _now, _chance: health.succeeded(),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.floats(0, 10), st.floats(0, 1, exclude_max=True))))
def test_whatever_happens_news_is_told_once_and_a_probe_is_never_far(steps: list[tuple[str, float, float]]) -> None:
    """News is exactly a change between up and down; down, the next probe is at most 1.2 s after the last failure."""
    health, now, in_a_row = Health(), 1000.0, 0
    for name, seconds, chance in steps:
        now += seconds
        was_up = health.up
        news = STEPS[name](health, now, chance)
        in_a_row = 0 if name == "reply" else in_a_row + 1
        assert news == (health.up != was_up)
        assert health.strikes == in_a_row
        if name == "reply":
            assert health.up
        elif name == "refused" or in_a_row >= STRIKES:
            assert not health.up
        if not health.up:
            assert health.down_since is not None
            assert health.down_since <= now
            assert 0.0 < health.probe_due_in(now) <= 1.2 * PROBE_S + 1e-9


def test_a_server_that_is_up_can_be_looked_at_soon() -> None:
    """About a second after that; the probe of one that is down is not put off by it."""
    health = Health()
    health.look_soon(100.0, lambda: 0.5)
    assert health.up
    assert health.probe_due_in(100.0) == 1.0
    health.failed(100.5, lambda: 0.5, refused=True)
    health.look_soon(101.6, lambda: 0.5)
    assert health.probe_due_in(101.6) == 0.0
