"""What both shells need to make a connection: TLS contexts, and the operating system's errors in words of ours."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

from cachekit.errors import DeadlineExceeded, ServerError, Unreachable
from cachekit.servers import Server, Tls


@lru_cache(maxsize=64)
def tls_context(tls: Tls) -> ssl.SSLContext:
    """The context that ``tls`` describes. Raises ``OSError`` for files that can't be read."""
    context = ssl.create_default_context(cafile=tls.ca)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key)
    return context


def translated(error: OSError, server: Server) -> ServerError:
    """The one place where the operating system's errors become ours."""
    if isinstance(error, TimeoutError | BlockingIOError):
        return DeadlineExceeded(f"{server.name} did not answer in time", server=server.name)
    if isinstance(error, ssl.SSLError):
        return Unreachable(f"{server.name}: TLS failed: {error.reason or error}", server=server.name)
    said = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
    return Unreachable(f"{server.name} can't be reached: {said}", server=server.name)
