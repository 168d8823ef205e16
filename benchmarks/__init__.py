"""cachekit side by side with its peers and with the raw socket. `python -m benchmarks --help` says how to run it."""
