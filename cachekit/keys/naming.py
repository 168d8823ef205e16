"""Names that stay the same: how a class, a function or a module is called in a key.

A name serves as an identity only if it leads back to the object. ``<locals>`` classes, lambdas and two classes made
under one name don't qualify: they would share entries, so they are refused.
"""

from __future__ import annotations

import os
import sys

from cachekit.errors import UnkeyableError

_MAIN = ("__main__", "__mp_main__")


def module_name(name: str) -> str:
    """Return the name by which other processes import the module.

    ``__main__`` (and ``__mp_main__``, as multiprocessing's children call it) resolves through ``__spec__`` or the
    file's name, so that a script and the worker that imports it share entries. In an interactive session it stays
    ``__main__``.
    """
    if name not in _MAIN:
        return name
    main = sys.modules.get(name)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in _MAIN:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"


def named(thing: object) -> tuple[str, str]:
    """Return module and qualified name of a class or function that can be found under them.

    Raises ``UnkeyableError`` where the name does not lead back to the very same object.
    """
    module = getattr(thing, "__module__", None)
    qualname = getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str):
        raise UnkeyableError("has no name", type_name=type(thing).__qualname__)
    if "<" in qualname:
        raise UnkeyableError(
            f"is {qualname}: a lambda, or what is made inside a function, has no name of its own; "
            "move it to the top of its module, under a name",
            type_name=qualname,
        )
    if _lookup(module, qualname) is not thing:
        raise UnkeyableError(
            f"is {module}.{qualname}, but that name leads to something else, or nowhere", type_name=qualname
        )
    return module_name(_public(module, qualname, thing)), qualname


def _lookup(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _public(module: str, qualname: str, thing: object) -> str:
    """Drop private ends of a standard module's name: 3.13's pathlib._local.Path is everyone else's pathlib.Path."""
    while True:
        parent, _, last = module.rpartition(".")
        if not parent or not last.startswith("_") or module.partition(".")[0] not in sys.stdlib_module_names:
            return module
        if _lookup(parent, qualname) is not thing:
            return module
        module = parent
