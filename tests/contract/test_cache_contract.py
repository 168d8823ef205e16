"""What the direct verbs of a cache promise, whatever the servers are."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from typing import Any

import pytest
from support.targets import Make

from cachekit import MISS, Cache, ConfigurationError, Key, Policy, Refused, RequestError, UnencodableError
from cachekit.hooks import Trouble

MIB = 1 << 20

# -- get, set, delete -------------------------------------------------------------------------------------------------


def test_what_is_set_is_read_and_what_is_deleted_is_gone(make: Make) -> None:
    """set, get and delete mean what they mean everywhere; delete says whether anything was there."""
    cache = make()
    assert cache.set("k", {"a": (1, 2)}) is True
    assert cache.get("k") == {"a": (1, 2)}
    assert cache.delete("k") is True
    assert cache.delete("k") is False
    assert cache.get("k") is None


def test_a_stored_none_is_no_miss(make: Make) -> None:
    """None is a value; with MISS as the default it can be told from nothing, by every reading verb."""
    cache = make()
    assert cache.get("k", MISS) is MISS
    assert cache.gets("k", MISS) == (MISS, None)
    cache.set("k", None)
    assert cache.get("k", MISS) is None
    value, token = cache.gets("k", MISS)
    assert value is None
    assert token is not None
    assert cache.get_many(["k", "absent"]) == {"k": None}


@pytest.mark.parametrize(
    "value", ["", b"", 0, False, [], {}, (), 0.0, -1, 2**64, "é\u20ac", b"\r\nEND\r\n", "VALUE a 0 1"]
)
def test_values_keep_their_type_and_content(make: Make, value: Any) -> None:
    """Nothing that is stored comes back as something else, be it empty or a piece of the protocol."""
    cache = make()
    assert cache.set("k", value)
    for found in (cache.get("k", MISS), cache.gets("k", MISS)[0], cache.get_many(["k"])["k"]):
        assert found == value
        assert type(found) is type(value)


def test_a_value_read_is_the_readers_own(make: Make) -> None:
    """Changing what was stored or read changes nothing in the cache."""
    cache = make()
    stored = {"list": [1]}
    cache.set("k", stored)
    stored["list"].append(2)
    cache.get("k")["list"].append(3)
    assert cache.get("k") == {"list": [1]}


@pytest.mark.parametrize("ttl", [60, 0.5, 90.0, "5m", "1h30m", timedelta(seconds=5), None, 31 * 86_400, "400d"])
def test_every_form_of_a_ttl_stores(make: Make, ttl: Any) -> None:
    """Ttl takes seconds, text, timedelta and None; beyond 30 days a value is readable too, not expired at once."""
    cache = make()
    assert cache.set("k", 1, ttl=ttl)
    assert cache.get("k") == 1
    assert cache.set_many({"a": 1, "b": 2}, ttl=ttl) == []
    assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
    assert cache.touch("k", ttl=ttl)
    assert cache.get("k") == 1


@pytest.mark.parametrize("ttl", [-1, -0.5, "-5m", "soon", float("nan"), timedelta(seconds=-1), "5 parsecs", True, b"5"])
def test_a_senseless_ttl_is_the_callers_error(make: Make, ttl: Any) -> None:
    """A negative ttl, or nonsense, is refused before anything is sent."""
    cache = make()
    cache.set("k", 1)
    for verb in (cache.set, cache.add, cache.replace):
        with pytest.raises(ConfigurationError):
            verb("k", 2, ttl=ttl)
    with pytest.raises(ConfigurationError):
        cache.touch("k", ttl=ttl)
    with pytest.raises(ConfigurationError):
        cache.set_many({"k": 2}, ttl=ttl)
    with pytest.raises(ConfigurationError):
        cache.get_or_set("k", lambda: 2, ttl=ttl)
    assert cache.get("k") == 1


def test_a_ttl_of_zero_stores_nothing_and_leaves_nothing(make: Make) -> None:
    """After set with ttl=0 neither the old value nor the new one can be read."""
    cache = make()
    cache.set("k", "old")
    assert cache.set("k", "new", ttl=0) is True
    assert cache.get("k", MISS) is MISS
    cache.set("k", "old")
    assert cache.set_many({"k": "new", "other": "new"}, ttl=0) == []
    assert cache.get_many(["k", "other"]) == {}
    cache.set("k", "old")
    assert cache.touch("k", ttl=0) is True
    assert cache.get("k", MISS) is MISS


def test_a_ttl_of_zero_does_not_unsay_a_condition(make: Make) -> None:
    """add, replace and cas with ttl=0 touch the stored value only where they would have stored."""
    cache = make()
    cache.set("k", "old")
    token = cache.gets("k")[1]
    assert token is not None
    cache.set("k", "newer")
    assert cache.add("k", "x", ttl=0) is False
    assert cache.cas("k", "x", token, ttl=0) is False
    assert cache.get("k") == "newer"
    assert cache.replace("absent", "x", ttl=0) is False
    assert cache.replace("k", "x", ttl=0) is True
    assert cache.get("k", MISS) is MISS


def test_a_ttl_may_be_a_function_of_the_value(make: Make) -> None:
    """A callable ttl sees the value that is stored, in every verb that stores one."""
    cache = make()
    seen: list[object] = []

    def ttl(value: object) -> int:
        seen.append(value)
        return 0 if value == "never" else 60

    assert cache.set("a", "stay", ttl=ttl)
    assert cache.set("b", "never", ttl=ttl)
    assert cache.set_many({"c": "stay", "d": "never"}, ttl=ttl) == []
    assert cache.get_or_set("e", lambda: "never", ttl=ttl) == "never"
    assert seen == ["stay", "never", "stay", "never", "never"]
    assert cache.get_many(list("abcde")) == {"a": "stay", "c": "stay"}


def test_the_caches_policy_gives_the_ttl_of_direct_verbs(make: Make) -> None:
    """Where no ttl is given, the cache's policy says it."""
    cache = make(policy=Policy(ttl=0))
    assert cache.set("k", 1)
    assert cache.get("k", MISS) is MISS
    assert cache.set("k", 1, ttl=5)
    assert cache.get("k") == 1


