"""Values and bytes: codecs, the client flags that tell them apart, the envelope, compression.

The way of a value: ``packer`` picks the format and asks a codec (``data``, ``json``, ``text``, ``bytes``, ``int``),
then ``compress``; ``envelope`` puts a header before a cached function's value; ``flags`` says in 32 bits what was
done.
"""

from cachekit.codecs.annotations import Returns, returns_of
from cachekit.codecs.compress import Compression
from cachekit.codecs.envelope import FOREVER, HEAD, Header, fingerprint, open_envelope, seal
from cachekit.codecs.packer import Codec, Packer, resolve
from cachekit.codecs.registry import Registry

__all__ = [
    "FOREVER",
    "HEAD",
    "Codec",
    "Compression",
    "Header",
    "Packer",
    "Registry",
    "Returns",
    "fingerprint",
    "open_envelope",
    "resolve",
    "returns_of",
    "seal",
]
