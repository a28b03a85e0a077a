"""Did-you-mean: the one choice a mistyped word most likely stood for. Must not: word the message around it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the nearest of `choices`, swapped letters first (fp61 -> fp16, not fp64), or None if none is near."""
    near = difflib.get_close_matches(word[:100], [choice for choice in choices if choice != word], n=5, cutoff=cutoff)
    swapped = [choice for choice in near if sorted(choice) == sorted(word)]
    return next(iter(swapped or near), None)
