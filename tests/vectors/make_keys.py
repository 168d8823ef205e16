"""Writes, or with --check compares, keys.json: the keys of many values and calls, as they must be for ever.

A changed line means that every entry of that kind in every server becomes a miss; raise identity.FORMAT then, and say
so in the changelog. Needs no package but cachekit; the values of optional packages are left out with --standard.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vectors import key_samples

from cachekit.keys.compile import compile_keys

FILE = Path(__file__).with_name("keys.json")


def value_keys(names: dict[str, Any], expressions: list[str]) -> dict[str, str]:
    """Return the key of a call with each value, by the expression that makes it."""
    make = compile_keys(key_samples.one).make
    return {expression: make(eval(expression, dict(names))).decode() for expression in expressions}


def call_keys() -> dict[str, str]:
    """Return the keys of calls under many options, and the functions' generation keys."""
    keys = {}
    for name, options, call in key_samples.CALLS:
        maker = compile_keys(key_samples.FUNCTIONS[name], **eval(options))
        keys[f"{name}, {options}: {call}"] = eval(f"make{call}", {**key_samples.NAMES, "make": maker.make}).decode()
        keys[f"{name}, {options}: generation"] = maker.generation.decode()
    return keys


def vectors(*, extras: bool) -> dict[str, dict[str, str]]:
    """Return all vectors by group; the group "extras" needs NumPy, attrs, msgspec and pydantic."""
    groups = {"values": value_keys(key_samples.NAMES, key_samples.VALUES), "calls": call_keys()}
    if extras:
        from vectors import key_samples_extras

        groups["extras"] = value_keys(key_samples_extras.NAMES, key_samples_extras.VALUES)
    return groups


def main(arguments: list[str]) -> int:
    """Write or check; return the exit code."""
    current = vectors(extras="--standard" not in arguments)
    if "--check" not in arguments:
        FILE.write_text(json.dumps(current, indent=1, ensure_ascii=True) + "\n")
        return 0
    committed = json.loads(FILE.read_text())
    differing = [name for group in current for name, key in current[group].items() if committed[group].get(name) != key]
    sys.stdout.write("\n".join(differing) or f"{sum(map(len, current.values()))} keys as committed")
    sys.stdout.write("\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
