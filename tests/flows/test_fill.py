"""However a run ends, its lease is settled: stored, a pass marker, put back, given back; and the caller gets his answer
(the table in flows/fill.py).
"""

from __future__ import annotations

from typing import Any

import pytest

from cachekit import MISS, current
from cachekit.codecs.envelope import FOREVER
from cachekit.codecs.note import ENVELOPED_NOTE
from cachekit.errors import Unreachable
from cachekit.flows.call import call
from cachekit.flows.fill import refresh
from cachekit.hooks import Fill, Hit
from flows.scripted import BUSY, DONE, KEY, LOST, Clock, Script, Stored, entry, job, make_recipe, never, note, va

NOW = Clock().now
REFUSED = b"SERVER_ERROR object too large for cache\r\n"


class NotFound(LookupError):
    """A failure that is an answer."""


def raising(error: BaseException) -> Any:
    """A function that raises it."""

    def compute() -> Any:
        raise error

    return compute


def won(recipe: Any, *more: bytes, age_s: float = 61.0, flag: bytes = b" W", **changes: Any) -> Script:
    """The script of a reader who has the claim on an old value."""
    return Script(va(entry(recipe, "old", created=NOW - age_s, **changes), cas=9, more=flag), *more)


def told(script: Script) -> list[Fill]:
    """What the hook hears of the runs."""
    fills: list[Fill] = []
    script.hooks.on_fill(fills.append)
    return fills


# -- the function raised -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "stale_s", "if_error_s", "rescued"),
    [
        (61.0, 0.0, 0.0, False),
        (61.0, 30.0, 0.0, True),
        (61.0, 0.0, 30.0, True),
        (89.0, 10.0, 20.0, True),
        (91.0, 10.0, 20.0, False),
    ],
)
def test_the_old_value_rescues_within_its_time(age_s: float, stale_s: float, if_error_s: float, rescued: bool) -> None:
    """RFC 5861 §4: within ttl + stale + stale_if_error the caller gets the old value; beyond it the exception."""
    recipe = make_recipe(stale_s=stale_s, stale_if_error_s=if_error_s)
    stored = entry(recipe, "old", created=NOW - age_s)
    left_s = 61 + int(stale_s + if_error_s + 10.0) - int(age_s)
    script = Script(va(stored, cas=9, t=left_s, more=b" W"), DONE)
    if rescued:
        assert script.run(call(job(recipe, raising(OSError("down"))), script.env, None)) == "old"
        assert script.requests[1].startswith(b"ms ")
    else:
        with pytest.raises(OSError, match="down"):
            script.run(call(job(recipe, raising(OSError("down"))), script.env, None))
        assert script.requests[1].startswith(b"md " + KEY + b" C9 "), "nobody can use what stood there"


def test_a_rescue_keeps_the_bytes_and_throttles() -> None:
    """The same payload under the same freshness, and an age before which nobody tries again."""
    recipe = make_recipe(stale_if_error_s=600.0, throttle_s=5.0)
    script = won(recipe, DONE, age_s=70.5)
    fills, hits = told(script), list[Hit]()
    script.hooks.on_hit(hits.append)
    assert script.run(call(job(recipe, raising(OSError())), script.env, None)) == "old"
    put = Stored(script.requests[1])
    left_s = 61 + 600 + 10 - 70
    assert (put.cas, put.until, put.value(recipe)) == (9, left_s, "old")
    assert put.header.retry_ms == 75_500
    assert (put.header.created_ms, put.header.ttl_ms) == (int((NOW - 70.5) * 1000), 60_000)
    assert (put.header.stale_if_error_ms, put.header.generations) == (600_000, (5,))
    assert [(fill.stored, fill.reason) for fill in fills] == [(False, "raised")]
    assert [hit.stale for hit in hits] == [True]
    assert recipe.tally.stale == 1


def test_the_time_of_the_run_counts_against_the_rescue() -> None:
    """A value that could have rescued when the run began is too old when it fails."""
    clock = Clock()
    recipe = make_recipe(stale_if_error_s=30.0)
    script = won(recipe, DONE, age_s=80.0)
    script.clock = clock

    def slow() -> Any:
        clock.pass_by(11.0)
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        script.run(call(job(recipe, slow), script.env, None))
    assert script.requests[1].startswith(b"md ")


