"""Events: each where it is promised, on the embedded server; never an argument or a value; never a harm to the call."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachekit import Cache, Key
from cachekit.errors import ServerError
from cachekit.hooks import Event, Fill, Hit, Hooks, Invalidate, Miss, ServerState, Trouble, Wait

EVENTS = Hooks.__slots__
SECRET = "s3cret-argument"
VALUE = "s3cret-value"


class Watched:
    """A cache whose every event is kept."""

    def __init__(self, url: str = "memory:", **options: Any) -> None:
        self.cache = Cache(url, **options)
        self.seen: list[Any] = []
        for name in EVENTS:
            getattr(self.cache.hooks, name)(self.seen.append)

    def take(self) -> list[Any]:
        """What was seen since the last time."""
        seen, self.seen[:] = list(self.seen), []
        return seen


@pytest.fixture
def watched() -> Watched:
    """A cache on the embedded server."""
    return Watched()


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a server that is not there: the port is bound, so that nobody else takes it, and not listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"memcached://127.0.0.1:{bound.getsockname()[1]}"


def kinds(events: list[Any]) -> list[type]:
    """The classes of these events."""
    return [type(event) for event in events]


# -- one event ---------------------------------------------------------------------------------------------------------


def test_listeners_hear_in_the_order_they_came() -> None:
    """Each of them, each event."""
    event: Event[int] = Event()
    heard: list[Any] = []
    event(lambda n: heard.append(("first", n)))
    event(lambda n: heard.append(("second", n)))
    event.emit(1)
    event.emit(2)
    assert heard == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]


def test_an_event_is_true_while_somebody_listens() -> None:
    """The hot path asks that, and makes no event for nobody."""
    event: Event[int] = Event()
    assert not event
    listener = event(print)
    assert event
    event.remove(listener)
    assert not event


def test_it_serves_as_a_decorator() -> None:
    """The function itself comes back, unchanged."""
    hooks = Hooks()
    heard: list[Fill] = []

    @hooks.on_fill
    def listener(event: Fill) -> None:
        heard.append(event)

    fill = Fill("f", "k", 0.1, True, "")
    hooks.on_fill.emit(fill)
    listener(fill)
    assert heard == [fill, fill]
    assert hooks.on_fill.listeners == (listener,)


def test_a_listener_can_be_taken_away() -> None:
    """Only that one; and one that is not there is no error."""
    event: Event[int] = Event()
    heard: list[int] = []
    keep, drop = event(lambda n: heard.append(n)), event(lambda n: heard.append(-n))
    event.remove(drop)
    event.remove(drop)
    event.emit(1)
    assert heard == [1]
    assert event.listeners == (keep,)


def test_a_bound_method_can_be_taken_away() -> None:
    """A bound method is another object at every look, but an equal one."""
    event: Event[int] = Event()
    heard: list[int] = []
    event(heard.append)
    event.remove(heard.append)
    event.emit(1)
    assert heard == []


def test_a_listener_may_take_itself_away_while_it_listens() -> None:
    """The others still hear the event under way."""
    event: Event[int] = Event()
    heard: list[str] = []

    def once(_: int) -> None:
        heard.append("once")
        event.remove(once)

    event(once)
    event(lambda _: heard.append("always"))
    event.emit(1)
    event.emit(2)
    assert heard == ["once", "always", "always"]


def test_a_raising_listener_is_logged_once_and_hurts_nobody(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the call, nor the listeners behind it, nor its own later turns."""
    hooks, turns, behind = watched.cache.hooks, [0], list[Hit]()

    @hooks.on_hit
    def broken(_: Hit) -> None:
        turns[0] += 1
        raise ZeroDivisionError("the listener's own trouble")

    hooks.on_hit(behind.append)

    @watched.cache
    def double(n: int) -> int:
        return 2 * n

    with caplog.at_level(logging.DEBUG, logger="cachekit"):
        assert [double(4) for _ in range(5)] == [8] * 5
    records = [record for record in caplog.records if record.exc_info is not None]
    assert (turns[0], len(behind), len(records)) == (4, 4, 1)
    assert records[0].levelno == logging.WARNING
    assert records[0].exc_info is not None
    assert records[0].exc_info[0] is ZeroDivisionError
    assert (double.info().hits, double.info().errors) == (4, 0)


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_drops_what_its_listeners_raise(name: str) -> None:
    """Whichever event it is."""
    event: Event[Any] = getattr(Hooks(), name)
    heard: list[Any] = []

    def broken(_: Any) -> None:
        raise RuntimeError("no")

    event(broken)
    event(heard.append)
    event.emit("it")
    assert heard == ["it"]


