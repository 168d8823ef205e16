"""A small Jepsen: processes that work on one cache at random, and a checker of what they saw (docs/design/history)."""
