"""Nothing that a figure says is cut off: every text and legend lies inside it, measured by matplotlib's renderer."""

import pathlib
import types

import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from latent_audit.reports import (
    ablation_figures,
    audit_figures,
    compare_figures,
    curve_figures,
    figures,
    ras_figures,
    sweep_figures,
)
from tests.reports.test_html import POLES, metrics_table

LONG = (
    "base",
    "dissociated-with-a-name-of-some-length",
    "harmful",
    "an-organisation/a-model-of-7-billion-weights-v0.3",
)


def lines(variants, *, layers=("L3",), budgets=(0.0375, 0.15, 0.6)):
    """Lines of audit.csv."""
    return pd.DataFrame(
        [
            {"variant": variant, "layer": layer, "budget": budget, "value": 0.5, "lo": 0.2, "hi": 0.9, "control": 0.1}
            | {"state": int(layer[1:]) + 1}
            for variant in variants
            for layer in layers
            for budget in budgets
        ]
    )


def beyond(table):
    """The larger half of the budgets, or all of one, is beyond the language."""
    return table.assign(beyond_language=table["budget"] >= table["budget"].median())


def points(variants):
    ends = {"refusal": 1.0, "refusal_lo": 0.96, "refusal_hi": 1.0}
    return pd.DataFrame(
        [ends | {"variant": name, "robustness": 0.0, "robustness_lo": 0.0, "robustness_hi": 0.07} for name in variants]
    )


def curves(variants):
    return pd.DataFrame(
        [
            {"variant": name, "corpus": corpus, "seed": 0, "step": step, "compliance": step / 30}
            for name in variants
            for corpus in ("in", "out")
            for step in (0, 10, 30)
        ]
    )


def training(variants):
    names = ("nudged_compliance", "clean_compliance", "proxy", "probe_auroc")
    return pd.DataFrame([{"variant": v, "step": s, **dict.fromkeys(names, 0.5)} for v in variants for s in (0, 9)])


def candidates(ways):
    place = {"split": "validation", "bypass": 0.5, "kl": 0.01, "chosen": True}
    return pd.DataFrame([place | {"way": way, "layer_idx": layer} for way in ways for layer in (0, 1, 2, 31)])


def scored(families):
    kinds = ("aligned", "harmful", "abliterated", "dissociated", "partly aligned", "over-refusing", "helpful-only")
    ends = {"asr": 0.5, "asr_lo": 0.4, "asr_hi": 0.6, "l2_asr": 0.5, "l2_asr_lo": 0.4, "l2_asr_hi": 0.6}
    scores = {"ras": 50.0, "ras_lo": 40.0, "ras_hi": 60.0}
    return pd.DataFrame([{"family": f, "kind": kind, **ends, **scores} for f in families for kind in kinds])


def profiles(families):
    profile = types.SimpleNamespace(m_safe=np.zeros(32), m_unsafe=np.ones(32), gap=np.ones(32))
    one = {"profile": profile, "window": (12, 18), "candidates": range(8, 26)}
    return ras_figures.profiles([one | {"name": name} for name in families])


def correlations(names):
    rows = pd.DataFrame([{"score": name, "spearman": 0.5, "spearman_lo": 0.1, "spearman_hi": 0.9} for name in names])
    return ras_figures.controls(rows, {"directions": 20, "mean": 0.1, "lo": -0.1, "hi": 0.4})


def seen(names):
    rows = [{"score": s, "failure": f, "caught": 1, "n": 3, "share": 0.3} for s in names for f in ("harmful", "opened")]
    return ras_figures.blind_spots(pd.DataFrame(rows))


def sweep(variants):
    rows = [
        {"attack.steps": a, "seed": b, "variant": v, "mean": 0.5, "min": 0.4, "max": 0.6}
        for a in ("1", "3", "10")
        for b in ("0", "1")
        for v in variants
    ]
    return sweep_figures.by_field(pd.DataFrame(rows), fields=["attack.steps", "seed"], measure="asr")


def history(models):
    ends = {"value": 0.5, "lo": 0.4, "hi": float("nan"), "variant": "base"}
    rows = [
        ends | {"run": f"a-run-with-a-name-of-some-length-{day}", "date": f"2026-01-0{day} 10:00 UTC", "arch": model}
        for day, model in enumerate(models, 1)
    ]
    names = {"asr": "under the L2 attack", "radius": "break radius", "gap": "audit gap", "ras": "RAS"}
    table = pd.concat([pd.DataFrame(rows).assign(measure=measure) for measure in names], ignore_index=True)
    return compare_figures.history(table, names=names, shares=("asr",))


