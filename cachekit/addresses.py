"""Addresses: what a user writes about his servers, turned into one canonical form, or into an error that helps.

::

    memory:                                    the embedded server;  memory:?memory=128MiB
    memcached://10.0.0.1,10.0.0.2:11212:2      host[:port[:weight]], …
    memcached://[2001:db8::1]:11211            IPv6 stands in brackets (RFC 3986, section 3.2.2)
    memcached+tls://cache.example?ca=/etc/ca.pem
    unix:///run/memcached.sock                 also unix:/run/memcached.sock;  a weight may follow: …sock:2
    ["10.0.0.1", "unix:/run/m.sock", …]        a list of any of these

A query is for the whole ring: ``?deadline=250ms&max_value=1MiB&watch=yes``.

The canonical name decides where keys live (ring.py), so two spellings of one address must give one name: the host in
lower case without the final dot, 11211 filled in, IPv6 in the short form of RFC 5952, repeated slashes of a path
folded. Names are never resolved: ``localhost`` and ``127.0.0.1`` are two names, because what they mean may differ from
machine to machine, and the ring must not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from cachekit.frozen import Frozen
from cachekit.servers import DEFAULT_PORT, Options, Server, Target, Tls, bad, check_weight, unique_servers

if TYPE_CHECKING:
    from ipaddress import IPv6Address

MAX_SOCKET_PATH: Final = 107  # sockaddr_un.sun_path is 108 bytes on Linux, the closing NUL included: unix(7)
MAX_HOST: Final = 253  # RFC 1035, section 2.3.4, without the length bytes


# --- values in a query -------------------------------------------------------------------------------------------

_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0}
_BYTES: Final = {"": 1, "b": 1} | {
    prefix + suffix: (1000 if suffix == "b" else 1024) ** power  # 1MB is 1000², 1MiB and memcached's own 1m are 1024²
    for power, prefix in enumerate("kmg", start=1)
    for suffix in ("", "b", "ib")
}
_NUMBER: Final = r"(?a)([0-9]+(?:\.[0-9]+)?)([a-z]*)"
_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("0", "false", "no", "off")


def _quantity(text: str, units: Mapping[str, float], option: str, example: str) -> float:
    match = re.fullmatch(_NUMBER, text.lower())
    if match is None or match[2] not in units:
        bad(f"option {option} is not understood", text, f"write for example {example}")
    amount = float(match[1]) * units[match[2]]
    if not 0 < amount < 2**53:
        bad(f"option {option} must be more than nothing, and not absurd", text)
    return amount


def _seconds(text: str, option: str) -> float:
    return _quantity(text, _SECONDS, option, "250ms, 0.25 or 1s")


def _size(text: str, option: str) -> int:
    amount = _quantity(text, _BYTES, option, "1048576, 512KiB or 1MiB")
    if amount < 1:
        bad(f"option {option} is less than one byte", text)
    return int(amount)


def _flag(text: str, option: str) -> bool:
    if text.lower() not in _YES + _NO:
        bad(f"option {option} is yes or no", text)
    return text.lower() in _YES


def _text(text: str, option: str) -> str:
    return text


# option -> (field of Options or Tls, parser)
_RING_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str, str], object]]]] = {
    "deadline": ("deadline_s", _seconds),
    "max_value": ("max_value_bytes", _size),
    "memory": ("memory_bytes", _size),
    "watch": ("watch", _flag),
}
_TLS_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str, str], object]]]] = {
    "ca": ("ca", _text),
    "cert": ("cert", _text),
    "key": ("key", _text),
    "verify": ("verify", _flag),
    "server_name": ("server_name", _text),
}
QUERY: Final = (*_RING_OPTIONS, *_TLS_OPTIONS)
"""The names of all options that a URL may have."""


def _unquote(text: str) -> str:
    """Undo percent-encoding (RFC 3986, section 2.1)."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        bad("a % must be followed by two hexadecimal digits", text, "a literal % is %25")
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
    try:
        return raw.decode()
    except UnicodeDecodeError:
        bad("the percent-encoding is not UTF-8", text)


