"""An exception as plain data, and back: how a function's failure is cached.

Written are the class's module and qualified name, the arguments, and the attributes, through the data codec. Read back
is the same type or nothing: the name is looked up among the classes that the function's policy lists, and their
subclasses that are loaded in this process. Nothing is imported, no pickle is read, and no ``__init__`` of an
application's is run: attributes are put back as they were.
"""

from __future__ import annotations

from typing import Any, Final

from cachekit.codecs.data import DataCodec
from cachekit.codecs.registry import Registry
from cachekit.errors import DecodeError

_CODEC: Final = DataCodec(Registry(), None)


def encode_failure(error: BaseException) -> bytes:
    """The bytes of ``error``. Raises ``UnencodableError`` where its arguments or attributes are no plain data."""
    kind = type(error)
    # An OSError's args leave its file out; what pickle would take does not.
    arguments = OSError.__reduce__(error)[1] if isinstance(error, OSError) else error.args
    return _CODEC.encode([kind.__module__, kind.__qualname__, list(arguments), dict(error.__dict__)])


def decode_failure(payload: bytes, known: tuple[type[Exception], ...]) -> Exception:
    """The exception in ``payload``: an instance of one of the ``known`` classes or of a subclass of theirs.

    Raises ``DecodeError`` for bytes that say anything else.
    """
    match _CODEC.decode(payload):
        case [str(module), str(name), list(arguments), dict(attributes)]:
            pass
        case _:
            raise DecodeError("a cached failure that is none")
    kind = _find(module, name, known)
    if kind is None:
        raise DecodeError("a cached failure of a class that this function's errors= does not know here")
    return _rebuilt(kind, arguments, attributes)


def _find(module: str, name: str, known: tuple[type[Exception], ...]) -> type[Exception] | None:
    """The class of that name among ``known`` and what derives from them."""
    waiting, seen = list(known), set(known)
    while waiting:
        kind = waiting.pop()
        if (kind.__module__, kind.__qualname__) == (module, name):
            return kind
        new = [each for each in type.__subclasses__(kind) if each not in seen]
        seen.update(new)
        waiting += new
    return None


def _rebuilt(kind: type[Exception], arguments: list[Any], attributes: dict[str, Any]) -> Exception:
    try:
        error = kind.__new__(kind, *arguments)
        # What the interpreter keeps beside args (OSError's errno, UnicodeDecodeError's positions) only its own
        # initializer sets.
        builtin: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
        if builtin in (Exception, BaseException):
            error.args = tuple(arguments)
        else:
            builtin.__init__(error, *arguments)
    except Exception as trouble:
        raise DecodeError(f"a cached {kind.__qualname__} could not be built again") from trouble
    error.__dict__.update(attributes)
    return error
