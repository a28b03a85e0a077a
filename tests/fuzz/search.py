"""Hypothesis drives a world through cases of one kind, and makes a find as small as it can.

Owns: hypothesis's settings. Must not: print, or judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import FlakyFailure

from tests.fuzz.case import Case
from tests.fuzz.strategies import KINDS
from tests.fuzz.world import Find, World


@dataclass
class Searched:
    """What came of a search."""

    codes: Counter[int] = field(default_factory=Counter)
    """Exit code -> cases that ended with it, within the rules."""
    finds: dict[str, Find] = field(default_factory=dict)
    """What a find looks like -> the smallest case that does."""

    @property
    def cases(self) -> int:
        """Return how many cases held."""
        return self.codes.total()


def search(world: World, kind: str, cases: int, seed: int, before: Callable[[Case], None] | None = None) -> Searched:
    """Try `cases` cases of `kind`, the same ones for the same seed; `before` is told of each.

    The search goes on behind a find, of which there is one per sort, until it has made as many rounds as finds.
    """
    done = Searched()
    while _round(world, kind, cases - done.cases, seed + len(done.finds), before, done):
        pass
    return done


def _round(
    world: World, kind: str, cases: int, seed: int, before: Callable[[Case], None] | None, done: Searched
) -> bool:
    """Search until something new is found; say whether it was."""
    new: list[Find] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=max(cases, 1),
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind][1]())
    def hold(case: Case) -> None:
        if before:
            before(case)
        try:
            code = world.check(case)
            done.codes[code] += not new  # what follows a find makes it smaller
        except Find as find:
            if find.look in done.finds:
                return
            if find.is_hang:  # to make it smaller would take minutes
                done.finds[find.look] = find
                return
            new.append(find)
            raise

    try:
        hold()
    except Find as find:
        done.finds[find.look] = find
    except FlakyFailure:  # it does not fail again by itself: what earlier cases left behind is part of it
        done.finds[new[0].look] = new[0]
    return bool(new)