# -- conditions -------------------------------------------------------------------------------------------------------


def test_add_and_replace_heed_what_is_there(make: Make) -> None:
    """Add stores over nothing, replace over something."""
    cache = make()
    assert cache.replace("k", 1) is False
    assert cache.add("k", 2) is True
    assert cache.add("k", 3) is False
    assert cache.replace("k", 4) is True
    assert cache.get("k") == 4


def test_touch_needs_something_to_touch(make: Make) -> None:
    """Touch says whether there was anything."""
    cache = make()
    assert cache.touch("k", ttl=60) is False
    cache.set("k", 1)
    assert cache.touch("k", ttl=60) is True
    assert cache.touch("k") is True


def test_cas_stores_only_over_what_was_read(make: Make) -> None:
    """A token is good until the value changes or goes, and one store spends it."""
    cache = make()
    cache.set("k", "a")
    value, token = cache.gets("k")
    assert value == "a"
    assert token is not None
    assert cache.cas("k", "b", token) is True
    assert cache.cas("k", "c", token) is False
    assert cache.get("k") == "b"
    _, token = cache.gets("k")
    assert token is not None
    cache.delete("k")
    assert cache.cas("k", "d", token) is False
    assert cache.get("k", MISS) is MISS


@pytest.mark.parametrize("token", [0, -1, 2**64, "1", b"1", None, 1.0, True, "1 T0\r\nflush_all"])
def test_a_senseless_cas_token_is_refused(make: Make, token: Any) -> None:
    """No user's byte reaches the wire as a token."""
    cache = make()
    with pytest.raises(RequestError):
        cache.cas("k", 1, token)


# -- counters ---------------------------------------------------------------------------------------------------------


def test_counters(make: Make) -> None:
    """Numbers are counted on the server: not below 0, round at 2**64, and get reads them at any time."""
    cache = make()
    assert cache.incr("n") is None
    assert cache.incr("n", 5, initial=10) == 10
    assert cache.incr("n", 5, initial=10) == 15
    assert cache.decr("n", 6) == 9
    assert cache.get("n") == 9
    assert cache.decr("n", 100) == 0
    assert cache.get("n") == 0
    cache.set("n", 2**64 - 1)
    assert cache.incr("n", 2) == 1
    assert cache.decr("m", initial=3) == 3


@pytest.mark.parametrize("delta", [-1, 2**64, 1.0, "1", None, True, "1\r\nflush_all"])
def test_a_senseless_step_is_refused(make: Make, delta: Any) -> None:
    """A step or first number that the server can't take is the caller's error."""
    cache = make()
    with pytest.raises(RequestError):
        cache.incr("n", delta)
    if delta is not None:
        with pytest.raises(RequestError):
            cache.decr("n", 1, initial=delta)
    assert cache.get("n", MISS) is MISS


def test_counting_what_is_no_number_is_refused_and_costs_nothing_else(make: Make) -> None:
    """The server's CLIENT_ERROR is counted as trouble, and the next verbs work."""
    cache = make()
    troubles: list[Trouble] = []
    cache.hooks.on_trouble(troubles.append)
    cache.set("k", "text")
    for _ in range(3):
        assert cache.incr("k") is None
        assert cache.set("other", 1) is True
        assert cache.get("k") == "text"
    assert [type(trouble.error) for trouble in troubles] == [Refused] * 3
    assert cache.stats().direct.errors == 3
    strict = make(prefix=cache.prefix, on_error="raise")
    strict.set("k", "text")
    with pytest.raises(Refused):
        strict.incr("k")


