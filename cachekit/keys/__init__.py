"""Arguments become a key.

::

    report(42, month="2026-11")  ->  b"shop:app.report:K1r…"      prefix : namespace : function : digest

Memcached sees one flat string, so everything that makes two calls different must be in it, and nothing else. The digest
is 18 bytes of BLAKE2b (RFC 7693) over the whole identity: prefix, namespace, function, version, the parameters' names
and kinds, and the arguments. What stands before it is for the person who lists a server.

The work is done once, at decoration. ``compile_keys`` generates a function with the signature of the user's own, so
that the interpreter binds the arguments, and fills its body in with what is known by then. Two encoders follow:

- *plain* (``plain.py``): every argument, at every depth, is exactly None, bool, int, float, complex, str, bytes, tuple
  or list. ``marshal`` version 2 writes those typed, length-prefixed, without references, at the speed of C.
- *careful* (``canonical.py``): anything else. Slower, and it refuses what has no identity.

One value always takes the same path: which one is decided by its types, depth and NaNs alone. The two paths use
BLAKE2b under different ``person=`` parameters, so they can't meet in one digest. The reading order of the package is
``compile`` (the story), ``plain``, ``canonical`` and its three neighbours ``values``, ``records``, ``arrays``, then
``naming``, ``template``, ``readable`` and ``wire``. Only ``wire``, which the direct verbs need too, is loaded with the
package: ``compile`` brings ``inspect`` and OpenSSL's hashes along, 10 ms, and is loaded at the first decoration.
"""

from __future__ import annotations

from cachekit.keys.wire import MAX_KEY_BYTES, check_prefix, wire_key, wire_keys

__all__ = ["MAX_KEY_BYTES", "check_prefix", "wire_key", "wire_keys"]
