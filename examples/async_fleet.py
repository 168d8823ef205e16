"""Asyncio: many tasks want the same slow values at the same time, and some of them are cancelled.

::

    python examples/async_fleet.py                                        # the embedded server: nothing to set up
    python examples/async_fleet.py --servers memcached://127.0.0.1:11211  # a real one
    python examples/async_fleet.py --servers … --keep                     # in two terminals at once: they share runs
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

from cachekit import Cache, ConfigurationError

cache = Cache(prefix="examples")
RUN_S = 0.2
running = asyncio.Event()


@cache(ttl="10m")
async def report(n: int) -> dict[str, int]:
    running.set()
    await asyncio.sleep(RUN_S)  # imagine a query
    return {"number": n, "square": n * n}


async def cold(tasks: int, values: int) -> None:
    """Everybody asks at once for what nobody has."""
    before = report.info().fills
    waits = await asyncio.gather(*(timed(number % values) for number in range(tasks)))
    runs = report.info().fills - before
    print(f"1  {tasks} tasks want {values} values that nobody has; each takes {1000 * RUN_S:.0f} ms to compute")
    print(f"   the function ran {runs} times, the slowest caller waited {1000 * max(waits):.0f} ms")


async def timed(n: int) -> float:
    """Seconds that one caller waits for his value."""
    began = time.perf_counter()
    assert await report(n) == {"number": n, "square": n * n}
    return time.perf_counter() - began


async def warm(tasks: int, values: int, each: int) -> None:
    """Everybody asks again and again for what is there."""

    async def ask(first: int) -> None:
        for n in range(first, first + each):
            await report(n % values)

    before, began = report.info().fills, time.perf_counter()
    await asyncio.gather(*(ask(first) for first in range(tasks)))
    seconds = time.perf_counter() - began
    print(f"\n2  the same {tasks} tasks, {each} calls each")
    print(f"   the function ran {report.info().fills - before} times, {tasks * each / seconds:,.0f} calls per second")


async def cancelled(others: int) -> None:
    """The caller who began a run is cancelled: with others waiting for it, and alone."""
    number = -os.getpid()  # another program like this one must not be the one who computes it
    await report.invalidate(number)
    before = report.info()
    first = await begun(number)
    waiting = [asyncio.create_task(report(number)) for _ in range(others)]
    await asyncio.sleep(RUN_S / 4)
    first.cancel()
    values = await asyncio.gather(*waiting)
    runs = report.info().fills - before.fills
    print(f"\n3  the task that computes a value is cancelled while {others} others wait for it")
    served = values.count({"number": number, "square": number * number})
    print(f"   {served} of them got the value; the function ran {runs} times")

    await report.invalidate(number)
    alone = await begun(number)
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    wait = await timed(number)
    print("   cancelled while nobody else waits: the run is cancelled as well, and the next caller")
    print(f"   computes at once: he had his value after {1000 * wait:.0f} ms")


async def begun(number: int) -> asyncio.Task[dict[str, int]]:
    """A task for whom the function runs already."""
    running.clear()
    task = asyncio.create_task(report(number))
    await running.wait()
    return task


async def run(tasks: int, values: int, *, keep: bool) -> None:
    """All of it, on the configured servers; they are closed at the end."""
    async with cache:
        if not keep:
            await report.invalidate_all()  # else an earlier run's values would be served
        await cold(tasks, values)
        await warm(tasks, values, each=50)
        await cancelled(others=10)


def positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="Many tasks, the same slow values, and a caller who is cancelled.")
    parser.add_argument("--servers", metavar="URL", help="Memcached servers; default: CACHEKIT_URL, or none")
    parser.add_argument("--tasks", type=positive, default=200, metavar="N", help="how many ask at once (200)")
    parser.add_argument("--values", type=positive, default=10, metavar="N", help="how many values they want (10)")
    parser.add_argument("--keep", action="store_true", help="begin with what is stored")
    arguments = parser.parse_args()
    try:
        cache.configure(arguments.servers)
    except ConfigurationError as error:
        raise SystemExit(str(error)) from error
    asyncio.run(run(arguments.tasks, arguments.values, keep=arguments.keep))


if __name__ == "__main__":
    main()
