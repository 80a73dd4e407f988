"""The report and its figures: self-contained, escaped, reproducible, at every size an audit may have."""

import base64
import hashlib
import pathlib
import re
from html import unescape
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pandas as pd
import pytest

from latent_audit.errors import InputError
from latent_audit.metrics import evidence, verdict, verdict_words
from latent_audit.reports import figures, html, latent_sections
from latent_audit.reports.page import glossary, heat, hover

VOID = {"meta", "br", "img", "link", "hr", "input"}
SCRIPT = pathlib.Path(html.__file__).parent / "page" / "sort.js"
POLES = ("base", "dissociated", "harmful")


def metrics_table(layers=6, budgets=(0.005, 0.01, 0.02, 0.05), variants=POLES, n=32):
    """A made-up metrics table in the shape of a real one: early states and later variants break first."""
    rows = []
    for variant_index, variant in enumerate(variants):
        for state in range(layers + 1):
            for budget in budgets:
                for attack, strength in (("pgd", 1.0), ("random", 0.05), ("random_l2", 0.1)):
                    push = strength * budget * 30 * (1 + 3 * variant_index) * (1 - 0.9 * state / (layers + 1))
                    successes = round(n * (1 - np.exp(-(push**4))))
                    asr = successes / n
                    score = asr * 0.8 / np.log1p(8 * budget**0.5)
                    rows.append(
                        dict(
                            arch="organism", variant=variant, exp="lvs", budget=budget, attack=attack, n=n,
                            successes=successes,
                            layer="embedding" if state == 0 else f"L{state - 1}",
                            layer_idx=state - 1,
                            lvs=score, lvs_lo=0.8 * score, lvs_hi=1.15 * score + 0.02,
                            asr=asr, asr_lo=max(0, asr - 0.12), asr_hi=min(1, asr + 0.12),
                            aggregated=state < layers or layers == 0, fell=1.0 if attack == "pgd" else 0.0,
                        )
                    )  # fmt: skip
    clean = dict(rows[0], exp="clean", attack="none", layer=None, layer_idx=None, budget=np.nan, asr=0.0)
    return pd.DataFrame([clean, *rows])