def test_a_rescued_value_keeps_its_end_on_the_server() -> None:
    """The run took 2.7 s, so there is less left of its time; a part of a second is not counted."""
    recipe = make_recipe(stale_if_error_s=600.0)
    script = won(recipe, DONE, age_s=70.0)

    def slow() -> Any:
        script.clock.pass_by(2.7)
        raise OSError

    assert script.run(call(job(recipe, slow), script.env, None)) == "old"
    put = Stored(script.requests[1])
    assert put.until == 671 - 70 - 2
    assert put.header.retry_ms == 77_700
    assert abs(put.header.hard_s - put.until - 72.7) <= 1.0, "the age that the server will tell"


def test_an_early_refresh_that_fails_keeps_the_value_fresh() -> None:
    """It is within its ttl: nobody gets an exception, whatever stale_if_error says."""
    recipe = make_recipe(beta=1.0)
    script = won(recipe, DONE, age_s=59.0)
    script.env.luck = lambda: 1e9
    assert script.run(call(job(recipe, raising(OSError())), script.env, None)) == "old"
    assert Stored(script.requests[1]).header.ttl_ms == 60_000


def test_the_waiters_of_this_process_are_rescued_too() -> None:
    """They get the old value, each a copy of his own, and not the exception."""
    recipe = make_recipe(stale_s=30.0)
    script = won(recipe, DONE)
    waiting: list[Any] = []

    def compute() -> Any:
        waiting.append(script.env.flights.find(KEY, 9))
        raise OSError

    script.run(call(job(recipe, compute), script.env, None))
    assert waiting[0].landed
    assert recipe.packer.unpack(*waiting[0].payload) == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_an_interrupt_is_never_rescued_but_the_value_is_kept(error: BaseException) -> None:
    """The interrupt is the caller's; the claim goes back, so that the next one may refresh."""
    recipe = make_recipe(stale_s=30.0, stale_if_error_s=600.0)
    script = won(recipe, DONE)
    with pytest.raises(type(error)):
        script.run(call(job(recipe, raising(error)), script.env, None))
    if not isinstance(error, GeneratorExit):  # which may not be answered by another yield
        put = Stored(script.requests[1])
        assert (put.value(recipe), put.header.retry_ms) == ("old", 0)


def test_an_interrupted_run_does_not_tell_how_long_the_function_takes() -> None:
    """Others would think that it takes no time, and take a run over that goes on."""
    recipe = make_recipe()
    recipe.delta_s = 30.0
    script = won(recipe, DONE)
    fills = told(script)
    with pytest.raises(KeyboardInterrupt):
        script.run(call(job(recipe, raising(KeyboardInterrupt())), script.env, None))
    assert recipe.delta_s == 30.0
    assert [(fill.stored, fill.reason) for fill in fills] == [(False, "interrupted")]


def test_a_softly_invalidated_value_that_is_put_back_stays_due() -> None:
    """Storing takes the X off; so the header ends its ttl now, and as much is added to its stale time."""
    recipe = make_recipe(stale_s=30.0)
    script = won(recipe, DONE, age_s=10.0, flag=b" X W")
    with pytest.raises(KeyboardInterrupt):
        script.run(call(job(recipe, raising(KeyboardInterrupt())), script.env, None))
    put = Stored(script.requests[1])
    assert (put.header.ttl_ms, put.header.stale_ms) == (10_000, 80_000)
    again = Script.parse(va(entry(recipe, "old", created=NOW - 10, **put.header._asdict()), t=put.until))[0]
    judgement = recipe.judge(again, (5,), KEY, NOW)
    assert judgement.verdict.name == "DUE"
    assert judgement.servable(79.0)
    assert not judgement.servable(81.0)


def test_a_refresh_by_hand_that_fails_raises_and_keeps_the_value() -> None:
    """refresh() asks for a new value, so it gets no old one; what stands there is nobody's to take away."""
    recipe = make_recipe(stale_s=30.0, stale_if_error_s=600.0)
    script = won(recipe, DONE, age_s=1.0, flag=b"")
    with pytest.raises(OSError, match="down"):
        script.run(refresh(job(recipe, raising(OSError("down"))), script.env))
    assert len(script.requests) == 1
    script = won(recipe, DONE, age_s=1.0, flag=b" X W")
    with pytest.raises(OSError, match="down"):
        script.run(refresh(job(recipe, raising(OSError("down"))), script.env))
    assert Stored(script.requests[1]).value(recipe) == "old", "the W came to him: it goes back, and the value stays"


