"""The page as text: complete, safe, the same every time."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from mptrain.errors import CapabilityError
from mptrain.report.figures import ladder_figures
from mptrain.report.html import html_page, write_html
from tests.report import samples
from tests.report.test_figures import contrast


@pytest.fixture(scope="module")
def page():
    return html_page(samples.report())


@pytest.fixture(scope="module")
def hostile():
    ladder = samples.ladder(samples.HOSTILE, labels=["fp32", samples.HOSTILE], seeds=2)
    return html_page(samples.report(ladder))


class Tags(HTMLParser):
    """Collects start tags, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data


def test_verdicts_come_first_and_tables_notes_and_problems_are_there(page):
    text = Tags(page).text
    places = [
        text.index(part)
        for part in (
            "small_resnet on digits",
            "bf16: same within noise.",
            "emulated on this CPU",
            "time to 89.3%",
            "Difference to the baseline",
            "precision.mode",
            "AMD EPYC",
            "loss scale at its floor",
            "runs/broken/config.yaml:3",
        )
    ]
    assert places == sorted(places)
    assert "fp32 (baseline)" in text


def test_the_same_report_gives_the_same_page(page):
    assert html_page(samples.report()) == page


def test_names_of_runs_are_text_and_nothing_else(hostile):
    tags = Tags(hostile)
    assert [name for name, _ in tags.tags].count("script") == 3
    assert "img" not in [name for name, _ in tags.tags]
    assert not [attrs for _, attrs in tags.tags if any(name.startswith("on") for name in attrs)]
    assert "\u2028" not in hostile.split('id="data">')[1]


def test_the_data_of_the_page_are_those_of_the_figures():
    report = samples.report(samples.ladder(samples.HOSTILE, labels=["fp32", samples.HOSTILE], seeds=2))
    data = json.loads(re.search(r'id="data">(.*?)</script>', html_page(report), re.DOTALL)[1])
    (ladder,) = data.values()
    specs = {figure.name: figure.spec for figure in ladder_figures(report.ladders[0], 400) if figure.spec}
    assert {name: figure["spec"] for name, figure in ladder["figures"].items()} == json.loads(json.dumps(specs))


def test_each_chart_has_a_title_words_and_a_table_of_its_data(page):
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    drawn = [figure for figure in figures if 'class="plot"' in figure]
    assert len(drawn) == 30
    for figure in drawn:
        alt = re.search(r'role="img" aria-label="([^"]+)"', figure)[1]
        assert len(alt) > 60
        assert "<h3>" in figure
        assert "<details>" in figure
        assert "<td" in figure


def test_nothing_is_loaded_from_elsewhere(page):
    tags = Tags(page).tags
    links = [attrs[name] for _, attrs in tags for name in ("src", "href") if name in attrs]
    assert all(link.startswith(("#", "data:")) for link in links)
    policy = next(attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def css_colours(page, dark):
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    light_part, dark_part = style.split("prefers-color-scheme: dark", 1)
    part = dark_part.split("* {")[0] if dark else light_part
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part))


@pytest.mark.parametrize("dark", [False, True])
def test_texts_have_contrast_enough(page, dark):
    """WCAG 2.2 AA: 4.5 for text, on the page and on its soft background."""
    colours = css_colours(page, dark)
    assert set(colours) == {"page", "ink", "muted", "line", "soft", "link", "good", "bad", "open"}
    for name in ("ink", "muted", "link", "good", "bad", "open"):
        for ground in ("page", "soft"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def test_no_ladder_takes_an_id_of_the_page():
    names = ("data", "main", "problems")
    tags = Tags(html_page(samples.report(*(samples.ladder(name, seeds=1, labels=["fp32"]) for name in names)))).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for _, attrs in tags if attrs.get("href", "").startswith("#ladder-")} < set(ids)


def test_settings_that_all_variants_share_stand_once():
    shared = samples.ladder(seeds=1, labels=["fp32"])
    settings = {**shared.variants[0].settings, "model.name": "small_resnet"}
    shared = replace(shared, variants=(replace(shared.variants[0], settings=settings),))
    assert Tags(html_page(samples.report(shared))).text.count("model.name") == 1


def test_one_ladder_needs_no_contents():
    assert "<nav" not in html_page(samples.report(samples.ladder(seeds=1, labels=["fp32"])))


def test_without_the_plotting_library_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(CapabilityError, match=r"pip install 'mptrain\[report\]'"):
        write_html(samples.report(), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CapabilityError, match="another --html"):
        write_html(samples.report(samples.ladder(seeds=1, labels=["fp32"])), tmp_path / "file" / "report.html")


def test_two_hundred_runs_stay_below_fifteen_megabytes():
    labels = [f"variant {i}" for i in range(20)]
    ladders = [samples.ladder(f"ladder {i}", labels=labels, seeds=5, steps=3000) for i in range(2)]
    assert len(html_page(samples.report(*ladders)).encode()) < 15e6
