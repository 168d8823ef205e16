"""Cachekit and other people's libraries: one module for each, imported by name, with an extra of the same name.

``sqlalchemy`` and ``django`` send invalidations when a database's transaction is committed.
"""