@pytest.mark.parametrize("skew_s", [0.0, -7200.0])
@pytest.mark.parametrize("ran_s", [0.0, 0.4, 2.7])
def test_no_number_of_put_backs_changes_the_age_of_a_value(ran_s: float, skew_s: float) -> None:
    """A source that is down for long: whoever tries puts the value back, and each time its age stays what it is. Who
    takes it for younger, since his clock is behind, makes it older by a second at most.
    """
    clock, recipe = Clock(), make_recipe(stale_if_error_s=3600.0, throttle_s=5.0)
    made, stored = clock.monotonic, entry(recipe, "old", created=clock.now)
    ticks_to = int(clock.monotonic) + 3671

    def compute() -> None:
        clock.pass_by(ran_s)
        raise OSError

    for _ in range(100):
        clock.pass_by(61.0 if clock.monotonic == made else 5.5)
        clock.now += skew_s
        script = Script(va(stored, t=ticks_to - int(clock.monotonic), more=b" W"), DONE, clock=clock)
        assert script.run(call(job(recipe, compute), script.env, None)) == "old"
        clock.now -= skew_s
        put = Stored(script.requests[1])
        ticks_to, stored = int(clock.monotonic) + put.until, put.again
    reply = Script.parse(va(stored, t=ticks_to - int(clock.monotonic)))[0]
    judgement = recipe.judge(reply, (5,), KEY, clock.now)
    off_s = judgement.age_ms / 1000.0 - (clock.monotonic - made)
    assert -2.0 <= off_s <= (2.0 if skew_s >= 0 else 101.0)


# -- failures that are answers -----------------------------------------------------------------------------------------


def test_a_failure_that_is_an_answer_is_stored_and_raised() -> None:
    """errors=: the exception reaches the caller, and stands there for error_ttl, without any stale time."""
    recipe = make_recipe(errors=(LookupError,), error_ttl_s=7.0, stale_s=30.0, beta=1.0)
    script = Script(LOST, DONE)
    fills = told(script)
    with pytest.raises(NotFound, match="seven"):
        script.run(call(job(recipe, raising(NotFound("seven"))), script.env, None))
    put = Stored(script.requests[1])
    assert (put.cas, put.flags, put.payload[:1]) == (7, ENVELOPED_NOTE, b"E")
    assert (put.header.ttl_ms, put.header.stale_ms, put.header.stale_if_error_ms) == (7_000, 0, 0)
    assert put.until == 8 + 10, "a lease is left to whoever computes it anew"
    assert [(fill.stored, fill.reason) for fill in fills] == [(True, "")]


def test_a_stored_failure_is_raised_again_as_a_hit() -> None:
    """The same type with the same arguments; the function does not run."""
    recipe = make_recipe(errors=(LookupError,), error_ttl_s=7.0)
    first = Script(LOST, DONE)
    with pytest.raises(NotFound):
        first.run(call(job(recipe, raising(NotFound("seven", 7))), first.env, None))
    put = Stored(first.requests[1])
    reply = va(note(recipe, put.payload, created=NOW, ttl=7.0))
    script = Script(reply)
    with pytest.raises(NotFound) as raised:
        script.run(call(job(recipe, never), script.env, None))
    assert raised.value.args == ("seven", 7)
    assert recipe.tally.hits == 1


def test_a_failure_replaces_the_old_value_where_it_is_an_answer() -> None:
    """NotFound is news, and no reason to serve what was found before."""
    recipe = make_recipe(errors=(LookupError,), stale_s=30.0, stale_if_error_s=600.0)
    script = won(recipe, DONE)
    with pytest.raises(NotFound):
        script.run(call(job(recipe, raising(NotFound())), script.env, None))
    assert Stored(script.requests[1]).payload[:1] == b"E"


