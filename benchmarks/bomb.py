"""R13: what a compressed bomb costs its reader, beside the same bytes under a bare ``zlib.decompress``.

    python benchmarks/bomb.py

Prints Markdown rows. Every case runs in a process of its own; memory is how far its peak (VmHWM, reset just before;
Linux only) rises above what it held before. Times are medians of five
children; the goal is held against CPU time, since the wall clock also shows what else the machine does.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import struct
import subprocess
import sys
import time
import zlib
from typing import Any

from cachekit.codecs import Compression, Packer, Registry, flags, resolve
from cachekit.codecs.compress import METHODS
from cachekit.errors import DecodeError

MIB = 1 << 20
SIZE = 200 * MIB
GOAL_MIB, GOAL_MS = 16, 20
CHILDREN = 5
CASES = (
    "zlib, honest", "zlib, says the cap", "zlib, says 1 kB", "zstd, honest", "zstd, says the cap",
    "control: zlib.decompress",
)  # fmt: skip


def bomb(case: str) -> bytes:
    """The stored payload: 200 MiB of zeros, 0.2 MB as zlib, less as zstd."""
    zeros = bytes(SIZE)
    squeezed = zlib.compress(zeros, 9) if _method(case) == flags.ZLIB else METHODS[flags.ZSTD][0](zeros)
    claimed = {"says the cap": Compression().max_unpacked_bytes, "says 1 kB": 1000}.get(case.partition(", ")[2], SIZE)
    return struct.pack(">I", claimed) + squeezed


def _method(case: str) -> int:
    return flags.ZSTD if case.startswith("zstd") else flags.ZLIB


def _memory_kib(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(case: str, payload: bytes) -> dict[str, float | str]:
    """Runs in the child: one read of the bomb."""
    packer = Packer(resolve(None, registry=Registry()))
    number = flags.client_flags(flags.BYTES, compression=_method(case), enveloped=True)
    small = packer.pack("x" * 5000)
    packer.unpack(*small)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _memory_kib("VmRSS")
    start, start_cpu = time.perf_counter(), time.process_time()
    try:
        result = zlib.decompress(payload[4:]) if case.startswith("control") else packer.unpack(number, payload)
        outcome = f"{len(result) // MIB} MiB unpacked"  # type: ignore[arg-type]
    except DecodeError:
        outcome = "DecodeError: a miss"
    cpu, wall = time.process_time() - start_cpu, time.perf_counter() - start
    memory = (_memory_kib("VmHWM") - before) / 1024
    return {"mib": memory, "cpu_ms": cpu * 1000, "wall_ms": wall * 1000, "outcome": outcome}


def _run(case: str, payload: bytes, children: int) -> dict[str, Any]:
    """The worst memory and the median times of some children."""
    command = [sys.executable, __file__, case]
    rows = [
        json.loads(subprocess.run(command, input=payload, capture_output=True, check=True).stdout)
        for _ in range(children)
    ]
    times = {name: statistics.median(row[name] for row in rows) for name in ("cpu_ms", "wall_ms")}
    return {"mib": max(row["mib"] for row in rows), "outcome": " / ".join({row["outcome"] for row in rows}), **times}


def main() -> int:
    """Parent: makes the bombs, runs a child for each, prints the rows. Exit code 1 if the goal is missed."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.stdin.buffer.read())))
        return 0
    print("| R13 | stored bytes | more memory (MiB) | CPU (ms) | wall (ms) | outcome |")
    print("|---|---|---|---|---|---|")
    failed = False
    for case in CASES:
        payload = bomb(case)
        row = _run(case, payload, 1 if case.startswith("control") else CHILDREN)
        print(
            f"| {case} | {len(payload)} | {row['mib']:.1f} | {row['cpu_ms']:.1f} | {row['wall_ms']:.1f} "
            f"| {row['outcome']} |"
        )
        if not case.startswith("control"):
            failed |= row["mib"] > GOAL_MIB or row["cpu_ms"] > GOAL_MS or "miss" not in row["outcome"]
    print(f"\nGoal: at most {GOAL_MIB} MiB and {GOAL_MS} ms, a miss. {'MISSED' if failed else 'Reached.'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
