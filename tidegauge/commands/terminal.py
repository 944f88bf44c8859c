"""Text of others on our terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with escapes for what does not print: anybody who can publish can put control sequences into it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