# -- many keys --------------------------------------------------------------------------------------------------------


def test_hundreds_of_keys_at_once(make: Make) -> None:
    """The many-key verbs do for 700 keys what the single ones do for one: every value under its own key."""
    cache = make()
    values = {f"key-{n}": {"n": n, "text": "x" * (n % 300)} for n in range(700)}
    assert cache.get_many(values) == {}
    assert cache.set_many(values) == []
    assert cache.get_many([*values, "absent"]) == values
    assert cache.get_many(iter(values)) == values
    assert cache.delete_many([*list(values)[:300], "absent"]) == []
    assert set(cache.get_many(values)) == set(list(values)[300:])
    assert cache.get_many([]) == {}
    assert cache.set_many({}) == []
    assert cache.delete_many([]) == []


def test_values_of_every_size(make: Make) -> None:
    """From nothing to a MiB, alone and many at once: each value comes back whole."""
    cache = make()
    sizes = [0, 1, 2, 59, 60, 61, 1000, 1460, 4096, 32_767, 32_768, 32_769, 65_000, 65_536, 65_537, 131_072, 300_000]
    values = {f"size-{size}": random.Random(size).randbytes(size) for size in [*sizes, MIB - 400]}
    for key, value in values.items():
        assert cache.set(key, value), key
        assert cache.get(key) == value, key
        assert cache.gets(key)[0] == value, key
    assert cache.delete_many(values) == []
    assert cache.set_many(values) == []
    found = cache.get_many(values)
    assert {key for key in values if found.get(key) != values[key]} == set()


