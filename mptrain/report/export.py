"""Every figure of a report as SVG and PNG, for papers: the same specs and data as the page.

Owns: the files' names. Must not: change what a figure shows.
"""

from __future__ import annotations

import re
from pathlib import Path

from mptrain.durable import write_synced
from mptrain.report.figures import ladder_figures, points_per_run
from mptrain.report.model import Ladder, Report
from mptrain.report.vega import library, print_spec
from mptrain.telemetry.files import cannot_write

_OPTION = "--figures"
_PNG_SCALE = 2  # some 250 dots an inch when set 85 mm wide
_NAME_LENGTH = 60


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write `<ladder>-<figure>.svg` and `.png` of every chart into `folder`, which is made; return the paths.

    Raises CapabilityError where vl_convert is missing or the folder cannot be written.
    """
    vega = library()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error, _OPTION) from error
    points = points_per_run(report)
    paths = []
    for stem, ladder in zip(ladder_stems(report.ladders), report.ladders, strict=True):
        for figure in ladder_figures(ladder, points):
            if figure.spec is None:
                continue
            spec = print_spec(ladder, figure)
            svg = _renumbered(vega.vegalite_to_svg(spec, allowed_base_urls=[]))
            png = vega.svg_to_png(svg, scale=_PNG_SCALE)
            for path, content in ((f"{stem}-{figure.name}.svg", svg.encode()), (f"{stem}-{figure.name}.png", png)):
                paths.append(folder / path)
                _write(paths[-1], content)
    return paths


def ladder_stems(ladders: tuple[Ladder, ...]) -> list[str]:
    """Return one name a ladder that is safe in a file name and in a link, each once."""
    stems: list[str] = []
    for number, ladder in enumerate(ladders, 1):
        words = re.sub(r"[^a-z0-9]+", "-", ladder.title.lower()).strip("-")[:_NAME_LENGTH].strip("-") or "ladder"
        stems.append(words if words not in stems else f"{words}-{number}")
    return stems


def _renumbered(svg: str) -> str:
    """Return the picture with its clip paths counted from 0: Vega counts on through a process."""
    numbers: dict[str, int] = {}
    return re.sub(r"(id=\"|url\(#)clip(\d+)", lambda m: f"{m[1]}clip{numbers.setdefault(m[2], len(numbers))}", svg)


def _write(path: Path, content: bytes) -> None:
    try:
        write_synced(path, [content])
    except OSError as error:
        raise cannot_write(path, error, _OPTION) from error