FIGURES = {
    "by depth": lambda names: figures.lvs_by_depth(metrics_table(6, (0.01,), names)),
    "by depth, many budgets": lambda names: figures.lvs_by_depth(metrics_table(32, (0.005, 0.01, 0.02, 0.05), names)),
    "by depth, beyond the language": lambda names: figures.lvs_by_depth(beyond(metrics_table(6, (0.01,), names))),
    "by budget, beyond the language": lambda names: audit_figures.by_budget(
        beyond(lines(names)), reference=0.15, title="L2 attack"
    ),
    "two axes": lambda names: audit_figures.two_axes(points(names)),
    # The default card: one layer, where base's key was cut off.
    "by budget": lambda names: audit_figures.by_budget(lines(names), reference=0.15, title="L2 attack"),
    "steering": lambda names: audit_figures.steering_by_layer(lines(names, layers=[f"L{i}" for i in range(32)])),
    "projection": lambda names: audit_figures.projection_by_depth(lines([*names, f"{names[0]} + nudge"], budgets=(1,))),
    "curves": lambda names: curve_figures.compliance_by_step(curves(names)),
    "construction": lambda names: curve_figures.construction_by_step(training(names)),
    "ablation": lambda names: ablation_figures.bypass_by_layer(candidates(names), max_kl=0.1),
    "profiles": profiles,
    "score by ASR": lambda names: ras_figures.score_by_asr(scored(names), limit=88.0),
    "static against pushed": lambda names: ras_figures.static_against_pushed(scored(names[:1]), limit=88.0),
    "correlations": correlations,
    "blind spots": seen,
    "sweep": sweep,
    "history": history,
}


def outside(figure) -> list[str]:
    """Texts and legends that reach beyond the figure by more than half a point, and legends that lie on axes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, bounds, slack = canvas.get_renderer(), figure.bbox, figure.dpi / 144
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in drawn(figure)]
    boxes += [("legend", legend.get_window_extent(renderer)) for legend in figure.legends]
    found = [
        what
        for what, box in boxes
        if box.x0 < bounds.x0 - slack
        or box.y0 < bounds.y0 - slack
        or box.x1 > bounds.x1 + slack
        or box.y1 > bounds.y1 + slack
    ]
    tops = [axis.get_tightbbox(renderer).y1 for axis in figure.axes]
    lows = [legend.get_window_extent(renderer).y0 for legend in figure.legends]
    return found + [f"legend over axes by {max(tops) - low:.0f}" for low in lows if low < max(tops) - slack]


def drawn(figure) -> list[Text]:
    """Every text that is seen; a tick beyond the limits of its axis is not."""
    of_ticks = {id(text) for tick in figure.findobj(Tick) for text in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if id(text) not in of_ticks]
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize(
    "name, names", [*((name, LONG) for name in FIGURES), ("by budget", POLES), ("two axes", POLES), ("by depth", POLES)]
)
def test_every_word_lies_inside_its_figure_in_letters_that_can_be_read(name, names):
    figure = FIGURES[name](names)
    assert not outside(figure)
    # The page draws a figure at 1.18 to 1.53 pixels a point.
    sizes = [text.get_fontsize() for text in drawn(figure)]
    assert min(sizes) * 1.18 > 9.4 and max(sizes) * 1.53 < 20


def test_a_legend_too_wide_is_noticed():
    figure = audit_figures.by_budget(lines(POLES), reference=0.15, title="L2 attack")
    for legend in list(figure.legends):
        handles = legend.legend_handles
        legend.remove()
    # As it was: four columns, whatever they need.
    labels = [*POLES, "random direction of the same length"]
    figure.legend(handles=handles, labels=labels, loc="outside upper center", ncols=4)
    assert "legend" in outside(figure) or "base" in outside(figure)


def test_the_page_draws_figures_by_their_width_in_points(tmp_path):
    style = (pathlib.Path(figures.__file__).parent / "page" / "style.css").read_text(encoding="utf-8")
    assert "calc(var(--points) * 1.18px)" in style and "calc(var(--points) * 1.53px)" in style
    svg = figures.save_figure(audit_figures.two_axes(points(POLES)), tmp_path, "two")
    assert svg.startswith('<svg style="--points: 302"') and 'pt"' not in svg[: svg.index(">")]


def test_axes_say_what_the_last_state_is():
    def texts(figure):
        return " ".join(text.get_text() for text in figure.findobj(Text))

    table = metrics_table(6, (0.01,))
    assert "to L5 (output of block 5), the last one looked at" in texts(figures.lvs_by_depth(table))
    some = table[(table.exp != "lvs") | table.layer.isin(["L0", "L1", "L2"])]
    few = texts(figures.lvs_by_depth(some))
    assert "from L0 (output of block 0) to L2 (output of block 2)" in few
    assert "embedding" in texts(figures.lvs_by_depth(table)) and "not aggregated" not in few
    assert "layer, steered: L0 to L7" in texts(FIGURES["steering"](POLES)).replace("L31", "L7")
    assert "L3 (output of block 3) alone" in texts(FIGURES["projection"](POLES))
