"""The page in headless Chromium: drawn, silent, offline, and usable by keyboard, on a desk and on a phone."""

import pytest

from mptrain.report.html import write_html
from tests.report import samples
from tests.report.browser import Browser

LADDER = "document.querySelector('table')"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_html(samples.report(samples.ladder(), samples.ladder("one seed", seeds=1, labels=["fp32", "bf16"])), path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    ladder = samples.ladder(labels=["fp32", "bf16", "fp16", "fp16, loss_scale=static 1", "fp8"])
    write_html(samples.report(ladder, samples.ladder("small_gpt", seeds=2, labels=["fp32", "bf16"])), path)
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    ladder = samples.ladder(samples.HOSTILE, labels=["fp32", samples.HOSTILE], seeds=2)
    write_html(samples.report(ladder), path)
    return path


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


def marks(browser):
    """Return how many shapes each plot has."""
    shapes = ", ".join(f".mark-{kind}" for kind in ("rect path", "symbol path", "line path", "rule line"))
    counted = f"plot => plot.querySelectorAll('{shapes}').length"
    return browser.run(f"[...document.querySelectorAll('.plot')].map({counted})")


def clipped_texts(browser):
    """Return the texts of charts that reach beyond their picture."""
    return browser.run("""[...document.querySelectorAll('.plot svg')].flatMap(svg => {
        const box = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].filter(text => {
            const at = text.getBoundingClientRect();
            return at.width && (at.left < box.left - 1 || at.right > box.right + 1
                || at.top < box.top - 1 || at.bottom > box.bottom + 1);
        }).map(text => text.textContent);
    })""")


def column(browser, number):
    return browser.run(f"[...{LADDER}.tBodies[0].rows].map(row => row.cells[{number}].textContent)")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_every_chart_is_drawn_without_a_word_or_a_request(browser, path, tmp_path, width, scheme):
    browser.open(path, width, scheme=scheme)
    assert browser.complaints() == []
    assert browser.requests() == [path.as_uri()]
    assert len(marks(browser)) == 22
    assert min(marks(browser)) > 0
    assert browser.run("document.documentElement.scrollWidth") <= width
    widest = "Math.max(...[...document.querySelectorAll('.plot')].map(p => p.scrollWidth - p.clientWidth))"
    assert browser.run(widest) <= 1
    assert clipped_texts(browser) == []
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 25, 29)")
    chart = browser.run("document.querySelector('.plot svg').style.backgroundColor")
    assert chart == ground
    browser.screenshot(tmp_path / f"report-{width}-{scheme}.png")
    assert (tmp_path / f"report-{width}-{scheme}.png").stat().st_size > 50_000


def test_the_charts_follow_the_colour_scheme(browser, small):
    browser.open(small)
    browser.scheme("dark")
    browser.wait("document.querySelector('.plot svg').style.backgroundColor === 'rgb(22, 25, 29)'")
    browser.wait("document.documentElement.dataset.charts === 'drawn'")
    assert browser.complaints() == []


def test_a_heading_sorts_by_click_and_what_is_unknown_stays_last(browser, small):
    browser.open(small)
    heading = f"{LADDER}.tHead.rows[0].cells[5]"
    browser.run(f"{heading}.querySelector('button').click()")
    assert column(browser, 5) == ["2,126", "3,871", "emulated", "emulated", "emulated"]
    assert browser.run(f"{heading}.getAttribute('aria-sort')") == "ascending"
    browser.run(f"{heading}.querySelector('button').click()")
    assert column(browser, 5) == ["3,871", "2,126", "emulated", "emulated", "emulated"]
    assert browser.run(f"{heading}.getAttribute('aria-sort')") == "descending"


def test_a_heading_sorts_by_keyboard(browser, small):
    browser.open(small)
    before = column(browser, 1)
    browser.run("document.querySelector('.scroll').focus()")
    browser.press("Tab", 9)
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.textContent") == "accuracy"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Enter", 13)
    values = column(browser, 1)
    assert values != before
    means = [float(value.split()[0]) for value in values]
    assert means == sorted(means)
    assert browser.run("document.querySelectorAll('[aria-sort=ascending]').length") == 1


def test_the_first_key_press_reaches_the_link_past_the_heading(browser, small):
    browser.open(small)
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Enter", 13)
    assert browser.run("document.activeElement.id") == "main"


def test_the_key_picks_a_variant_out_in_every_chart_of_its_ladder(browser, small):
    browser.open(small)
    key = "document.querySelector('[data-figure=loss]').parentElement.querySelectorAll('.key button')[1]"
    faint = "[...document.querySelectorAll('[data-figure=metric] .mark-line path')].map(p => p.getAttribute('opacity'))"
    browser.run(f"{key}.click()")
    browser.wait(f"new Set({faint}.slice(0, 15)).size === 2")
    opacities = browser.run(faint)
    assert len(set(opacities[15:])) == 1  # the other ladder
    assert browser.run("[...document.querySelectorAll('.key button[aria-pressed=true]')].map(b => b.textContent)") == (
        ["bf16"] * 3
    )
    browser.run(f"{key}.click()")
    browser.wait(f"new Set({faint}).size === 1")


def test_a_loss_can_be_seen_on_a_log_scale(browser, small):
    browser.open(small)
    shape = "document.querySelector('[data-figure=loss] .mark-line path').getAttribute('d')"
    before = browser.run(shape)
    browser.run("document.querySelector('.log').click()")
    browser.wait(f"document.querySelector('[data-figure=loss] .mark-line path') && {shape} !== {before!r}")
    assert browser.run("document.querySelector('.log').getAttribute('aria-pressed')") == "true"
    assert browser.complaints() == []


def test_hostile_names_are_shown_and_never_run(browser, hostile):
    browser.open(hostile, 375)
    assert browser.complaints() == []
    assert browser.run("window.hacked") is None
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert samples.HOSTILE in browser.run("document.body.textContent")
    assert browser.run("document.documentElement.scrollWidth") <= 375
    assert min(marks(browser)) > 0
    box = "document.querySelector('[data-figure=memory] .mark-rect path:last-child').getBoundingClientRect()"
    browser.run("document.querySelector('[data-figure=memory]').scrollIntoView()")
    at = browser.run(f"(b => [b.x + 5, b.y + 5])({box})")
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
    browser.wait("document.querySelector('.vg-tooltip.visible')")
    assert "</script>" in browser.run("document.querySelector('.vg-tooltip').textContent")
    assert browser.run("window.hacked") is None
