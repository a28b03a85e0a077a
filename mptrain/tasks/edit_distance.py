"""How many symbols must change to make one sequence of another: what word, phoneme and character error rates count.

Owns: the distance. Must not: import torch, or know what the symbols stand for.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def edit_distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """Return the Levenshtein distance: the fewest insertions, deletions and substitutions between the two.

    One column of the table is kept as the bits of two integers, its steps of +1 and of -1, so that a symbol of the
    hypothesis costs a dozen integer operations (Hyyro 2003, "A Bit-Vector Algorithm for Computing Levenshtein and
    Damerau Edit Distances", after Myers 1999).
    """
    if not reference:
        return len(hypothesis)
    places: dict[Hashable, int] = {}
    for place, symbol in enumerate(reference):
        places[symbol] = places.get(symbol, 0) | 1 << place
    whole, last = (1 << len(reference)) - 1, 1 << (len(reference) - 1)
    up, down = whole, 0  # where the column's next entry is one more, and one less
    distance = len(reference)
    for symbol in hypothesis:
        equal = places.get(symbol, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        right_up, right_down = down | ~(diagonal | up), diagonal & up
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up, down = (right_down | ~(diagonal | right_up)) & whole, right_up & diagonal & whole
    return distance