def test_a_failure_that_is_no_plain_data_leaves_a_pass_marker() -> None:
    """It reaches the caller all the same."""
    recipe = make_recipe(errors=(LookupError,))
    script = Script(LOST, DONE)
    with pytest.raises(NotFound):
        script.run(call(job(recipe, raising(NotFound(object()))), script.env, None))
    assert Stored(script.requests[1]).payload == b"P"


def test_a_stored_failure_that_is_not_known_here_is_garbage() -> None:
    """Another release's errors=: void it, and run."""
    knows, knows_not = make_recipe(errors=(LookupError,)), make_recipe(errors=(OSError,))
    first = Script(LOST, DONE)
    with pytest.raises(NotFound):
        first.run(call(job(knows, raising(NotFound())), first.env, None))
    stored = note(knows, Stored(first.requests[1]).payload, created=NOW)
    script = Script(va(stored), DONE + LOST, DONE)
    assert script.run(call(job(knows_not, lambda: "new"), script.env, None)) == "new"


# -- what can't be stored ----------------------------------------------------------------------------------------------


def _refuses(result: Any) -> bool:
    return False


def _breaks(result: Any) -> bool:
    raise ZeroDivisionError


def _do_not_store() -> int:
    current().do_not_store()
    return 1


@pytest.mark.parametrize(
    ("options", "compute", "reason"),
    [
        ({}, object, "unencodable"),
        ({"max_value_bytes": 1000}, lambda: bytes(2000), "too large"),
        ({"ttl": 0.0}, lambda: 1, "ttl 0"),
        ({"ttl": lambda result: -1}, lambda: 1, "ttl 0"),
        ({"ttl": lambda result: result.missing}, lambda: 1, "no ttl"),
        ({"cache_if": _refuses}, lambda: 1, "cache_if"),
        ({"cache_if": _breaks}, lambda: 1, "cache_if raised"),
        ({}, _do_not_store, "do_not_store"),
    ],
)
def test_a_result_that_can_not_be_stored_leaves_a_pass_marker(
    options: dict[str, Any], compute: Any, reason: str
) -> None:
    """The caller gets his result; whoever waits or comes soon runs at once, and not one behind the other."""
    script, recipe = Script(LOST, DONE), make_recipe(**options)
    fills = told(script)
    value = script.run(call(job(recipe, compute), script.env, None))
    assert type(value) in (int, bytes, object)
    put = Stored(script.requests[1])
    assert (put.cas, put.flags, put.payload) == (7, ENVELOPED_NOTE, b"P")
    assert (put.header.ttl_ms, put.until) == (1000, 2)
    assert fills[0].reason.startswith(reason)
    assert not fills[0].stored


def test_a_pass_marker_lives_as_long_as_two_runs_but_no_longer_than_a_lease() -> None:
    """So the next caller of a slow function still finds it."""
    for ran_s, life_s in ((0.1, 1.0), (3.0, 6.0), (60.0, 10.0)):
        clock = Clock()
        script, recipe = Script(LOST, DONE, clock=clock), make_recipe()

        def slow(clock: Clock = clock, ran_s: float = ran_s) -> object:
            clock.pass_by(ran_s)
            return object()

        script.run(call(job(recipe, slow), script.env, None))
        assert Stored(script.requests[1]).header.ttl_ms == int(life_s * 1000)


def test_a_value_that_the_server_refuses_leaves_a_pass_marker_where_nothing_stands() -> None:
    """It dropped what stood there, and the CAS number with it; so the marker is added, and only where nothing is."""
    script, recipe = Script(LOST, REFUSED, DONE), make_recipe()
    assert script.run(call(job(recipe, lambda: 1), script.env, None)) == 1
    assert b" ME " in script.requests[2].partition(b"\r\n")[0]
    assert b" C7" not in script.requests[2].partition(b"\r\n")[0]


def test_where_the_marker_can_not_be_stored_the_lease_goes_back() -> None:
    """Better a queue than a stub that nobody fills."""
    script, recipe = Script(LOST, Unreachable("down"), DONE), make_recipe()
    script.run(call(job(recipe, object), script.env, None))
    assert [request[:2] for request in script.requests] == [b"mg", b"ms", b"md"]


# -- a pass marker stands there ----------------------------------------------------------------------------------------