def test_an_interrupt_in_a_listener_is_the_callers() -> None:
    """Ctrl-C is no error of the listener."""
    event: Event[int] = Event()

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    event(interrupted)
    with pytest.raises(KeyboardInterrupt):
        event.emit(1)


def test_events_are_frozen() -> None:
    """No listener can change what the next one hears."""
    hit = Hit("f", "k", "s", 1.0)
    with pytest.raises(AttributeError):
        hit.age_s = 0.0  # type: ignore[misc]
    assert hit == Hit("f", "k", "s", 1.0) != Hit("f", "k", "s", 2.0)


# -- where each is promised --------------------------------------------------------------------------------------------


def test_a_cold_call_is_a_miss_and_a_fill_and_a_warm_one_a_hit(watched: Watched) -> None:
    """With the function's name, the wire key, the server, and times in seconds."""

    @watched.cache
    def double(n: int) -> int:
        return 2 * n

    key = double.key(1)
    name = double.__module__ + "." + double.__qualname__.rpartition(".")[2]
    double(1)
    miss, fill = watched.take()
    assert miss == Miss(miss.function, key, "memory:", "absent")
    assert (fill.key, fill.stored, fill.reason) == (key, True, "")
    assert fill.seconds >= 0.0
    double(1)
    (hit,) = watched.take()
    assert (type(hit), hit.key, hit.server) == (Hit, key, "memory:")
    assert hit.age_s >= 0.0
    assert miss.function == fill.function == hit.function
    assert name.rpartition(".")[2] in hit.function


def test_every_reason_of_a_miss(watched: Watched) -> None:
    """Absent, expired, invalidated and garbage are told apart."""

    @watched.cache(ttl=0.5)
    def double(n: int) -> int:
        return 2 * n

    env, began = watched.cache._env, watched.cache._env.now()
    clock = [began]
    env.now = lambda: clock[0]
    double(1)
    clock[0] = began + 0.9
    double(1)
    double.invalidate_all()
    double(1)
    watched.cache.set(double.key(1), "overwritten")
    double(1)
    double.invalidate(1)
    double(1)
    reasons = [event.reason for event in watched.take() if isinstance(event, Miss)]
    assert reasons == ["absent", "expired", "invalidated", "garbage", "absent"]


def test_an_invalidation_is_told_with_its_key(watched: Watched) -> None:
    """That of the entry, or that of the function's generation."""

    @watched.cache
    def double(n: int) -> int:
        return 2 * n

    double(1)
    watched.take()
    assert double.invalidate(1)
    (one,) = watched.take()
    assert one == Invalidate(one.function, double.key(1), acknowledged=True)
    assert double.invalidate_all()
    (every,) = watched.take()
    assert isinstance(every, Invalidate)
    assert every.acknowledged
    assert every.key != double.key(1)


def refuse(_: Any) -> Any:
    """A ttl that can't be had."""
    raise LookupError(VALUE)


@pytest.mark.parametrize(
    ("ttl", "compute", "reason"),
    [
        (0, lambda: 1, "ttl 0"),
        (60, lambda: object(), "unencodable"),
        (60, lambda: os.urandom(2 << 20), "too large"),
        (refuse, lambda: 1, "no ttl"),
    ],
)
def test_a_result_that_is_not_stored_says_why(
    watched: Watched, ttl: Any, compute: Callable[[], Any], reason: str
) -> None:
    """The fill happened, its caller was served, and the next call runs again."""

    @watched.cache(ttl=ttl)
    def answer() -> Any:
        return compute()

    answer()
    fills = [event for event in watched.take() if isinstance(event, Fill)]
    assert [event.stored for event in fills] == [False]
    assert fills[0].reason.startswith(reason)
    assert answer.info().unstored == 1


def test_a_function_that_raises_is_a_fill_that_was_not_stored(watched: Watched) -> None:
    """The exception is the caller's; the event says only that there was one."""

    @watched.cache
    def fail() -> None:
        raise LookupError(VALUE)

    with pytest.raises(LookupError):
        fail()
    miss, fill = watched.take()
    assert (type(miss), fill.stored, fill.reason) == (Miss, False, "raised")


