"""The report as one HTML file that needs nothing else: no network, no folder beside it.

Owns: the page's order, and that nothing a run says becomes markup or script. Must not: compute statistics, choose
words for outcomes, or draw. Only two scripts may run in the page, named by their checksums in its security policy.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from mptrain.durable import write_synced
from mptrain.report import html_tables, words
from mptrain.report.export import ladder_stems
from mptrain.report.figure_parts import Figure
from mptrain.report.figure_theme import variant_dashes
from mptrain.report.figures import ladder_figures, points_per_run
from mptrain.report.model import Ladder, Report, Variant
from mptrain.report.vega import ladder_config, library
from mptrain.telemetry.files import cannot_write


def write_html(report: Report, path: Path) -> None:
    """Write the report as one self-contained page; raise CapabilityError where it cannot be written or drawn."""
    page = html_page(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, [page.encode()])
    except OSError as error:
        raise cannot_write(path, error, "--html") from error


def html_page(report: Report) -> str:
    """Return the page; the same report gives the same text. Raises CapabilityError where vl_convert is missing."""
    vega = library()
    points = points_per_run(report)
    stems = ladder_stems(report.ladders)
    figures = [ladder_figures(ladder, points) for ladder in report.ladders]
    bundle, script = vega.javascript_bundle(), _asset("page.js")
    sections = [
        _section(stem, ladder, drawn) for stem, ladder, drawn in zip(stems, report.ladders, figures, strict=True)
    ]
    return Template(_asset("page.html")).substitute(
        policy=_policy(bundle, script),
        style=_asset("page.css"),
        heading=_heading(report),
        contents=_contents(stems, report.ladders),
        sections="\n".join(sections),
        problems=_problems(report.problems),
        made_with=escape(report.made_with),
        vega=f"Vega {vega.get_vega_version()}, Vega-Lite {vega.get_vegalite_versions()[-1]}",
        data=_data(stems, report.ladders, figures),
        bundle=bundle,
        script=script,
    )


def _asset(name: str) -> str:
    return resources.files("mptrain.report").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Return the content security policy: nothing is loaded, and no script runs but these."""
    sums = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{text}'" for text in sums)
    # Vega writes style elements and draws symbols as data; it interprets expressions (`ast`), so no eval is needed.
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


def _data(stems: Sequence[str], ladders: Sequence[Ladder], figures: Sequence[Sequence[Figure]]) -> str:
    """Return what the script draws, as JSON that no text in it can break out of."""
    data: dict[str, Any] = {}
    for stem, ladder, drawn in zip(stems, ladders, figures, strict=True):
        data[stem] = {
            "labels": [variant.label for variant in ladder.variants],
            "dashes": variant_dashes(len(ladder.variants), ladder.baseline is not None),
            "config": {
                "light": ladder_config(ladder, "light", legend=False),
                "dark": ladder_config(ladder, "dark", legend=False),
            },
            "figures": {figure.name: {"spec": figure.spec, "key": figure.key} for figure in drawn if figure.spec},
        }
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # neither `</script` nor `<!--` can occur


def _heading(report: Report) -> str:
    runs = sum(len(variant.members) for ladder in report.ladders for variant in ladder.variants)
    variants = sum(len(ladder.variants) for ladder in report.ladders)
    counts = ((runs, "run"), (variants, "variant"), (len(report.ladders), "ladder"))
    said = f"{', '.join(words.counted(*count) for count in counts)}."
    if report.problems:
        folders = words.counted(len(report.problems), "run folder")
        said += f' <a href="#problems">{folders} could not be read.</a>'
    return f"<h1>Precision report</h1>\n<p>{said}</p>"


def _contents(stems: Sequence[str], ladders: Sequence[Ladder]) -> str:
    if len(ladders) < 2:
        return ""
    links = (
        f'<li><a href="#ladder-{stem}">{escape(ladder.title)}</a></li>'
        for stem, ladder in zip(stems, ladders, strict=True)
    )
    return f'<nav aria-label="Ladders"><ol>{"".join(links)}</ol></nav>'


def _section(stem: str, ladder: Ladder, figures: Sequence[Figure]) -> str:
    grouped = [figure for figure in figures if figure.name.startswith("gradients")]
    singles = [figure for figure in figures if figure not in grouped]
    charts = "\n".join(_chart(stem, figure) for figure in singles)
    histograms = "\n".join(_chart(stem, figure) for figure in grouped)
    verdicts = "\n".join(_verdict(variant) for variant in ladder.variants)
    notes = "".join(f"<li>{escape(note)}</li>" for note in ladder.notes)
    runs = sum(len(variant.members) for variant in ladder.variants)
    common = html_tables.mapping_table("Settings shared by its variants", ladder.common) if ladder.common else ""
    points = " Differences are in percentage points." if ladder.as_points else ""
    return f"""<section class="ladder" id="ladder-{stem}" aria-labelledby="ladder-{stem}-title">
<h2 id="ladder-{stem}-title">{escape(ladder.title)}</h2>
{f'<p class="recommendation">{escape(ladder.recommendation)}</p>' if ladder.recommendation else ""}
<ul class="verdicts">
{verdicts}
</ul>
{f'<ul class="notes">{notes}</ul>' if notes else ""}
<h3>Ladder</h3>
<p class="caption">Means over seeds ± half of the 95% interval.{points} A heading sorts by its column.</p>
{html_tables.ladder_table(ladder, f"Ladder of {ladder.title}")}
<div class="charts">
{charts}
</div>
<div class="charts small">
{histograms}
</div>
<h3>Settings</h3>
{html_tables.settings_table(ladder)}
{html_tables.in_force_table(ladder)}
{common}
<h3>Environment</h3>
{html_tables.mapping_table(f"Environment of {ladder.title}", ladder.environment)}
<details><summary>{words.counted(runs, "run")}</summary>
{html_tables.runs_table(ladder)}
</details>
</section>"""


def _verdict(variant: Variant) -> str:
    outcome = variant.comparison.outcome if variant.comparison else "baseline" if variant.is_baseline else "alone"
    tag = "" if outcome == "alone" else f'<span class="tag">{outcome}</span> '
    return f'<li class="{outcome}">{tag}{escape(variant.verdict)}</li>'


def _chart(stem: str, figure: Figure) -> str:
    title, text = escape(figure.title), escape(figure.text)
    if figure.spec is None:
        return f'<figure><figcaption><h3>{title}</h3><p class="caption">{text}</p></figcaption></figure>'
    log = '<button type="button" class="log" aria-pressed="false">Log scale</button>' if figure.may_be_log else ""
    key = '<div class="key" role="group" aria-label="Highlight a variant"></div>' if figure.key else ""
    alt = escape(f"{figure.title}. {figure.text} {figure.detail}".strip(), quote=True)
    return f"""<figure>
<figcaption><h3>{title}</h3><p class="caption">{text}</p></figcaption>
{log}{key}
<div class="plot" data-ladder="{stem}" data-figure="{figure.name}" role="img" aria-label="{alt}"></div>
<details><summary>Data of this chart</summary>
{html_tables.figure_table(figure)}
</details>
</figure>"""


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f'<section id="problems"><h2>Run folders that could not be read</h2><ul>{items}</ul></section>'