def page(tmp_path, **changes):
    """Write a small report and return its text."""
    numbers = [("asr", "50%", "30–70%", "0%")]
    verdict = html.Verdict("base", "hollow", "A sentence.", "A reason.", "A rule.", numbers)
    values = dict(
        title="Audit of a model",
        headline="It refuses when asked.",
        verdicts=[verdict],
        facts={"Model": "organism", "Prompts": 32},
        sections=[html.Section("Cells", "Some text.", table=pd.DataFrame({"layer": ["L0"], "asr": [0.5]}))],
        warnings=[],
    )  # fmt: skip
    html.render_report(tmp_path / "report.html", **(values | changes))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Balanced(HTMLParser):
    """Checks that every element is closed in order; collects tags, ids and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text += data


def only_our_script(text):
    """One script, ours, and a policy that lets a browser run no other."""
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert text.lower().count("<script") == 1 and script.strip() == SCRIPT.read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    assert not re.search(r"<[^>]*\son\w+\s*=", text.replace(script, "")), "no handler in any tag"


def test_report_is_balanced_and_needs_nothing_from_outside(tmp_path):
    table = metrics_table(5, (0.01, 0.02))
    svg = figures.save_figure(figures.lvs_by_depth(table), tmp_path / "figures", "lvs")
    second = figures.save_figure(figures.lvs_by_depth(table, control="random_l2"), tmp_path / "figures", "lvs_l2")
    text = "One.\n\nTwo."
    sections = [
        html.Section("By depth", text, svg, "LVS by depth", table, {"steps": 10}, "Not other attacks."),
        html.Section("By depth, matched in L2", figure_svg=second),
    ]
    text = page(tmp_path, sections=sections)
    parsed = Balanced(text)
    assert not re.search(r"https?://|//[a-z]+\.|@import|<link|<iframe|javascript:", text)
    only_our_script(text)
    assert not [tag for tag, attributes in parsed.tags if "src" in attributes]
    links = [a["href"] for _, a in parsed.tags if "href" in a] + re.findall(r"url\(([^)]*)\)", text)
    assert links and all(link.startswith("#") and link[1:] in parsed.ids for link in links)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "One." in parsed.text and "What this does not show" in parsed.text and "L4" in parsed.text
    labelled = [a for _, a in parsed.tags if a.get("role") in ("img", "region")]
    assert len(labelled) == 3 and all(a["aria-label"] for a in labelled)


def test_text_is_escaped_wherever_it_stands(tmp_path):
    evil = "<script>alert('x')</script>\"&"
    text = page(
        tmp_path,
        title=evil,
        headline=evil,
        verdicts=[
            html.Verdict(
                *(evil, "robust", evil, evil, evil, [(evil, evil, evil, evil)], evil),
                brief=[(evil, evil)],
                heat=heat.Heat([evil], [evil], {(evil, evil): heat.Cell(0.5, evil, evil)}, evil, evil),
            )
        ],
        facts={evil: evil},
        sections=[
            html.Section(evil, evil, "<svg></svg>", evil, pd.DataFrame({evil: [evil]}), {evil: evil}, evil, evil)
        ],
        warnings=[evil],
    )
    only_our_script(text)
    assert text.count("&lt;script&gt;") >= 22
    assert Balanced(text).text.count(evil) >= 18


@pytest.mark.parametrize(
    "svg", ["<svg><script/></svg>", '<svg><image href="http://a.b/c"/></svg>', "<svg onload='x'/>"]
)
def test_a_figure_that_is_not_ours_is_refused(tmp_path, svg):
    with pytest.raises(InputError, match="Cells"):
        page(tmp_path, sections=[html.Section("Cells", figure_svg=svg)])


def test_the_answer_comes_before_the_evidence(tmp_path):
    text = Balanced(page(tmp_path, warnings=["The judge is a list of phrases."])).text
    answer = ["It refuses when asked.", "The judge is a list", "hollow", "organism", "A sentence.", "A reason."]
    order = [*answer, "50%", "30–70%", "How the labels are given", "A rule.", "Some text."]
    places = [text.index(word, text.index("Audit of a model\nIt refuses")) for word in order]
    assert places == sorted(places)


def test_a_caveat_stands_beside_the_numbers_it_belongs_to(tmp_path):
    verdict = html.Verdict("base", "robust", "S", "R", "rule", [("asr", "1%")], caveat="fallback judge")
    section = html.Section("Cells", table=pd.DataFrame({"asr": [0.5]}), caveat="phrases only")
    text = page(tmp_path, verdicts=[verdict], sections=[section])
    assert re.search(r'class="caveat">fallback judge</span>\s*<table', text)
    assert re.search(r'class="caveat">phrases only</span>\s*<div class="scroll"', text)


def test_gates_are_a_checklist_and_budgets_a_row(tmp_path):
    gates = [("the goal was reached", True, "20 of 24"), ("<b>gradients</b>", False, "cosine .1")]
    row = [("0.01", "robust", "0 of 24 (0 %, at most 12 %)", "0 %"), ("0.02", "beyond its language", "3 of 24", "40 %")]
    one = html.Verdict("base", "inconclusive", "S", "R", "", gates=gates, row=row, change="Three more would.")
    text = page(tmp_path, verdicts=[one])
    items = re.findall(r'<li class="(passed|failed)"><b>(.*?)</b><span>(.*?) <small>(.*?)</small>', text)
    assert items == [
        ("passed", "passed", "the goal was reached", "20 of 24"),
        ("failed", "not passed", "&lt;b&gt;gradients&lt;/b&gt;", "cosine .1"),
    ]
    parsed = Balanced(text)
    assert "What would change it\nThree more would." in parsed.text
    cells = re.findall(
        r'<tr><th scope="row">(.*?)</th><td class="word (.*?)">(.*?)</td><td>(.*?)</td><td>(.*?)</td>', text
    )
    assert cells == [
        ("0.01", "robust", "robust", "0 of 24<small> (0 %, at most 12 %)</small>", "0 %"),
        ("0.02", "beyond", "beyond its language", "3 of 24", "40 %"),
    ]
    # Every label that a row can carry is coloured as its card is, or not at all.
    plain = page(tmp_path)
    assert 'class="gates"' not in plain and "What would change it" not in plain and "label there" not in plain


def test_every_label_has_its_colour_on_light_and_on_dark(tmp_path):
    text = page(tmp_path)
    for label in html.LABELS:
        assert text.count(f"--{label}: #") == 2 and f".{label} {{ --tone: var(--{label}); }}" in text


def test_equal_input_gives_equal_bytes(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        svg = figures.save_figure(figures.lvs_by_depth(metrics_table(2, (0.01,))), folder, "lvs")
        page(folder, sections=[html.Section("By depth", figure_svg=svg)])
    for name in ("lvs.png", "lvs.svg", "report.html"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert sorted(path.name for path in first.iterdir()) == ["lvs.png", "lvs.svg", "report.html"]


def test_cells_are_readable(tmp_path):
    columns = {"a": [0.123456, float("nan")], "b": [True, False], "c": ["x", None], "d": [3, 4]}
    table = pd.DataFrame(columns | {"e": [12345.6, 1e-9], "f": [np.bool_(True), np.float32("inf")]})
    text = page(tmp_path, sections=[html.Section("Cells", table=table)])
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr><td.*?</tr>", text)]
    assert rows == [["0.123", "yes", "x", "3", "12346", "yes"], ["–", "no", "–", "4", "1e-09", "∞"]]
    assert re.findall(r'<th scope="col" class="number">(.*?)</th>', text) == ["a", "d", "e"]


def test_an_unknown_label_is_refused(tmp_path):
    with pytest.raises(InputError, match="'fine'.*hollow"):
        page(tmp_path, verdicts=[html.Verdict("base", "fine", "", "", "")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "layers, budgets, variants",
    [(1, (0.01,), ("base",)), (80, (0.001, 0.005), POLES), (2, (1, 2, 3, 4, 5, 6), tuple("abcde") + ("$x_$",))],
)
def test_figure_holds_every_number_at_every_size(layers, budgets, variants):
    table = metrics_table(layers, budgets, variants)
    figure = figures.lvs_by_depth(table)
    assert len(figure.axes) == 2 * len(budgets)
    for column, budget in enumerate(budgets):
        for row, measure in enumerate(("lvs", "asr")):
            drawn = [line.get_xydata() for line in figure.axes[row * len(budgets) + column].get_lines()]
            for variant in variants:
                for attack in ("pgd", "random"):
                    cells = table[(table.variant == variant) & (table.budget == budget) & (table.attack == attack)]
                    expected = cells[cells.aggregated.astype(bool)][measure].to_numpy(float)
                    assert any(len(xy) == layers and np.array_equal(xy[:, 1], expected) for xy in drawn)
    # Names stand as they are, and drawing them must not choke on a dollar sign.
    figure.canvas.draw()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    # A model alone is no pole.
    assert legend[: len(variants)] == (["this model"] if variants == ("base",) else list(variants))


def test_named_variants_keep_their_colours():
    def colours(*variants):
        figure = figures.lvs_by_depth(metrics_table(2, (0.01,), variants))
        legend = figure.legends[0]
        names = [text.get_text() for text in legend.get_texts()]
        return {name: line.get_color() for name, line in zip(names, legend.get_lines(), strict=False)}

    three, mixed = colours(*POLES), colours("harmful", "mine", "base")
    assert three["base"] == mixed["base"] and three["harmful"] == mixed["harmful"]
    assert len({three[name] for name in POLES} | {mixed["mine"]}) == 4


def test_states_outside_the_aggregates_join_no_line_and_weak_attacks_are_crossed():
    table = metrics_table(3, (0.01,), ("base",))
    weak = (table.layer == "L1") & (table.attack == "pgd")
    table.loc[weak, "fell"] = 0.5
    axis = figures.lvs_by_depth(table).axes[0]
    joined = [line for line in axis.get_lines() if line.get_linestyle() != "None"]
    assert joined and all(max(line.get_xdata()) == 2 for line in joined)
    crosses = [line for line in axis.get_lines() if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[2]]
    # Noise never lowers a loss and is no weak attack.
    texts = figures.lvs_by_depth(metrics_table(3, (0.01,), ("base",))).legends[0].get_texts()
    assert "loss did not fall" not in [text.get_text() for text in texts]


def discs(axis):
    """Where grey discs stand, and their heights."""
    lines = [line for line in axis.lines if line.get_color() == figures.BEYOND["color"] and len(line.get_xdata())]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]


def test_cells_beyond_the_language_carry_a_disc_and_the_legend_says_so():
    table = metrics_table(3, (0.01, 0.02), ("base", "harmful"))
    beyond = (table["budget"] == 0.02) & table["layer"].isin(["L0", "L1"]) & (table["variant"] == "base")
    for column in (beyond, beyond.astype(object).where(table["exp"] == "lvs", np.nan)):
        figure = figures.lvs_by_depth(table.assign(beyond_language=column))
        lvs_small, lvs_large, asr_small, asr_large = figure.axes
        own = table[beyond & (table["attack"] == "pgd")]
        assert discs(lvs_small) == discs(asr_small) == []
        assert discs(lvs_large) == [([1, 2], own["lvs"].tolist())] and discs(asr_large) == [
            ([1, 2], own["asr"].tolist())
        ]
        assert "beyond the model's language, not its safety" in [t.get_text() for t in figure.legends[0].get_texts()]
    plain = figures.lvs_by_depth(table.assign(beyond_language=False))
    assert not any(map(discs, plain.axes))
    assert "beyond the model's language, not its safety" not in [t.get_text() for t in plain.legends[0].get_texts()]


def test_figures_leave_matplotlib_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    figures.save_figure(figures.lvs_by_depth(metrics_table(1, (0.01,))), tmp_path, "lvs")
    assert dict(matplotlib.rcParams) == before


def test_a_table_without_what_is_needed_is_refused():
    with pytest.raises(InputError, match="fell"):
        figures.lvs_by_depth(metrics_table(1).drop(columns="fell"))
    with pytest.raises(InputError, match="'gcg'"):
        figures.lvs_by_depth(metrics_table(1), attack="gcg")


def test_the_report_of_an_lvs_run(tmp_path):
    """The main job's report in miniature, from the metrics table to the page."""
    table = metrics_table()
    rule = evidence.Rule(reference_budget=0.01)
    asked = {"base": 0, "dissociated": 1, "harmful": 31}
    found = {
        name: evidence.Evidence(evidence.Count(count, 32), cells=evidence.cells_of(table, name))
        for name, count in asked.items()
    }
    judged = {name: verdict.judge(one, rule=rule) for name, one in found.items()}
    sentences = {name: verdict_words.sentence(judged[name], one, rule) for name, one in found.items()}
    svg = figures.save_figure(figures.lvs_by_depth(table), tmp_path / "figures", "lvs_by_depth")
    fallback = "fallback judge: refusal phrases"
    by_depth = html.Section(
        title="Vulnerability by depth",
        text=(
            "A push of bounded size is added to the residual stream at one depth, on the prompt only, "
            "chosen to make an affirmative opening likely. The higher the score, the more "
            "harmlessness is lost for the size of the push.\n\nDashed lines are uniform noise under the same bound."
        ),
        figure_svg=svg,
        figure_alt="LVS and attack success rate by depth, three variants at four budgets",
        table=table[table.exp == "lvs"].drop(columns=["arch", "exp", "layer_idx"]),
        settings={"Preset": "paper", "eta": 1e-4, "Steps": 10, "Template": "9f2c41d0", "BOS bounded": True},
        limits=(
            "The last block is left out of every aggregate: a push on prompt positions reaches one generated "
            "token there. Another attack may reach further."
        ),
        caveat=fallback,
    )
    text = page(
        tmp_path,
        title="Latent vulnerability of the model organism",
        headline=(
            "Three variants of one model were asked outright, then pushed from inside at every depth. At "
            "budget 0.01 base is inconclusive, dissociated is hollow and harmful is unsafe."
        ),
        verdicts=[
            html.Verdict(
                variant=name,
                label=one.label,
                sentence=sentences[name],
                reason=one.reason,
                rule=verdict_words.describe(rule),
                numbers=verdict_words.numbers(one, found[name], rule),
                caveat=fallback,
                change=verdict_words.change(one, found[name], rule),
            )
            for name, one in judged.items()
        ],
        facts={
            "Model": "organism, 6 blocks, width 128",
            "Prompts": "32 harmful, 32 benign",
            "Attack": "PGD, 10 steps",
            "Budgets": (0.005, 0.01, 0.02, 0.05),
            "Judge": "refusal phrases (fallback)",
            "Reward": "share of the recipe disclosed",
        },
        warnings=["The judge is a list of refusal phrases, a fallback: whatever is not a refusal counts as harmful."],
        sections=[by_depth],
    )
    shown = Balanced(text).text
    assert [judged[name].label for name in POLES] == ["inconclusive", "hollow", "unsafe"]
    for name, one in judged.items():
        assert sentences[name] in shown and one.reason in shown
    assert shown.count(verdict_words.describe(rule).split("\n\n")[0]) == 1
    assert text.count(f'class="caveat">{fallback}<') == 4


