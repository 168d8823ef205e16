"""Invalidate after the commit, not before: a reader comes in between, and what he stores must not stay.

::

    python examples/bank.py                                        # the embedded server: nothing to set up
    python examples/bank.py --servers memcached://127.0.0.1:11211  # a real one
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from cachekit import Cache, ConfigurationError

cache = Cache(prefix="examples")
path = ""


@cache(ttl="10m", tags=["account:{account}"])
def balance(account: int) -> int:
    with closing(sqlite3.connect(path)) as database:
        found: int = database.execute("SELECT balance FROM account WHERE id = ?", (account,)).fetchone()[0]
        return found


@cache.invalidates(tags=["account:{account}"])
def add(database: sqlite3.Connection, account: int, amount: int) -> None:
    database.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, account))


def reader() -> int:
    """Somebody else asks for the balance, in a thread of his own."""
    with ThreadPoolExecutor(1) as others:
        return others.submit(balance, 1).result()


def too_early() -> None:
    """What ``add`` invalidates goes out before the commit."""
    with closing(sqlite3.connect(path)) as database, database:
        add(database, 1, -30)
        seen = reader()
    print(f"1  invalidated before the commit: a reader in between sees {seen}, which is right, and stores it")
    print(f"   after the commit the database says {balance.uncached(1)}, the cache {balance(1)}")


def in_time() -> None:
    """It waits until the block has ended, and the database commits inside."""
    cache.invalidate_tags("account:1")
    with closing(sqlite3.connect(path)) as database, cache.transaction(), database:
        add(database, 1, -30)
        seen = reader()
    print(f"2  inside cache.transaction(): a reader in between sees {seen}, which is right, and stores it")
    print(f"   after the commit the database says {balance.uncached(1)}, the cache {balance(1)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Take 30 off an account twice, invalidating too early and in time.")
    parser.add_argument("--servers", metavar="URL", help="Memcached servers; default: CACHEKIT_URL, or none")
    try:
        cache.configure(parser.parse_args().servers)
    except ConfigurationError as error:
        parser.error(str(error))
    global path  # noqa: PLW0603 - there is one database
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "bank.db")
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)")
            database.execute("INSERT INTO account VALUES (1, 100)")
        cache.invalidate_tags("account:1")  # a real server may know another bank
        too_early()
        in_time()


if __name__ == "__main__":
    main()
