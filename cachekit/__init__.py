"""cachekit: a decorator and a client for caches on a ring of Memcached servers.

>>> from cachekit import Cache
>>> cache = Cache("memory:")
>>> @cache(ttl="5m")
... def square(n: int) -> int:
...     return n * n
>>> square(12)
144
"""

from typing import TYPE_CHECKING, Any

from cachekit.cache import Cache
from cachekit.current import Current, current
from cachekit.errors import (
    CacheError,
    CodecError,
    ConfigurationError,
    DeadlineExceeded,
    DecodeError,
    ProtocolError,
    Refused,
    RequestError,
    ServerError,
    TooLarge,
    UnencodableError,
    UnkeyableError,
    Unreachable,
)
from cachekit.function import CachedFunction, Call
from cachekit.policy import Policy
from cachekit.servers import Server, Tls
from cachekit.tally import Info, Stats
from cachekit.types import MISS, Key, Miss

if TYPE_CHECKING:
    from cachekit.async_batch import AsyncBatchFunction
    from cachekit.async_function import AsyncCachedFunction, AsyncCall
    from cachekit.batch import BatchFunction
    from cachekit.flows.look import Explanation
    from cachekit.near.option import Near

__version__ = "0.1.0"

__all__ = [
    "MISS",
    "AsyncBatchFunction",
    "AsyncCachedFunction",
    "AsyncCall",
    "BatchFunction",
    "Cache",
    "CacheError",
    "CachedFunction",
    "Call",
    "CodecError",
    "ConfigurationError",
    "Current",
    "DeadlineExceeded",
    "DecodeError",
    "Explanation",
    "Info",
    "Key",
    "Miss",
    "Near",
    "Policy",
    "ProtocolError",
    "Refused",
    "RequestError",
    "Server",
    "ServerError",
    "Stats",
    "Tls",
    "TooLarge",
    "UnencodableError",
    "UnkeyableError",
    "Unreachable",
    "__version__",
    "current",
]


_WHERE = {
    "Explanation": "flows.look",
    "AsyncBatchFunction": "async_batch",
    "AsyncCachedFunction": "async_function",
    "AsyncCall": "async_function",
    "BatchFunction": "batch",
    "Near": "near.option",
}
"""Names that few programs need, and the modules that hold them."""


def __getattr__(name: str) -> Any:
    """What few programs name is loaded when one does."""
    if name in _WHERE:
        from importlib import import_module  # noqa: PLC0415

        return getattr(import_module(f"cachekit.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'cachekit' has no attribute {name!r}")