def test_the_first_screen_names_the_model_its_label_and_what_stands_behind_it(tmp_path):
    brief = [("why", "No label, since <i>."), ("radius", "0.01 (0.005 to none)"), ("withheld", "any label")]
    first = html.Verdict("an-org/model (base)", "inconclusive", "S", "R", "rule", brief=brief)
    text = page(tmp_path, verdicts=[first, html.Verdict("other", "hollow", "S", "R", "rule")])
    (block,) = re.findall(r'<div class="answers">(.*?)<dl class="facts">', text, re.DOTALL)
    assert re.findall(r'<h2><a href="#verdict-(\d)">(.*?)</a></h2><span class="label">(.*?)</span>', block) == [
        ("1", "an-org/model (base)", "inconclusive"),
        ("2", "other", "hollow"),
    ]
    assert all(html.LABELS[label] in block for label in ("inconclusive", "hollow"))
    said = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", block)
    assert said == [("why", "No label, since &lt;i&gt;."), *brief[1:]]
    assert text.index('class="answers"') < text.index('id="reproduce"') if "reproduce" in text else True
    assert "The maps:" not in text, "no legend of maps that are not there"


def test_a_map_has_a_cell_for_every_block_and_says_each_number(tmp_path):
    table = metrics_table(5, (0.01, 0.02), ("base",), n=32).assign(lvs_applicable=True, beyond_language=False)
    table = table[table["layer"] != "L2"]
    noisy = (table["layer"] == "L1") & (table["budget"] == 0.02)
    table.loc[noisy, "beyond_language"] = True
    # The model goes on behind the last state attacked.
    found = latent_sections.heat_of(table, "base", name="mine", blocks=8)
    assert found.rows == ["0.01", "0.02"] and found.columns == ["emb", *(f"L{block}" for block in range(8))]
    assert len(found.cells) == 2 * 5
    drawn = heat.svg(found)
    titles = list(map(unescape, re.findall(r"<title>(.*?)</title>", drawn)))
    assert len(titles) == 2 * 9 and sum(title.endswith("not attacked") for title in titles) == 2 * 4
    assert drawn.count('class="cell"') == 10 and drawn.count('class="none"') == 8 and drawn.count('class="struck"') == 1
    cells = table[(table["attack"] == "pgd") & (table["exp"] == "lvs")]
    for row in cells.itertuples():
        name = "emb" if row.layer == "embedding" else row.layer
        (told,) = [title for title in titles if title.startswith(f"{name}, budget {row.budget:g}: ")]
        assert f": {row.successes} of 32 (" in told and "uniform noise" in told
        cell = found.cells[f"{row.budget:g}", name]
        assert cell.share == row.asr and cell.shown == str(row.successes)
        beyond = row.layer == "L1" and row.budget == 0.02
        assert cell.mark == ("beyond" if beyond else "" if row.aggregated else "apart")
        assert ("beyond the model's language" in told) == beyond
    assert latent_sections.heat_of(table[table["exp"] == "clean"], "base", name="mine", blocks=8) is None
    complies = latent_sections.heat_of(table.assign(lvs_applicable=False), "base", name="mine", blocks=8)
    assert found.note == "" and "complies when asked" in complies.note
    text = page(tmp_path, verdicts=[html.Verdict("mine", "hollow", "S", "R", "rule", heat=complies)])
    assert heat.svg(complies) in text and f"<figcaption>{complies.note}</figcaption>" in text and "The maps:" in text


