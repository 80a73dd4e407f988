"""The report in a real browser: silent, no wider than a phone, figures whole, tables that sort and fold, six pages."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from latent_audit.reports import figures, html, latent_sections
from tests.reports.test_figure_bounds import FIGURES, LONG, beyond
from tests.reports.test_html import POLES, metrics_table
from tests.support import browser

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not browser.found(), reason="no Chromium on this machine")]
EXAMPLE = pathlib.Path(__file__).parents[2] / "docs" / "example_report" / "report.html"
EVIL = "an-org/<img src=x onerror=window.broken=1>-a-name-of-some-length-without-any-place-to-break-it"
BLOCKS = 30
# Of those whose bounds matplotlib is asked for, one of every drawer.
DRAWN = (
    "by depth",
    "by budget",
    "two axes",
    "steering",
    "projection",
    "curves",
    "ablation",
    "profiles",
    "score by ASR",
)
DRAWN = (*DRAWN, "correlations", "blind spots", "sweep", "history")
# What reaches beyond the window, but for what scrolls in a box of its own.
TOO_WIDE = """[...document.querySelectorAll("body *")]
  .filter(one => !one.closest(".scroll, .picture, .lead, .map") && one.getBoundingClientRect().right > innerWidth + 1)
  .map(one => `${one.tagName} ${one.className.baseVal ?? one.className}`)"""
# Texts and legends of figures that reach beyond their figure by more than a pixel.
CUT_OFF = """[...document.querySelectorAll(".picture svg, .lead svg, .map svg")].flatMap(svg => {
  const room = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text, [id*='-text_'], [id*='-legend_']")].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width && (box.left < room.left - 1 || box.right > room.right + 1
      || box.top < room.top - 1 || box.bottom > room.bottom + 1);
  }).map(one => `${one.id || one.textContent} in ${svg.parentElement.ariaLabel ?? svg.ariaLabel}`);
})"""
CONTRAST = """(() => {
  const light = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(one => one / 255)
      .map(one => one <= .03928 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4);
    return .2126 * parts[0] + .7152 * parts[1] + .0722 * parts[2];
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return ["body", ".gloss", ".brief dt", "a", ".rules", ".data td", ".fold summary"].map(name => {
    const ink = light(getComputedStyle(document.querySelector(name)).color);
    return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
  });
})()"""


@pytest.fixture(scope="module")
def send():
    with browser.opened() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with every figure, a deep model's maps, long names and tables, and a name that tries to be a script."""
    place = tmp_path_factory.mktemp("page")
    table = beyond(metrics_table(BLOCKS, (0.005, 0.01, 0.02), POLES)).assign(lvs_applicable=True)
    verdicts = [
        html.Verdict(
            *(f"{EVIL} ({name})", label, "A sentence.", "A reason.", "A rule.", [("asr", "50 %", "30-70 %", "0 %")]),
            gates=[("gradients are real", name != "base", "cosine .99")],
            row=[(f"{budget}", "inconclusive", "0 of 24 (0 %, at most 14 %)", "0 %") for budget in range(11)],
            brief=[("why", "A reason."), ("radius", "0.01 (0.005 to none)")],
            heat=latent_sections.heat_of(table, name, name=EVIL, blocks=BLOCKS),
        )
        for name, label in zip(POLES, ("robust", "hollow", "unsafe"), strict=True)
    ]
    rng = np.random.default_rng(0)
    numbers = pd.DataFrame(
        {"layer": [f"L{row}" for row in range(40)], "lvs": rng.normal(0, 1e3, 40), "variant": EVIL, "n": range(40)}
    )
    numbers.loc[[3, 17], "lvs"] = float("nan"), float("inf")
    sections = [html.Section("Cells", "Some text.", table=numbers, settings={EVIL: EVIL}, limits="Limits.")]
    for name in DRAWN:
        svg = figures.save_figure(FIGURES[name](LONG), place / "figures", name.replace(" ", "_").replace(",", ""))
        sections.append(html.Section(name, figure_svg=svg, table=numbers[:5]))
    run = html.Run({"date": "2026-01-01"}, f"python main.py --config.model.path={EVIL}", ["audit.csv"], {"a": "f" * 64})
    values = dict(facts={"model": EVIL}, sections=sections, warnings=[EVIL], run=run)
    html.render_report(place / "report.html", title=EVIL, headline=EVIL, verdicts=verdicts, **values)
    return place / "report.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_said_or_asked_for_and_nothing_is_wider_than_the_window(send, page, width):
    for path in (page, EXAMPLE):
        browser.show(send, path, width=width)
        assert browser.evaluate(send, "document.documentElement.scrollWidth") <= width
        assert browser.evaluate(send, TOO_WIDE) == []
        # Unfolded too.
        browser.evaluate(send, "document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert browser.evaluate(send, "document.documentElement.scrollWidth") <= width
        assert browser.evaluate(send, TOO_WIDE) == []
        assert browser.complaints(send) == []
        assert browser.evaluate(send, "window.broken === undefined && document.querySelectorAll('img').length === 0")


def test_a_script_that_is_not_ours_does_not_run(send, page):
    browser.show(send, page, width=1280)
    added = (
        "const one = document.createElement('script'); one.textContent = 'window.broken = 1'; document.body.append(one)"
    )
    browser.evaluate(send, f"(() => {{ {added} }})()")
    assert browser.evaluate(send, "window.broken === undefined")
    assert any("Content Security Policy" in said for said in browser.complaints(send)), "and a complaint is noticed"


@pytest.mark.parametrize("width", [390, 1280])
def test_every_legend_and_label_lies_inside_its_figure(send, page, width):
    for path in (page, EXAMPLE):
        browser.show(send, path, width=width)
        assert browser.evaluate(send, CUT_OFF) == []
    drawn = "document.querySelectorAll('.picture svg, .map svg').length"
    browser.show(send, page, width=width)
    assert browser.evaluate(send, drawn) == len(DRAWN) + len(POLES)
    parts = 'document.querySelectorAll(\'.picture [id*="-text_"], .picture [id*="-legend_"]\').length'
    assert browser.evaluate(send, parts) > 100
    # One that is cut off is noticed.
    browser.evaluate(send, "document.querySelector('.map svg text').setAttribute('x', -50)")
    assert len(browser.evaluate(send, CUT_OFF)) == 1


def test_figures_keep_their_own_width_and_readable_letters(send, page):
    sizes = """[...document.querySelectorAll(".picture svg")].map(one =>
      one.getBoundingClientRect().width / one.viewBox.baseVal.width)"""
    for width in (390, 1280):
        browser.show(send, page, width=width)
        found = browser.evaluate(send, sizes)
        assert min(found) > 1.17 and max(found) < 1.54, "pixels a point"


def test_a_map_has_every_block_and_tells_each_cell(send, page):
    browser.show(send, page, width=390)
    cells = "document.querySelector('.map svg').querySelectorAll('g > title').length"
    assert browser.evaluate(send, cells) == 3 * (BLOCKS + 1)


def test_a_click_sorts_by_number_and_another_turns_it_round(send, page):
    browser.show(send, page, width=1280)
    column = "[...document.querySelectorAll('.data')[0].tBodies[0].rows].map(row => row.cells[{}].textContent)"
    click = "document.querySelectorAll('.data')[0].tHead.rows[0].cells[{}].querySelector('button').click()"
    state = "document.querySelectorAll('.data')[0].tHead.rows[0].cells[{}].ariaSort"
    before = browser.evaluate(send, column.format(3))
    assert before == [str(row) for row in range(40)]
    browser.evaluate(send, click.format(1))
    shown = browser.evaluate(send, column.format(1))
    assert shown[-2:] == ["\u221e", "\u2013"] and browser.evaluate(send, state.format(1)) == "ascending"
    values = [float(text) for text in shown[:-2]]
    assert values == sorted(values) and values[0] < -1000 < 1000 < values[-1]
    browser.evaluate(send, click.format(1))
    turned = browser.evaluate(send, column.format(1))
    assert turned == [shown[-2], *shown[-3::-1], shown[-1]], "what was not measured stays last"
    browser.evaluate(send, click.format(3))
    assert browser.evaluate(send, column.format(3)) == before, "10 comes after 9"
    assert browser.evaluate(send, state.format(1)) is None
    browser.evaluate(send, click.format(0))
    assert browser.evaluate(send, column.format(0))[:3] == ["L0", "L1", "L10"]


def test_long_tables_and_hashes_unfold_at_a_click(send, page):
    browser.show(send, page, width=390)
    for place in ("details.rows", "aside details", "details.rules", "details.glossary"):
        seen = f"document.querySelector('{place} > :not(summary)').checkVisibility()"
        assert browser.evaluate(send, seen) is False
        browser.evaluate(send, f"document.querySelector('{place} > summary').click()")
        assert browser.evaluate(send, seen) is True
    # A gate that failed is not hidden, one that passed is.
    assert browser.evaluate(send, "[...document.querySelectorAll('.gates')].map(one => one.checkVisibility())") == [
        True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_the_paper_by_day_and_by_night(send, page, dark):
    browser.show(send, page, width=1280, dark=dark)
    assert min(browser.evaluate(send, CONTRAST)) >= 4.5
    paper = browser.evaluate(send, "getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 20, 20)" if dark else "rgb(255, 255, 255)")
    turned = browser.evaluate(send, "getComputedStyle(document.querySelector('.picture svg')).filter")
    assert turned == ("invert(0.92) hue-rotate(180deg)" if dark else "none")


def test_the_first_screen_answers(send):
    browser.show(send, EXAMPLE, width=1280, height=900)
    seen = """[...document.querySelectorAll(".answer, .answer .label, .answer .heat, .brief dd")]
      .filter(one => one.getBoundingClientRect().bottom > innerHeight).length"""
    assert browser.evaluate(send, seen) == 0, "labels, radii, maps, gates without scrolling"
    assert browser.evaluate(send, "document.querySelectorAll('.answer').length") == 3


def test_it_prints_on_six_pages_in_dark_on_white(send):
    for dark in (False, True):
        browser.show(send, EXAMPLE, width=1280, dark=dark)
        assert 1 <= browser.pages(browser.printed(send)) <= 6
    send("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.evaluate(send, "getComputedStyle(document.querySelector('h1')).color") == "rgb(28, 30, 33)"
