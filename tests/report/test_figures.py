"""Figures: what they show and say, what is not drawn, and the files for papers."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from mptrain.errors import CapabilityError
from mptrain.report import figure_theme
from mptrain.report.export import ladder_stems, write_figures
from mptrain.report.figure_parts import Figure
from mptrain.report.figures import ladder_figures, points_per_run
from mptrain.report.model import Curve
from tests.report import samples


def by_name(ladder, points=400):
    return {figure.name: figure for figure in ladder_figures(ladder, points)}


def layer_data(figure):
    """Return the rows of a figure, those of its layers among them."""
    spec = figure.spec
    return [
        *spec["data"]["values"],
        *(row for layer in spec["layer"] for row in layer.get("data", {}).get("values", ())),
    ]


def test_every_kind_of_figure_is_there():
    figures = by_name(samples.ladder())
    assert list(figures)[:6] == ["differences", "accuracy-speed", "loss", "metric", "loss-scale", "memory"]
    assert [name for name in figures if name.startswith("gradients")] == [f"gradients-{i}" for i in range(1, 10)]
    assert all(figure.spec and figure.text and figure.rows for figure in figures.values())


def test_the_differences_are_those_of_the_comparison_with_the_noise_floor_as_a_band():
    ladder = samples.ladder()
    figure = by_name(ladder)["differences"]
    rows = {row["variant"]: row for row in figure.spec["data"]["values"]}
    for variant in ladder.variants[1:-1]:
        assert rows[variant.label]["mean"] == 100 * variant.comparison.difference.mean
        assert rows[variant.label]["low"] < rows[variant.label]["mean"] < rows[variant.label]["high"]
    assert "fp32" not in rows
    band = figure.spec["layer"][0]["encoding"]
    assert (band["x"]["datum"], band["x2"]["datum"]) == (pytest.approx(-0.41), pytest.approx(0.41))
    assert "to the right is better" in figure.text
    assert "bf16-pure, rounding=nearest: -4.8" in figure.detail


def test_without_a_speed_the_metric_is_shown_with_the_reason():
    figure = by_name(samples.ladder(emulated=True))["accuracy-speed"]
    assert "No speed is shown: these runs were emulated" in figure.text
    assert not any("speed" in key for row in figure.spec["data"]["values"] for key in row)


def test_a_variant_without_a_speed_is_named_beside_the_scatter():
    figure = by_name(samples.ladder())["accuracy-speed"]
    assert "fp8, format=e4m3/e5m2" in figure.text.split("so not shown:")[1]
    assert {row["variant"] for row in figure.spec["data"]["values"]} == set(figure.key)


def test_a_chart_without_data_is_a_sentence():
    ladder = samples.ladder()
    bare = [
        replace(
            member,
            peak_memory_bytes=None,
            loss=Curve(),
            metric_curve=Curve(),
            loss_scale=Curve(),
            gradients=None,
        )
        for member in ladder.variants[0].members
    ]
    variant = replace(ladder.variants[0], members=tuple(bare), metric=None, samples_per_s=None, peak_memory_bytes=None)
    figures = ladder_figures(replace(ladder, variants=(variant,), baseline=None), 400)
    assert [figure.name for figure in figures] == [
        "differences", "accuracy-speed", "loss", "metric", "loss-scale", "memory", "gradients"
    ]  # fmt: skip
    assert all(figure.spec is None and figure.text.endswith(".") for figure in figures)


def test_a_value_that_is_not_finite_breaks_the_line_and_is_not_a_point():
    rows = by_name(samples.ladder())["loss"].spec["data"]["values"]
    broken = [row for row in rows if row["variant"].endswith("1048576")]
    assert [row["y"] for row in broken if row["y"] is None] == [None] * 3
    assert not any("hover" in row for row in broken if row["y"] is None)


def test_crosses_lie_on_the_line_at_the_step_that_was_skipped():
    """Attempts 1 to 4 were skipped before any step was applied; attempt 160 was to be the 156th applied step."""
    figure = by_name(samples.ladder())["loss-scale"]
    crosses = [r for r in layer_data(figure) if r["run"] == -1 and r["variant"] == "fp16" and r["seed"] == 0]
    assert [cross["x"] for cross in crosses] == [0, 0, 0, 0, 155, 264]
    line = {r["x"]: r["y"] for r in layer_data(figure) if r["run"] != -1 and r["variant"] == "fp16" and r["seed"] == 0}
    assert crosses[4]["y"] == line[155]
    assert "fp16: 18;" in figure.text


def test_shares_of_a_gradient_histogram_add_up_and_bands_are_the_formats():
    figure = by_name(samples.ladder())["gradients-4"]
    assert sum(row[2] for row in figure.rows) == pytest.approx(100)
    bands = [
        (layer["encoding"]["x"]["datum"], layer["encoding"]["x2"]["datum"])
        for layer in figure.spec["layer"]
        if layer["mark"]["type"] == "rect" and "x2" in layer["encoding"] and "datum" in layer["encoding"]["x"]
    ]
    assert bands[0][1] == -24
    assert bands[1] == (-24, -14)
    assert bands[2][0] == pytest.approx(16, abs=0.01)
    below = sum(row[1] for row in figure.rows[:-1] if int(re.match(r"2\^(-?\d+)", row[0])[1]) < -14)
    total = sum(row[1] for row in figure.rows)
    assert f"subnormal: {100 * below / total:.1f}%" in figure.text


def test_curves_of_many_runs_are_thinned():
    many = samples.report(*(samples.ladder(f"ladder {i}", seeds=5, steps=2000) for i in range(5)))
    assert points_per_run(many) == 40_000 // (5 * 9 * 5)
    figure = by_name(many.ladders[0], 50)["loss"]
    rows = [row for row in figure.spec["data"]["values"] if row["run"] == 0]
    assert len(rows) == 50
    steps = many.ladders[0].variants[0].members[0].loss.steps
    assert (rows[0]["x"], rows[-1]["x"]) == (steps[0], steps[-1])


def luminance(colour):
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    """Return the contrast ratio of WCAG 2.2."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_and_texts_of_charts_stand_out_from_the_page(theme):
    page = figure_theme.PAGE[theme]
    assert min(contrast(colour, page) for colour in figure_theme.VARIANTS[theme]) >= 3
    assert min(contrast(figure_theme.INK[theme], page), contrast(figure_theme.MUTED[theme], page)) >= 4.5