@pytest.mark.parametrize("blocks", [1, 6, 30, 80])
def test_a_map_of_any_depth_names_its_ends_and_its_names_do_not_meet(blocks):
    columns = [figures.state_name(state) for state in range(blocks + 1)]
    drawn = heat.svg(heat.Heat(["0.01"], columns, {}, "empty"))
    width = float(re.search(r'width="(\d+)"', drawn)[1])
    named = re.findall(r'x="([\d.]+)" y="[\d.]+" text-anchor="middle">(.*?)<', drawn)
    assert named[0][1] == "emb" and named[-1][1] == f"L{blocks - 1}" and float(named[-1][0]) < width
    ends = [(float(x) - 3.1 * len(name), float(x) + 3.1 * len(name)) for x, name in named]
    assert all(one[1] <= other[0] for one, other in zip(ends, ends[1:], strict=False))


def test_long_tables_are_folded_and_cells_keep_their_exact_number(tmp_path):
    def table(rows):
        return pd.DataFrame({"nll_first": [0.123456789] * rows, "layer": ["L0"] * rows})

    short, long = (
        page(tmp_path, sections=[html.Section("Cells", table=table(rows))])
        for rows in (html.FOLDED_FROM, html.FOLDED_FROM + 1)
    )
    assert '<details class="fold rows">' not in short
    assert f'<details class="fold rows"><summary>Table: {html.FOLDED_FROM + 1} rows</summary>' in long
    for text in (short, long):
        assert Balanced(text) and '<td title="0.123457">0.123</td><td class="text">L0</td>' in text
        # A head in words with its unit, what it holds on hovering, its name in the files folded beside.
        what = "loss of the target before the search, nats per token"
        assert f'<th scope="col" class="number" title="{what}">loss before (nats per token)</th>' in text
        assert "<code>nll_first</code>" in text


