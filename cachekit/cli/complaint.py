"""What the command line says to the person who typed it."""

from __future__ import annotations


class Complaint(Exception):
    """One line for the person at the terminal. ``code``: 1, it is not so; 2, the question made no sense."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code
