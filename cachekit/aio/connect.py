"""Opens a connection: which address, which kind of socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cachekit.network import tls_context

if TYPE_CHECKING:
    from cachekit.aio.connection import AsyncConnection


async def connect(connection: AsyncConnection) -> None:
    """Open ``connection``: to the first of its server's addresses that answers. Raises ``OSError``."""
    server, loop = connection.server, asyncio.get_running_loop()
    context = tls_context(server.tls) if server.tls is not None else None
    if server.path is not None:
        await loop.create_unix_connection(lambda: connection, server.path)
        return
    host, port = str(server.host), server.port or 0
    name = (server.tls.server_name or host) if server.tls is not None else None
    await loop.create_connection(lambda: connection, host, port, ssl=context, server_hostname=name)
