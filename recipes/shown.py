"""What the tables of the recipes share: markdown, formats, means, and an error as one line.

Owns: these. Must not: read files, or know what the figures mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from mptrain.cli.output import print_error
from mptrain.errors import MptrainError
from mptrain.report.model import Estimate
from mptrain.telemetry.human import NOT_AVAILABLE


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def known_mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known of `values`; None where nothing is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def with_spread(found: Estimate | None) -> str:
    """Return e.g. `0.8045 ± 0.0071`: the mean and the sample standard deviation, which one value lacks."""
    if found is None:
        return NOT_AVAILABLE
    return f"{found.mean:.4g}" if found.deviation is None else f"{found.mean:.4g} ± {found.deviation:.2g}"


def percent(share: float | None) -> str:
    """Return three digits of a share, however small, e.g. `26.5 %` or `0.000946 %`."""
    return NOT_AVAILABLE if share is None else f"{100 * share:.3g} %"


@contextlib.contextmanager
def errors_as_lines() -> Iterator[None]:
    """End the program with an error's own exit code, and its lines on stderr."""
    try:
        yield
    except MptrainError as error:
        print_error(error)
        raise SystemExit(error.exit_code) from None
