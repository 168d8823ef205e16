"""For your own tests: a clock that only you move, caches of their own, and the cache of your application set apart.

>>> from cachekit import MISS
>>> from cachekit.testing import ManualClock, make_cache
>>> clock = ManualClock()
>>> cache = make_cache(clock)
>>> @cache(ttl="5m")
... def square(n: int) -> int:
...     return n * n
>>> square(3), square.peek(3)
(9, 9)
>>> clock.advance("5m")
>>> square.peek(3)
MISS

Nothing here needs pytest; fixtures for it are in ``cachekit.testing.plugin``.
"""

from cachekit.testing.clock import ManualClock
from cachekit.testing.isolation import isolated, make_cache

__all__ = ["ManualClock", "isolated", "make_cache"]