def _parse_query(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        if name not in QUERY:
            bad("unknown option", name, _meant(name.lower(), QUERY))
        if not equals or not value:
            bad("an option without a value", pair, f"write {name}=…")
        _merge(options, {name: _unquote(value)})
    return options


def _meant(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - for this hint only, and slow to load

    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _merge(options: dict[str, str], more: Mapping[str, str]) -> None:
    for name, value in more.items():
        if options.setdefault(name, value) != value:
            bad(f"option {name} is given twice, with different values", f"{options[name]} and {value}")


# --- one server --------------------------------------------------------------------------------------------------

_HOST: Final = r"(?a)(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*"
_WEIGHT: Final = r"(?a)[0-9]+(?:\.[0-9]+)?"
_ZONE: Final = r"(?a)[A-Za-z0-9._~-]+"


def _parse_weight(text: str | None, piece: str) -> float:
    if text is None:
        return 1.0
    if not re.fullmatch(_WEIGHT, text):
        bad(f"bad weight {text!r}, a positive number is needed", piece)
    weight = float(text)
    check_weight(weight, piece)
    return weight


def _parse_port(text: str | None, piece: str) -> int:
    if text is None:
        return DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= 65535):
        bad(f"bad port {text!r}, a number from 1 to 65535 is needed", piece)
    return int(text)


def _read_ipv6(text: str) -> IPv6Address | None:
    from ipaddress import IPv6Address  # noqa: PLC0415 - slow to load, and few have such servers

    try:
        return IPv6Address(text)
    except ValueError:
        return None


def _ipv6(text: str, piece: str) -> str:
    """The host in its canonical form; an IPv4 address dressed as IPv6 (RFC 4291, section 2.5.5.2) is that address."""
    address, percent, zone = text.partition("%")
    if percent and zone.startswith("25") and len(zone) > 2:
        zone = zone[2:]  # RFC 6874 writes %25 for the %
    if percent and not re.fullmatch(_ZONE, zone):
        bad(f"bad zone {zone!r} in an IPv6 address", piece)
    parsed = _read_ipv6(address)
    if parsed is None:
        bad(f"{address!r} is not an IPv6 address", piece)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)  # and Python 3.13 began to write these addresses in another way
    return parsed.compressed + percent + zone


def _hostname(text: str, piece: str) -> str:
    host = text
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            bad(f"bad host {text!r}", piece)
    host = host.lower().removesuffix(".")
    if not host:
        bad("empty host", piece)
    if len(host) > MAX_HOST or not re.fullmatch(_HOST, host):
        bad(f"bad host {text!r}", piece, "letters, digits, hyphens, underscores and dots")
    last = host.rsplit(".", 1)[-1]
    if last.isdigit() or last.startswith("0x"):  # a resolver would read it as an IPv4 address in one of its odd forms
        numbers = host.split(".")
        if len(numbers) != 4 or not all(n.isdigit() and n == str(int(n[:4])) and int(n) < 256 for n in numbers):
            bad(f"{text!r} is not an IPv4 address", piece, "four numbers up to 255, without leading zeros")
    return host


