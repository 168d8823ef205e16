"""What each option of a policy may be, and which of them contradict one another."""

from __future__ import annotations

from typing import Any, Final

from cachekit.codecs import Registry, resolve
from cachekit.errors import ConfigurationError
from cachekit.expiry import Schedule, is_coroutine_function, parse_span, parse_ttl
from cachekit.types import UNSET


def _check_codec(name: str, value: Any) -> None:
    if value is not None:
        resolve(value, registry=Registry())


def _check_jitter(name: str, value: Any) -> None:
    if not (_is_number(value) and 0 <= value < 1):
        raise ConfigurationError(f"jitter={value!r}: a number from 0 to below 1, the share of the ttl to vary by")


def _check_beta(name: str, value: Any) -> None:
    if value is not None and not (_is_number(value) and 0 <= value < 1000):
        raise ConfigurationError(f"beta={value!r}: a number from 0 (never early) to below 1000; 1 is usual")


def _check_lease(name: str, value: Any) -> None:
    if not 1 <= parse_span(name, value) <= 86_400:
        raise ConfigurationError(f"lease={value!r}: from 1 s to a day")


def _check_refresh(name: str, value: Any) -> None:
    if value not in ("inline", "background"):
        raise ConfigurationError(f"refresh={value!r}: 'inline' or 'background'")


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={value!r}: True or False")


def _check_cache_if(name: str, value: Any) -> None:
    if value is not None and (not callable(value) or is_coroutine_function(value)):
        raise ConfigurationError(f"cache_if={value!r}: a plain function of the result that says whether to store it")


def _check_errors(name: str, value: Any) -> None:
    if not isinstance(value, tuple) or not all(
        isinstance(each, type) and issubclass(each, Exception) for each in value
    ):
        raise ConfigurationError(f"errors={value!r}: a tuple of exception classes, such as errors=(LookupError,)")


def _check_soft_timeout(name: str, value: Any) -> None:
    if value is not None:
        parse_span(name, value)


def _check_near(name: str, value: Any) -> None:
    from cachekit.near.option import near_of  # noqa: PLC0415 - few programs have one (docs/design/imports.md)

    near_of(value)


CHECKS: Final[dict[str, Any]] = {
    "ttl": lambda _, value: parse_ttl(value),
    "stale": parse_span,
    "stale_if_error": parse_span,
    "throttle": parse_span,
    "refresh": _check_refresh,
    "soft_timeout": _check_soft_timeout,
    "beta": _check_beta,
    "jitter": _check_jitter,
    "sliding": _check_flag,
    "cache_if": _check_cache_if,
    "errors": _check_errors,
    "error_ttl": parse_span,
    "codec": _check_codec,
    "group": _check_flag,
    "inherit": _check_flag,
    "lease": _check_lease,
    "near": _check_near,
}
"""For each field of a policy, what raises ``ConfigurationError`` for a value that means nothing."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def span_of(value: Any) -> float | None:
    """Seconds in the span of an option that was checked; None where it is not known or not said."""
    return None if value is UNSET or value is None else parse_span("", value)


def contradiction(own: Any, whole: Any) -> None:
    """Raise ``ConfigurationError`` where an option that the policy ``own`` sets can mean nothing in ``whole``, which is
    ``own`` over what stands behind it. What a cache's policy says in general is no contradiction where one function
    differs.
    """
    ttl = whole.ttl if whole.ttl in (UNSET, None) or isinstance(whole.ttl, Schedule) else parse_ttl(whole.ttl)
    never = "ttl=None: the value never ends" if ttl is None else "ttl=0: nothing is stored" if ttl == 0 else ""
    for name in ("stale", "stale_if_error", "sliding", "beta"):
        chosen = getattr(own, name)
        said = chosen not in (UNSET, None, False) and (name == "sliding" or span_of(chosen) != 0)
        if said and never:
            raise ConfigurationError(f"{name}={chosen!r} contradicts {never}")
        if said and name == "sliding" and isinstance(ttl, Schedule):
            raise ConfigurationError(f"sliding=True contradicts {whole.ttl!r}: a schedule ends when it ends")
    stale, if_error = span_of(whole.stale), span_of(whole.stale_if_error)
    if own.soft_timeout not in (UNSET, None) and stale == 0 and if_error == 0:
        raise ConfigurationError(
            f"soft_timeout={own.soft_timeout!r} needs stale= or stale_if_error=: "
            "without them there is nothing to serve when it is over"
        )
    if own.near not in (UNSET, None, False) and ttl == 0:
        raise ConfigurationError(f"near={own.near!r} contradicts {never}")
    if own.error_ttl is not UNSET and whole.errors == ():
        raise ConfigurationError(f"error_ttl={own.error_ttl!r} needs errors=(…): which failures to cache")