def test_at_a_pass_marker_one_runs_and_stores_what_can_be_stored() -> None:
    """PASS: under the marker's CAS, so that the first good result ends the passing."""
    recipe = make_recipe()
    script = Script(va(note(recipe, b"P", created=NOW - 1), cas=9), DONE)
    assert script.run(call(job(recipe, lambda: "good"), script.env, None)) == "good"
    stored = Stored(script.requests[1])
    assert (stored.cas, stored.value(recipe)) == (9, "good")
    assert (recipe.tally.misses, recipe.tally.fills, recipe.tally.unstored) == (1, 1, 0)


@pytest.mark.parametrize(("age_s", "renewed"), [(1.0, False), (4.9, False), (5.1, True)])
def test_a_pass_marker_is_renewed_after_half_its_life(age_s: float, renewed: bool) -> None:
    """Sooner it would be a write for every call; later somebody would wait for it to end."""
    recipe = make_recipe()
    script = Script(va(note(recipe, b"P", created=NOW - age_s), cas=9), DONE)
    script.run(call(job(recipe, object), script.env, None))
    assert len(script.requests) == (2 if renewed else 1)
    if renewed:
        marker = Stored(script.requests[1])
        assert (marker.cas, marker.payload) == (9, b"P")


def test_at_a_pass_marker_the_exception_is_the_callers() -> None:
    """The marker is nobody's lease: there is nothing to give back."""
    recipe = make_recipe()
    script = Script(va(note(recipe, b"P", created=NOW)))
    with pytest.raises(ZeroDivisionError):
        script.run(call(job(recipe, lambda: 1 // 0), script.env, None))
    assert len(script.requests) == 1


def test_who_waits_passes_as_soon_as_the_marker_stands() -> None:
    """The one in front could not store: nobody waits for his successor."""
    recipe = make_recipe()
    script = Script(BUSY, va(note(recipe, b"P", created=NOW)))
    assert script.run(call(job(recipe, object), script.env, None)) is not None
    assert script.log == ["Exchange", "Sleep", "Exchange", "Compute"]


def test_a_pass_marker_past_its_time_is_claimed_like_a_value() -> None:
    """It is due: one runs under its claim, and the old marker rescues nobody."""
    recipe = make_recipe(stale_s=30.0, stale_if_error_s=30.0)
    old = note(recipe, b"P", created=NOW - 10.5)
    script = Script(va(old, t=1), va(old, t=1, cas=10, more=b" W"), DONE)
    with pytest.raises(ZeroDivisionError):
        script.run(call(job(recipe, lambda: 1 // 0), script.env, None))
    assert script.requests[2].startswith(b"md " + KEY + b" C10 ")


# -- what the function says of its result ------------------------------------------------------------------------------


def test_not_modified_keeps_the_old_bytes_under_a_new_freshness() -> None:
    """What is stored is what stood there, byte by byte; what is returned is the value in it."""
    recipe = make_recipe(stale_s=30.0)
    script = won(recipe, DONE)

    def compute() -> str:
        assert current().previous == "old"
        return str(current().not_modified()) + " and something else"

    assert script.run(call(job(recipe, compute), script.env, None)) == "old"
    stored = Stored(script.requests[1])
    assert (stored.cas, stored.value(recipe)) == (9, "old")
    assert (stored.header.created_ms, stored.header.ttl_ms) == (int(NOW * 1000), 60_000)


def test_there_is_no_previous_value_where_nothing_stood() -> None:
    """MISS, and not_modified() has nothing to keep."""
    script, recipe = Script(LOST, DONE), make_recipe()

    def compute() -> Any:
        assert current().previous is MISS
        with pytest.raises(LookupError):
            current().not_modified()
        return "new"

    assert script.run(call(job(recipe, compute), script.env, None)) == "new"


@pytest.mark.parametrize(("ttl", "ttl_ms"), [(5, 5_000), ("2m", 120_000), (None, FOREVER), (lambda n: n, 42_000)])
def test_the_function_may_set_the_ttl_of_its_result(ttl: Any, ttl_ms: int) -> None:
    """current().ttl takes whatever ttl= takes."""
    script, recipe = Script(LOST, DONE), make_recipe()

    def compute() -> int:
        current().ttl = ttl
        return 42

    assert script.run(call(job(recipe, compute), script.env, None)) == 42
    assert Stored(script.requests[1]).header.ttl_ms == ttl_ms