def _split_address(text: str) -> tuple[str, list[str]]:
    """Host (canonical) and the parts after it: none, the port, or the port and the weight."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            bad("an IPv6 address needs its closing bracket, then nothing or a :port", text)
        return _ipv6(inside, text), rest.split(":")[1:]
    head, *rest_parts = text.split(":")
    if len(rest_parts) > 1 and _read_ipv6(text) is not None:
        bad("an IPv6 address must stand in brackets", text, f"write [{text}]")
    if "]" in text:
        bad("an IPv6 address lacks its opening bracket", text)
    return _hostname(head, text), rest_parts


def _parse_tcp(text: str, tls: Tls | None) -> Server:
    if "@" in text:
        bad("credentials in a server's address are not supported", _masked(text))
    if "/" in text:
        bad("a server's address has no path", text, "a UNIX socket is unix:///path")
    host, parts = _split_address(text)
    if len(parts) > 2:
        bad("too many colons, host:port:weight is the longest form", text, "an IPv6 address stands in brackets")
    port = _parse_port(parts[0] if parts else None, text)
    weight = _parse_weight(parts[1] if len(parts) > 1 else None, text)
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Server(name, host=host, port=port, weight=weight, tls=tls)


def _parse_unix(text: str, piece: str) -> Server:
    if not text.startswith("/"):
        bad("the path of a UNIX socket must be absolute", piece, "write unix:///run/memcached.sock")
    path, colon, weight = text.rpartition(":")
    if not colon or "/" in weight:
        path, weight = text, ""
    path = re.sub(r"/(?:\.?/)+", "/", _unquote(path))
    if path.endswith("/"):
        bad("a UNIX socket is a file, not a directory", piece)
    if re.search(r"[\x00-\x1f\x7f]", path) or len(path.encode()) > MAX_SOCKET_PATH:
        bad(f"the path of a UNIX socket has at most {MAX_SOCKET_PATH} bytes and no control characters", piece)
    return Server(f"unix:{path}", path=path, weight=_parse_weight(weight if colon and weight else None, piece))


def parse_server(text: str, *, tls: Tls | None = None) -> Server:
    """One server out of ``host``, ``host:port``, ``host:port:weight``, ``[ipv6]:port:weight`` or ``unix:/path``.

    Raises ConfigurationError, which names the piece that was not understood.
    """
    _check_characters(text)
    if text[:5].lower() == "unix:":
        return _parse_unix(_after_authority(text[5:], text), text)
    return _parse_unix(text, text) if text.startswith("/") else _parse_tcp(text, tls)


def _after_authority(text: str, piece: str) -> str:
    """The path in ``/path`` or ``///path``; what stands after two slashes alone would be a host (RFC 3986)."""
    if text.startswith("//") and not text.startswith("///"):
        bad("a UNIX socket has no host", piece, f"write unix:///{text.lstrip('/')}")
    return text


def _check_characters(text: str) -> None:
    odd = re.search(r"[\s\x00-\x20\x7f]", text)
    if odd:
        what = f"a space or control character ({odd[0]!r}) in a server's address"
        bad(what, _masked(text), "in a path, a space is %20")


def _masked(text: str) -> str:
    """What may be a password taken out: errors end up in logs."""
    before, at, after = text.rpartition("@")
    return f"{before[: before.find('//') + 2] if '//' in before else ''}***@{after}" if at else text


# --- the whole ring ----------------------------------------------------------------------------------------------

_SCHEMES: Final = ("memory", "memcached", "memcached+tls", "unix")
_SCHEME: Final = r"(?s)([A-Za-z][A-Za-z0-9+.-]*)://(.*)"


class _Part(Frozen):
    """One string of the user's, taken apart but for its servers' TLS options, which may stand in another string."""

    scheme: str
    servers: tuple[str, ...]
    query: Mapping[str, str]


def _take_apart(url: str) -> _Part:
    _check_characters(url)
    if "@" in url.partition("=")[0] and not re.match("(?i)unix:|/", url):  # before a # or ? in a password misleads us
        bad("credentials in a server's address are not supported", _masked(url))
    if "#" in url:
        bad("a fragment means nothing here", url[url.index("#") :], "a literal # is %23")
    body, question, query = url.partition("?")
    options = _parse_query(query) if question and query else {}
    scheme, body = _split_scheme(body)
    if scheme == "memory":
        if body:
            bad("memory: is the embedded server, nothing but options can follow", body)
        return _Part(scheme, (), options)
    if scheme.startswith("memcached"):
        body = body.removesuffix("/")
        if body.startswith("/"):
            bad("empty host", url, f"a UNIX socket is unix://{body}")
    if not body:
        bad("no server in the address", url, "memcached://host[:port[:weight]],…")
    pieces = body.split(",")
    if not all(pieces):
        bad("an empty server between two commas", body)
    if scheme == "unix":
        pieces = [piece if piece[:5].lower() == "unix:" else f"unix:{piece}" for piece in pieces]
    return _Part(scheme, tuple(pieces), options)