def test_no_two_variants_look_alike():
    count = 25
    looks = {
        theme: list(
            zip(
                figure_theme.variant_colours(theme, count, True),
                map(tuple, figure_theme.variant_dashes(count, True)),
                strict=True,
            )
        )
        for theme in ("light", "dark")
    }
    assert len(set(looks["light"])) == len(set(looks["dark"])) == count


def test_figures_are_written_as_svg_and_png(tmp_path):
    ladder = samples.ladder(labels=["fp32", samples.HOSTILE], seeds=2)
    paths = write_figures(samples.report(ladder), tmp_path / "new" / "folder")
    assert [path.name for path in paths[:2]] == [
        "small-resnet-on-digits-differences.svg",
        "small-resnet-on-digits-differences.png",
    ]
    assert len(paths) == 2 * len([figure for figure in ladder_figures(ladder, 400) if figure.spec])
    for path in paths:
        if path.suffix == ".svg":
            root = ET.fromstring(path.read_text(encoding="utf-8"))
            assert not [e for e in root.iter() if e.tag.endswith("script")]
            _check_texts_are_inside(root)
        else:
            assert path.read_bytes().startswith(b"\x89PNG")
    again = write_figures(samples.report(ladder), tmp_path / "again")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def _check_texts_are_inside(root):
    """Fail where a text begins outside the picture: each lies at the sum of the shifts above it."""
    width, height = float(root.get("width")), float(root.get("height"))

    def walk(element, x, y):
        shift = re.match(r"translate\(([-\d.]+),([-\d.]+)\)", element.get("transform") or "")
        if shift:
            x, y = x + float(shift[1]), y + float(shift[2])
        if element.tag.endswith("text") and (element.text or len(element)):
            assert 0 <= x <= width
            assert 0 <= y <= height
        for child in element:
            walk(child, x, y)

    walk(root, 0.0, 0.0)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CapabilityError, match="another --figures"):
        write_figures(samples.report(), tmp_path / "file" / "folder")


def test_ladders_of_one_title_have_files_of_their_own():
    ladder = samples.ladder(seeds=1, labels=["fp32"])
    stems = ladder_stems(tuple(replace(ladder, title=title) for title in ("A b/c", "a  B c", "../..", "\u7cbe")))
    assert stems == ["a-b-c", "a-b-c-2", "ladder", "ladder-4"]


def test_no_figure_imports_torch_or_the_plotting_library():
    code = (
        "import sys; from mptrain.report import export, figures, html; "
        "print([m for m in ('torch', 'vl_convert', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_specs_are_plain_json_and_name_no_colour():
    for figure in ladder_figures(samples.ladder(), 400):
        assert isinstance(figure, Figure)
        text = json.dumps(figure.spec, allow_nan=False)
        assert not re.search(r"#[0-9a-fA-F]{6}", text)


@pytest.mark.parametrize(("scale", "labels"), [(1.0, [0.5, 1, 2]), (65536.0, [2.0**e for e in range(9, 18)])])
def test_a_loss_scale_is_labelled_at_whole_powers_of_two(scale, labels):
    ladder = samples.ladder(labels=["fp32"], seeds=1)
    member = replace(ladder.variants[0].members[0], loss_scale=Curve((1, 9), (scale, max(1.0, scale / 64))))
    figure = by_name(replace(ladder, variants=(replace(ladder.variants[0], members=(member,)),)))["loss-scale"]
    assert figure.spec["encoding"]["y"]["axis"]["values"] == labels
