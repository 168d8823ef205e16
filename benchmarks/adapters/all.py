"""Imports every adapter: for a process from which others are forked (herd.py)."""

from benchmarks.adapters import load

load()