def _split_scheme(body: str) -> tuple[str, str]:
    """Scheme in lower case (``memcached`` where there is none) and the rest."""
    if body[:7].lower() == "memory:":
        return "memory", body[7:].removeprefix("//")
    if body[:5].lower() == "unix:":
        return "unix", _after_authority(body[5:], body)
    match = re.fullmatch(_SCHEME, body)
    if match is None:
        return "", body
    scheme = match[1].lower()
    if scheme not in _SCHEMES:
        bad("unknown scheme", f"{match[1]}://", _meant(scheme, _SCHEMES))
    return scheme, match[2]


def _make_options(given: Mapping[str, str], scheme: str) -> Options:
    values = {_RING_OPTIONS[k][0]: _RING_OPTIONS[k][1](v, k) for k, v in given.items() if k in _RING_OPTIONS}
    if scheme != "memory" and "memory" in given:
        bad("option memory is for the embedded server, memory:", given["memory"])
    return Options()._replace(**values)


def _make_tls(given: Mapping[str, str]) -> Tls:
    values = {_TLS_OPTIONS[k][0]: _TLS_OPTIONS[k][1](v, k) for k, v in given.items() if k in _TLS_OPTIONS}
    tls = Tls()._replace(**values)
    if tls.key is not None and tls.cert is None:
        bad("option key needs cert, the certificate that it belongs to", tls.key)
    return tls


def parse_target(url: str | Server | Iterable[str | Server] | None) -> Target:
    """Where a cache lives, out of a URL, a list of servers, or nothing, which means the embedded server.

    ``url``: see the head of this file. Raises ConfigurationError, which says what was wrong and shows the piece.
    """
    if url is None:
        return Target("memory")
    items = [url] if isinstance(url, str | Server) else _listed(url)
    parts = [_take_apart(item) for item in items if isinstance(item, str)]
    ready = [_canonical(item) for item in items if isinstance(item, Server)]
    given: dict[str, str] = {}
    for part in parts:
        _merge(given, part.query)
    if any(part.scheme == "memory" for part in parts):
        return _memory_target(items, given)
    tls = _make_tls(given)
    if tls != Tls() and not any(part.scheme == "memcached+tls" for part in parts):
        bad("TLS options without memcached+tls://", ", ".join(sorted(given.keys() & _TLS_OPTIONS.keys())))
    for part in parts:
        ready += [parse_server(text, tls=tls if part.scheme == "memcached+tls" else None) for text in part.servers]
    return Target("memcached", unique_servers(ready), _make_options(given, "memcached"))


def _listed(url: Iterable[str | Server]) -> list[str | Server]:
    if isinstance(url, bytes | bytearray | Mapping) or not isinstance(url, Iterable):
        bad("servers are a URL, or a list of addresses", url)
    items = list(url)
    if not items:
        bad("an empty list of servers", items, "memory: is the embedded server")
    for item in items:
        if not isinstance(item, str | Server):
            bad("a server is a str or a Server", item)
    return items


def _canonical(server: Server) -> Server:
    """A Server made by hand, under the name that parsing its parts gives."""
    if server.path is not None:
        path = server.path.replace("%", "%25").replace(":", "%3A")
        return _parse_unix(path, server.name)._replace(weight=server.weight)
    host = f"[{server.host}]" if server.host and ":" in server.host else server.host
    return _parse_tcp(f"{host}:{server.port}", server.tls)._replace(weight=server.weight)


def _memory_target(items: list[str | Server], given: Mapping[str, str]) -> Target:
    if len(items) > 1:
        bad("memory: does not mix with other servers", ", ".join(str(item) for item in items))
    tls = sorted(given.keys() & _TLS_OPTIONS.keys())
    if tls:
        bad("TLS options mean nothing to memory:", ", ".join(tls))
    return Target("memory", (), _make_options(given, "memory"))
