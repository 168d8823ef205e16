"""R13: what a compressed bomb costs its reader, beside the same bytes under a bare ``zlib.decompress``.

    python benchmarks/bomb.py

Prints Markdown rows. Every case runs in a process of its own; memory is how far its peak (VmHWM, reset just before;
Linux only) rises above what it held before, time is that one call.
"""

from __future__ import annotations

import json
import pathlib
import struct
import subprocess
import sys
import time
import zlib

from cachekit.codecs import Compression, Packer, Registry, flags, resolve
from cachekit.codecs.compress import METHODS
from cachekit.errors import DecodeError

MIB = 1 << 20
SIZE = 200 * MIB
GOAL_MIB, GOAL_MS = 16, 20
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
    start = time.perf_counter()
    try:
        result = zlib.decompress(payload[4:]) if case.startswith("control") else packer.unpack(number, payload)
        outcome = f"{len(result) // MIB} MiB unpacked"  # type: ignore[arg-type]
    except DecodeError:
        outcome = "DecodeError: a miss"
    elapsed = time.perf_counter() - start
    return {"mib": (_memory_kib("VmHWM") - before) / 1024, "ms": elapsed * 1000, "outcome": outcome}


def main() -> int:
    """Parent: makes the bombs, runs a child for each, prints the rows. Exit code 1 if the goal is missed."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.stdin.buffer.read())))
        return 0
    print("| R13 | stored bytes | more memory (MiB) | time (ms) | outcome |")
    print("|---|---|---|---|---|")
    failed = False
    for case in CASES:
        payload = bomb(case)
        child = subprocess.run([sys.executable, __file__, case], input=payload, capture_output=True, check=True)
        row = json.loads(child.stdout)
        print(f"| {case} | {len(payload)} | {row['mib']:.1f} | {row['ms']:.1f} | {row['outcome']} |")
        if not case.startswith("control"):
            failed |= row["mib"] > GOAL_MIB or row["ms"] > GOAL_MS or "miss" not in row["outcome"]
    print(f"\nGoal: at most {GOAL_MIB} MiB and {GOAL_MS} ms, a miss. {'MISSED' if failed else 'Reached.'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
