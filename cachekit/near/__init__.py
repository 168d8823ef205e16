"""The near tier: results kept in the memory of this process, in front of the servers, for a short time of their own.

``option`` is what a user says, ``sizes`` what a value takes and whether it may be shared, ``tier`` the bounded store,
``hub`` what keeps it true: it hears of every invalidation, and says what may go in. Nothing here is loaded before the
first function that has ``near=`` (docs/design/imports.md).
"""