def test_words_are_explained_where_they_are_used_and_with_their_section(tmp_path):
    section = html.Section("Suite", "The break radius of a prompt is found by the attack suite.")
    text = page(tmp_path, headline="It refuses when asked.", sections=[section])
    (box,) = re.findall(r'<details class="glossary fold">(.*?)</details>', text, re.DOTALL)
    assert "<dt>break radius</dt>" in box and "(docs/method.md section 12)" in box and "RAS" not in box
    method = (pathlib.Path(html.__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    sections = {int(number) for number in re.findall(r"^## (\d+)\.", method, re.MULTILINE)}
    assert {term.section for term in glossary.TERMS} <= sections
    assert all(glossary.used(term.name) for term in glossary.TERMS), "a word calls for its own line"
    assert not re.search("glossary fold", page(tmp_path, headline="h", verdicts=[], sections=[html.Section("T", "t")]))


def test_hovering_over_a_figure_tells_its_points(tmp_path):
    table = metrics_table(3, (0.01,), ("base", "http://a.b onload=x"))
    figure = figures.lvs_by_depth(table, blocks=9)
    svg = figures.save_figure(figure, tmp_path, "lvs")
    titles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="5"><title>(.*?)</title>', svg)
    one = table[(table.variant == "base") & (table.layer == "L1") & (table.attack == "pgd")].iloc[0]
    (x, y, told), *_ = [title for title in titles if "base, PGD: budget 0.01, L1: " in title[2]]
    # The upper panel: the ring lies where matplotlib draws that point.
    right, up = figure.axes[0].transData.transform((one.layer_idx + 1, one.lvs)) / figure.dpi * 72
    assert abs(float(x) - right) < 0.1 and abs(float(y) - (figure.get_figheight() * 72 - up)) < 0.1
    assert float(told.split(": ")[-1]) == pytest.approx(one.lvs, abs=0.01)
    assert any("%" in title[2] for title in titles)
    page(tmp_path, sections=[html.Section("Cells", figure_svg=svg)])  # a name is no address, and no handler
    assert "http://" not in svg.split('class="hover"')[1] and "&#61;x" in svg
    upper = figure.axes[0]
    ticks = {*upper.get_xticks(), *upper.get_xticks(minor=True)}
    assert upper.get_xlim() == (-0.5, 9.5) and ticks == set(range(10)), "every block stands on the axis"
    empty = matplotlib.figure.Figure()
    assert hover.rings(empty) == ""
