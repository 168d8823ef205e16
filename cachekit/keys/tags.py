"""Tags and namespaces: what they may be, and the records that stand behind them on every server.

A tag is text that entries bear, such as ``user:42``; to invalidate it voids all of them, however many. Behind each tag,
each namespace and each function there is an empty record on every server. The CAS number of the record is the
*generation*: entries carry the number that they were computed under, and hold while the record on their own server has
that number still. To bump the record is to delete it; whoever asks next makes it anew, under a higher number.

Tags belong to the prefix of a cache, not to a namespace. A record's key is readable where the text is::

    shop:tag=user:42            shop:tag~caf%C3%A9:x3K…         shop:namespace=fr
"""

from __future__ import annotations

import re
import warnings
from binascii import b2a_base64
from collections.abc import Iterable
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from cachekit.errors import ConfigurationError
from cachekit.keys.readable import URL_SAFE, printable, shorten

MAX_TAGS: Final = 128
"""Most tags on one entry: every hit asks for the generation of each."""

_READABLE = re.compile(r"[!-$&-~]{1,100}").fullmatch
_FIELD = re.compile(r"\{[A-Za-z_][\w.\[\]]*\}").search
_TEXTS = frozenset({int, bool, float, type(None), date, datetime, time, Decimal})


@lru_cache(4096)
def tag_key(prefix: bytes, tag: str) -> bytes:
    """The wire key of the record behind ``tag``. ``prefix``: the cache's, without its colon.

    Raises ``ConfigurationError`` for what is no tag.
    """
    return _record(prefix, "tag", checked_tag(tag))


def namespace_key(prefix: bytes, namespace: str) -> bytes:
    """The wire key of the record behind ``namespace``. Raises ``ConfigurationError`` for what is none."""
    if not isinstance(namespace, str):
        raise ConfigurationError(f"a namespace is text, not {type(namespace).__name__} ({namespace!r:.60})")
    if not namespace:
        raise ConfigurationError("a namespace can't be empty: it would stand for nothing")
    return _namespace_key(prefix, str.__str__(namespace))


@lru_cache(256)
def _namespace_key(prefix: bytes, namespace: str) -> bytes:
    return _record(prefix, "namespace", namespace)


def _record(prefix: bytes, kind: str, text: str) -> bytes:
    head = prefix + b":" if prefix else b""
    if _READABLE(text):
        return head + f"{kind}={text}".encode()
    raw = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=18, person=b"cachekit.group").digest()
    shown = shorten(printable(text), 72)
    return head + f"{kind}~{shown}:".encode() + b2a_base64(raw, newline=False).translate(URL_SAFE)


def checked_tag(tag: Any) -> str:
    """``tag``, which is text and not empty. Raises ``ConfigurationError``."""
    if not isinstance(tag, str):
        apart = "; give several one by one: *tags" if isinstance(tag, list | tuple | set | frozenset) else ""
        raise ConfigurationError(f"a tag is text, not {type(tag).__name__} ({tag!r:.60}){apart}")
    if not tag:
        raise ConfigurationError("a tag can't be empty: it would stand for nothing")
    return str.__str__(tag)  # a text that is a member of an Enum shows something else


def checked_tags(tags: Iterable[Any]) -> tuple[str, ...]:
    """``tags``, each once. Raises ``ConfigurationError`` for what is no tag, and for more than 128."""
    if isinstance(tags, str | bytes | bytearray) or not isinstance(tags, Iterable):
        raise ConfigurationError(f"tags are a list of texts, such as ['user:42'], not {tags!r:.60}")
    found = tuple(dict.fromkeys(map(checked_tag, tags)))
    if len(found) > MAX_TAGS:
        raise ConfigurationError(
            f"{len(found)} tags on one entry; at most {MAX_TAGS}, since every hit asks for each: "
            "tag by something coarser"
        )
    return found


def listed(tags: Any) -> Any:
    """What a user gives as tags, where one text stands for itself."""
    return (tags,) if isinstance(tags, str) else tags


def warn_of_templates(tags: Iterable[Any], stacklevel: int = 2) -> None:
    """Warn where one of ``tags`` looks like a template that nobody has filled in. Not refused: an argument's own text
    may have braces in it, and what bears such a tag must stay within reach.
    """
    if any("{" in tag and _FIELD(tag) for tag in tags if isinstance(tag, str)):
        warnings.warn(  # always the same text: Python remembers each one that it has shown
            "a tag is taken as it stands, {braces} included: only the decorators fill in templates. Was an f-string "
            "meant?",
            UserWarning,
            stacklevel + 1,
        )


def tag_keys(prefix: bytes, tags: Iterable[Any]) -> tuple[bytes, ...]:
    """The wire keys of the records behind ``tags``, each once, in an order that does not depend on theirs: a set has
    another one in each process. One text stands for itself. Raises ``ConfigurationError``.
    """
    tags = listed(tags)
    if type(tags) in (list, tuple):
        with suppress(TypeError):  # what can't be hashed is no tag, which is said below
            return _tag_keys(prefix, tuple(tags))
    return _tag_keys(prefix, checked_tags(tags))


@lru_cache(1024)
def _tag_keys(prefix: bytes, tags: tuple[Any, ...]) -> tuple[bytes, ...]:
    return tuple(sorted([tag_key(prefix, tag) for tag in checked_tags(tags)]))


def text_of(value: Any, field: str) -> str:
    """What stands for an argument in a tag. Raises ``ConfigurationError`` for values whose text might differ from one
    process to the next: such a tag would never be met by the one who invalidates it.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Enum):
        return text_of(value.value, field)
    if type(value) in _TEXTS or type(value).__module__ == "uuid":
        return str(value)
    raise ConfigurationError(
        f"{{{field}}} in tags= is a {type(value).__name__}, which has no text of its own; name what tells it apart, "
        f"such as {{{field}.id}}, or give tags= a function of the arguments"
    )
