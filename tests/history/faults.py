"""What goes wrong while schedules run: servers die, freeze and forget; the wires to them delay, split and cut.

The wires are a proxy in a process of its own, in front of every server but the first, which is reached directly, so
that a refused connection is seen as well as one that is closed at once. One fault at a time, and a pause after each in
which clients find back; workers' own troubles (kills, cancelled tasks, interrupts, forks) come on top of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

from support.memcached import Memcached, free_port

_SPAWN = multiprocessing.get_context("spawn")
_HOST = "127.0.0.1"
_SHORTEST_S, _LONGEST_S, _CALM_S = 0.02, 0.6, 1.2


class Wire(NamedTuple):
    """How a wire behaves. ``delay_s``: before each piece that comes back, at most. ``split``: pieces are a few bytes.
    ``cut``: how often a connection breaks instead.
    """

    delay_s: float = 0.0
    split: bool = False
    cut: float = 0.0


_WIRES = (Wire(delay_s=0.003), Wire(delay_s=0.4), Wire(split=True), Wire(cut=0.3), Wire(0.002, split=True, cut=0.02))


class Wires:
    """The proxy: an address for each upstream port, and a way to say how its wires behave."""

    def __init__(self, upstreams: Sequence[int]) -> None:
        self.ports = [free_port() for _ in upstreams]
        self._pipe, there = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(there, self.ports, list(upstreams)), daemon=True)
        self._process.start()
        there.close()
        if not self._pipe.poll(20):
            raise RuntimeError("the proxy does not come up")
        self._pipe.recv()

    def behave(self, number: int, wire: Wire) -> None:
        """From now on the wires to that upstream behave so."""
        self._pipe.send((number, wire))

    def close(self) -> None:
        """End the proxy."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, ports: Sequence[int], upstreams: Sequence[int]) -> None:
    asyncio.run(_proxy(pipe, ports, upstreams))


async def _proxy(pipe: Connection, ports: Sequence[int], upstreams: Sequence[int]) -> None:
    wires = [Wire() for _ in ports]
    dice = random.Random(1)

    async def meet(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(_HOST, upstreams[number])
        except OSError:
            writer.close()
            return
        ends = (writer, far_writer)
        await asyncio.gather(pump(number, reader, far_writer, ends), pump(number, far_reader, writer, ends))

    async def pump(
        number: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter, ends: Sequence[asyncio.StreamWriter]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                wire = wires[number]
                if dice.random() < wire.cut:
                    break
                if wire.delay_s:
                    await asyncio.sleep(wire.delay_s * dice.random())
                step = dice.randint(1, 40) if wire.split else len(data)
                for at in range(0, len(data), step):
                    sink.write(data[at : at + step])
                    await sink.drain()
                    if wire.split:
                        await asyncio.sleep(0)
        for end in ends:
            end.transport.abort()

    def told() -> None:
        number, wire = pipe.recv()
        wires[number] = wire

    for number, port in enumerate(ports):
        await asyncio.start_server(lambda reader, writer, at=number: meet(at, reader, writer), _HOST, port)  # type: ignore[misc]
    asyncio.get_running_loop().add_reader(pipe.fileno(), told)
    pipe.send("ready")
    await asyncio.Event().wait()


FAULTS = ("kill", "freeze", "forget", "wires_bad", "wires_bad", "cut_off")
"""Killed and started again, empty; stopped and continued; emptied; wires as above; a server behind wires that all
break, so that it keeps what it has.
"""


class Faults:
    """A thread that disturbs the servers, one after the other, by a seed, until it is stopped. ``names``: some of
    ``FAULTS``.
    """

    def __init__(self, seed: int, names: Sequence[str], servers: Sequence[Memcached], wires: Wires) -> None:
        self._names, self._servers, self._wires = names, servers, wires
        self._dice = random.Random(seed)
        self._over = threading.Event()
        self.counts: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """End it, and leave everything as it should be."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._dice.uniform(0.1, 1.0) * _CALM_S):
            name = self._dice.choice(self._names)
            self.counts[name] = self.counts.get(name, 0) + 1
            fault: Callable[[int, float], None] = getattr(self, f"_{name}")
            fault(self._dice.randrange(len(self._servers)), self._dice.uniform(_SHORTEST_S, _LONGEST_S))

    def _kill(self, number: int, seconds: float) -> None:
        self._servers[number].kill()
        self._over.wait(seconds * self._dice.choice((0.0, 1.0)))
        self._servers[number].restart()

    def _freeze(self, number: int, seconds: float) -> None:
        self._servers[number].pause()
        self._over.wait(seconds)
        self._servers[number].resume()

    def _forget(self, number: int, seconds: float) -> None:
        self._servers[number].flush()

    def _wires_bad(self, number: int, seconds: float) -> None:
        self._behave(number, self._dice.choice(_WIRES), seconds)

    def _cut_off(self, number: int, seconds: float) -> None:
        self._behave(number, Wire(cut=1.0), seconds)

    def _behave(self, number: int, wire: Wire, seconds: float) -> None:
        at = number % len(self._wires.ports)
        self._wires.behave(at, wire)
        self._over.wait(seconds)
        self._wires.behave(at, Wire())