def test_a_value_over_the_limit_takes_the_old_one_with_it(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """What can't be stored is said (False, the key in set_many's list, one warning), and the old value is gone."""
    cache = make()
    huge = os.urandom(MIB + 1)
    cache.set("k", "old")
    assert cache.set("k", huge) is False
    assert cache.get("k", MISS) is MISS
    assert [record.levelname for record in caplog.records if record.name == "cachekit"].count("WARNING") == 1
    assert str(len(huge)) in caplog.text
    cache.set("k", "old")
    assert cache.set_many({"k": huge, "other": 1}) == ["k"]
    assert cache.get_many(["k", "other"]) == {"other": 1}
    # Within our limit, over the server's: item header and key count there.
    cache.set("k", "old")
    assert cache.set("k", os.urandom(MIB - 10)) is False
    assert cache.get("k", MISS) is MISS


def test_a_value_that_no_codec_carries(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Such a value is not stored, said so, and nothing old stays; with on_error="raise" the caller handles it."""
    cache = make()
    cache.set("k", "old")
    assert cache.set("k", object()) is False
    assert "object" in caplog.text
    assert cache.get("k", MISS) is MISS
    cache.set("k", "old")
    assert cache.set_many({"k": object(), "other": 1}) == ["k"]
    assert cache.get_many(["k", "other"]) == {"other": 1}
    strict = make(on_error="raise")
    with pytest.raises(UnencodableError):
        strict.set("k", object())


# -- get_or_set -------------------------------------------------------------------------------------------------------


def test_get_or_set_computes_once(make: Make) -> None:
    """get_or_set runs its function where nothing is stored, and what it stores is plain: get reads it."""
    cache = make()
    runs: list[int] = []

    def compute() -> dict[str, int] | None:
        runs.append(1)
        return {"runs": len(runs)}

    assert cache.get_or_set("k", compute) == {"runs": 1}
    assert cache.get_or_set("k", compute) == {"runs": 1}
    assert cache.get("k") == {"runs": 1}
    cache.delete("k")
    assert cache.get_or_set("k", compute, ttl="5m") == {"runs": 2}
    cache.set("k", None)
    assert cache.get_or_set("k", compute) is None


@pytest.mark.parametrize("value", ["", b"", None, 0])
def test_get_or_set_keeps_empty_values(make: Make, value: Any) -> None:
    """An empty value is a value and no stub."""
    cache = make()
    assert cache.get_or_set("k", lambda: value) == value
    assert cache.get_or_set("k", lambda: "again") == value


def test_get_or_set_leaves_no_lease_behind_when_its_function_raises(make: Make) -> None:
    """The exception reaches the caller, and the next one runs at once."""
    cache = make()
    with pytest.raises(KeyError, match="mine"):
        cache.get_or_set("k", lambda: {"theirs": 1}["mine"])
    assert cache.get("k", MISS) is MISS
    assert cache.add("k", 1) is True


def test_a_functions_entry_is_no_plain_value(make: Make) -> None:
    """Direct reads can't know whether invalidate_all has voided a function's entry, and so don't give it out; without
    a generation they give its value. get_or_set never gives the raw entry.
    """
    cache = make()

    @cache(ttl=60)
    def double(text: bytes) -> bytes:
        return text * 2

    @cache(ttl=60, policy=Policy(group=False))
    def alone(text: bytes) -> bytes:
        return text * 2

    for function, seen in ((double, MISS), (alone, b"aa")):
        assert function(b"a") == b"aa"
        key = function.key(b"a")
        assert cache.get(key, MISS) == seen
        assert cache.gets(key, MISS)[0] == seen
        assert cache.get_many([key]).get(key, MISS) == seen
        assert cache.get_or_set(key, lambda: b"new") in (b"aa", b"new")


# -- keys -------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "",
    " ",
    "a b",
    "a\r\nflush_all",
    "a\nset x 0 0 1",
    "a\x00",
    "a\t",
    "é",
    "a" * 251,
    "\x7f",
    "a\u2028b",
    b"bytes",
    7,
    None,
    ("a",),
]


@pytest.mark.parametrize("key", HOSTILE, ids=repr)
def test_hostile_keys_are_refused_by_every_verb(make: Make, key: Any) -> None:
    """A key that Memcached would refuse or read as a command is a RequestError, and nothing is sent."""
    cache = make()
    cache.set("witness", 1)
    verbs: list[Any] = [cache.get, cache.gets, cache.delete, cache.touch, cache.incr, cache.decr]
    for verb in verbs:
        with pytest.raises(RequestError):
            verb(key)
    for verb in (cache.set, cache.add, cache.replace):
        with pytest.raises(RequestError):
            verb(key, 1)
    with pytest.raises(RequestError):
        cache.cas(key, 1, 1)
    for many in (cache.get_many, cache.delete_many):
        with pytest.raises(RequestError):
            many(["fine", key])
    with pytest.raises(RequestError):
        cache.set_many({"fine": 1, key: 1})
    with pytest.raises(RequestError):
        cache.get_or_set(key, lambda: 1)
    assert cache.get_many(["witness", "fine"]) == {"witness": 1}


def test_the_prefix_counts_and_a_key_is_taken_as_it_is(make: Make) -> None:
    """Strings get the prefix, a Key does not; the limit of 250 bytes holds with the prefix."""
    cache = make(prefix="app")
    other = make(prefix="other" + cache.prefix)
    cache.set("k", 1)
    assert cache.get(Key("app:k")) == 1
    assert cache.get(Key("k"), MISS) is MISS
    assert other.get("k", MISS) is MISS
    assert cache.get_many([Key("app:k")]) == {"app:k": 1}
    longest = "x" * (250 - len("app:"))
    assert cache.set(longest, 1)
    assert cache.get(longest) == 1
    with pytest.raises(RequestError):
        cache.set(longest + "x", 1)
    assert cache.set(Key("x" * 250), 1)
    cache.delete_many([Key("app:k"), longest, Key("x" * 250)])


def test_counts_of_direct_verbs(make: Make) -> None:
    """stats() counts hits and misses of the direct verbs, and names the servers."""
    cache = make()
    cache.set("k", 1)
    cache.get("k")
    cache.get("absent")
    cache.get_many(["k", "absent"])
    cache.gets("k")
    direct = cache.stats().direct
    assert (direct.hits, direct.misses, direct.errors) == (3, 2, 0)
    assert all(cache.stats().servers.values())


def test_a_cache_works_again_after_close(make: Make) -> None:
    """close() is idempotent, and a later use opens connections again."""
    with make() as cache:
        cache.set("k", 1)
    cache.close()
    cache.close()
    assert cache.get("k") == 1


@pytest.mark.parametrize(
    "url",
    ["mem:", "memcached://", "memcached://h:0", "memcached://h:x", "http://h", "memcached://h?tll=5", "", "a b", []],
)
def test_a_bad_url_is_refused_when_the_cache_is_made(url: Any) -> None:
    """A URL that can't mean anything is an error at once, and not a cache that never hits."""
    with pytest.raises(ConfigurationError):
        Cache(url)


@pytest.mark.parametrize(
    "options", [{"on_error": "ignore"}, {"prefix": "a b"}, {"prefix": "a:b"}, {"policy": {"ttl": 5}}]
)
def test_bad_options_of_a_cache_are_refused(options: dict[str, Any]) -> None:
    """So are options of a cache that can't mean anything."""
    with pytest.raises(ConfigurationError):
        Cache("memory:", **options)
    with pytest.raises(ConfigurationError, match="Cache takes no time_to_live=; it takes url, prefix, "):
        Cache("memory:", time_to_live=5)  # type: ignore[arg-type]