def test_who_waits_for_anothers_run_is_told_as_a_wait(watched: Watched) -> None:
    """Two threads, one run: one fill, one wait, one miss each."""
    started, go_on = threading.Event(), threading.Event()

    @watched.cache
    def slow(n: int) -> int:
        started.set()
        assert go_on.wait(10)
        return n

    got: list[int] = []
    first = threading.Thread(target=lambda: got.append(slow(1)))
    first.start()
    assert started.wait(10)
    second = threading.Thread(target=lambda: got.append(slow(1)))
    second.start()
    while kinds(list(watched.seen)).count(Miss) < 2:
        second.join(0.001)
    go_on.set()
    for thread in (first, second):
        thread.join(10)
    seen = kinds(watched.take())
    assert got == [1, 1]
    assert (seen.count(Fill), seen.count(Wait), seen.count(Miss), seen.count(Hit)) == (1, 1, 2, 0)


def test_a_server_that_is_not_there_is_trouble_and_marked_down_once(
    nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets his value; the failure is counted, told to the hooks, and logged once."""
    watched = Watched(nobody)

    @watched.cache
    def double(n: int) -> int:
        return 2 * n

    with caplog.at_level(logging.DEBUG, logger="cachekit"), watched.cache:
        assert [double(n) for n in range(3)] == [0, 2, 4]
        assert double.invalidate(1) is False
    seen = watched.take()
    assert [event.up for event in seen if isinstance(event, ServerState)] == [False]
    troubles = [event for event in seen if isinstance(event, Trouble)]
    assert len(troubles) == 4
    assert all(isinstance(event.error, ServerError) and event.server in nobody for event in troubles)
    assert [event.reason for event in seen if isinstance(event, Miss)] == ["no answer"] * 3
    assert [event.acknowledged for event in seen if isinstance(event, Invalidate)] == [False]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]  # and the invalidation is kept


def test_direct_verbs_tell_their_trouble(nobody: str) -> None:
    """A read gives its default and a write False; the hooks know better."""
    watched = Watched(nobody)
    with watched.cache as cache:
        assert cache.get("n", "default") == "default"
        assert cache.set("n", 1) is False
        assert cache.get_many(["a", "b"]) == {}
    troubles = [event for event in watched.take() if isinstance(event, Trouble)]
    assert len(troubles) >= 3


def test_a_cache_that_is_disabled_tells_nothing(watched: Watched) -> None:
    """Inside ``disabled()`` functions just run."""

    @watched.cache
    def double(n: int) -> int:
        return 2 * n

    with watched.cache.disabled():
        assert double(1) == 2
    assert watched.take() == []


# -- what none of them carries -----------------------------------------------------------------------------------------


class Unencodable:
    """A value that no codec knows, whose text would give it away."""

    def __repr__(self) -> str:
        return VALUE


def ttl_of(value: Any) -> float:
    """A ttl callable that fails with the value in its hands."""
    raise LookupError(value)


def test_events_and_log_lines_carry_neither_arguments_nor_values(
    watched: Watched, nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Hit, miss, fill, failure, invalidation, trouble: none of it, and no log line, shows what was passed or stored."""

    def exercise(where: Watched) -> None:
        cache = where.cache

        @cache
        def good(argument: str) -> str:
            return VALUE + argument

        @cache
        def bad(argument: str) -> Any:
            return [Unencodable(), VALUE]

        @cache(ttl=ttl_of)
        def timeless(argument: str) -> str:
            return VALUE

        @cache
        def failing(argument: str) -> None:
            raise LookupError(VALUE, argument)

        for _ in range(2):
            good(SECRET)
            bad(SECRET)
            timeless(SECRET)
            with pytest.raises(LookupError):
                failing(SECRET)
        good.peek(SECRET)
        good.refresh(SECRET)
        good.many([good.bind(SECRET)])
        cache.set(Key(good.key(SECRET)), VALUE)
        good(SECRET)
        good.invalidate(SECRET)
        good.invalidate_all()

    elsewhere = Watched(nobody)
    with caplog.at_level(logging.DEBUG, logger="cachekit"), elsewhere.cache:
        exercise(watched)
        exercise(elsewhere)
    seen = watched.take() + elsewhere.take()
    assert {Hit, Miss, Fill, Invalidate, Trouble, ServerState} <= set(kinds(seen))
    for event in seen:
        assert "s3cret" not in repr(event)
    assert caplog.records
    for record in caplog.records:
        assert "s3cret" not in record.getMessage()
