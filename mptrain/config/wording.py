"""Small helpers that keep messages short and helpful. Must not: word the message around them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the nearest of `choices`, swapped letters first (fp61 -> fp16, not fp64), or None if none is near."""
    near = difflib.get_close_matches(word[:100], [choice for choice in choices if choice != word], n=5, cutoff=cutoff)
    swapped = [choice for choice in near if sorted(choice) == sorted(word)]
    return next(iter(swapped or near), None)


def shorten(text: str, limit: int = 60) -> str:
    """Return `text` cut in the middle to at most `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 20]}...{text[-15:]}"
