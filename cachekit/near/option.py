"""``Near``: what ``near=`` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cachekit.errors import ConfigurationError
from cachekit.expiry import SpanLike, parse_span
from cachekit.frozen import Frozen
from cachekit.types import UNSET

_LEAST_BYTES: Final = 65_536
_EXAMPLE: Final = "such as near='1s' or near=Near(ttl='1s', entries=10_000)"


class Near(Frozen):
    """How results are kept in the memory of this process, in front of the servers; a frozen value to name and share.

    A result that was invalidated elsewhere is served from here for at most ``ttl`` longer; what this process
    invalidates itself is gone at once. Functions of one cache that are given equal ``Near`` values share one store, and
    its bounds hold for all of them together.

    Args:
        ttl: a span, from a millisecond to a day, counted from the sending of the request that brought the value.
        entries: how many results at most; 16 384 by default.
        bytes: how much memory they may take in all, keys and bookkeeping included; 32 MiB by default.

    Raises ``ConfigurationError`` without a ttl, and for bounds that mean nothing.

    >>> from cachekit import Near
    >>> Near(ttl="1s", entries=1_000).ttl_s
    1.0
    """

    if TYPE_CHECKING:
        ttl: SpanLike
    else:
        ttl: SpanLike = UNSET  # so that who forgets it is told what it is
    entries: int = 16_384
    bytes: int = 32 << 20

    def __post_init__(self) -> None:
        self.__dict__["ttl_s"] = _ttl_s(self.ttl)
        _check_bound("entries", self.entries, 1, "how many results to keep")
        _check_bound("bytes", self.bytes, _LEAST_BYTES, "how much memory to take, 64 KiB at least")

    @property
    def ttl_s(self) -> float:
        """Seconds for which a result is served from here without asking its server."""
        return self.__dict__["ttl_s"]  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        # By what they mean: Near("1s") and Near(1.0) share one store.
        return type(other) is Near and self._meaning() == other._meaning()

    def __hash__(self) -> int:
        return hash(self._meaning())

    def _meaning(self) -> tuple[float, int, int]:
        return self.ttl_s, self.entries, self.bytes


def near_of(value: Any) -> Near | None:
    """What ``near=value`` means; None: it is off. Raises ``ConfigurationError``."""
    if value is None or value is False:
        return None
    if isinstance(value, Near):
        return value
    if value is True or value is Near:
        raise ConfigurationError(f"near={value!r} has no ttl: say how old a result may get here, {_EXAMPLE}")
    if isinstance(value, (list, dict, set)):
        raise ConfigurationError(f"near={value!r}: a span of time or a Near, {_EXAMPLE}")
    return Near(ttl=value)


def _ttl_s(ttl: Any) -> float:
    if ttl is UNSET:
        raise ConfigurationError(f"Near() needs ttl=: how old a result may get here, {_EXAMPLE}")
    if ttl is None:
        raise ConfigurationError(
            "near ttl=None: for ever is too long, since nobody tells this process of invalidations elsewhere; "
            f"give a span, {_EXAMPLE}"
        )
    ttl_s = parse_span("near ttl", ttl)
    if ttl_s == 0:
        raise ConfigurationError(f"near ttl={ttl!r}: nothing would be kept; near=None turns it off")
    if not 0.001 <= ttl_s <= 86_400:
        raise ConfigurationError(f"near ttl={ttl!r}: from a millisecond to a day, {_EXAMPLE}")
    return ttl_s


def _check_bound(name: str, value: Any, least: int, meaning: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**48:
        raise ConfigurationError(f"near {name}={value!r}: a whole number from {least}, {meaning}")
