"""pylibmc: libmemcached in C, text protocol (its default)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.adapters.base import Adapter, Function, library
from benchmarks.raw import decorated_key

pylibmc = library("pylibmc")


class Pylibmc(Adapter):
    name = "pylibmc"
    thread_safe = False

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        behaviors: dict[str, Any] = {"tcp_nodelay": True}
        if timeout_s is not None:
            micros = int(timeout_s * 1e6)
            behaviors |= {"send_timeout": micros, "receive_timeout": micros}
            behaviors |= {"connect_timeout": int(timeout_s * 1e3), "_poll_timeout": int(timeout_s * 1e3)}
        self.client = client = pylibmc.Client(list(addresses), behaviors=behaviors)
        self.get, self.set, self.delete = client.get, client.set, client.delete
        self.get_many, self.set_many = client.get_multi, client.set_multi

    def set_for(self, key: str, value: bytes, ttl_s: int) -> Any:
        return self.client.set(key, value, time=ttl_s)

    def decorate(self, function: Function) -> Function:
        """By hand, with the pickling that pylibmc itself does in C."""
        get, put, ttl_s = self.client.get, self.client.set, self.ttl_s

        def wrapper(*args: object, **kwargs: object) -> Any:
            key = decorated_key(args, kwargs)
            found = get(key)
            if found is not None:
                return found
            result = function(*args, **kwargs)
            put(key, result, ttl_s)
            return result

        return wrapper

    def close(self) -> None:
        self.client.disconnect_all()


ADAPTERS = (Pylibmc,)
