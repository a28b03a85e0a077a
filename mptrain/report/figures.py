"""Which figures a report has, in their order.

Owns: the list, and how far curves are thinned for it. Must not: draw, write files, or choose colours.
"""

from __future__ import annotations

from mptrain.report import figure_bars, figure_curves
from mptrain.report.figure_gradients import gradients
from mptrain.report.figure_parts import Figure
from mptrain.report.model import Ladder, Report

_POINTS = 40_000  # of one kind of curve, all runs of a report together: some 4 MB of a page
_FEWEST, _MOST = 50, 400  # points a run


def points_per_run(report: Report) -> int:
    """Return to how many points each curve is thinned, so that a page of many runs stays small."""
    runs = sum(len(variant.members) for ladder in report.ladders for variant in ladder.variants)
    return min(_MOST, max(_FEWEST, _POINTS // max(1, runs)))


def ladder_figures(ladder: Ladder, max_points: int) -> list[Figure]:
    """Return a ladder's figures; one without data says why instead of a chart."""
    return [
        figure_bars.differences(ladder),
        figure_bars.accuracy_speed(ladder),
        figure_curves.loss(ladder, max_points),
        figure_curves.metric(ladder, max_points),
        figure_curves.loss_scale(ladder, max_points),
        figure_bars.memory(ladder),
        *gradients(ladder),
    ]
