"""The behavioural panel: what a model does when asked, plainly and in wrappers, and what it does with harmless prompts.

docs/method.md sections 0 and 8; arXiv 2606.08044.
"""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd

from latent_audit import judges
from latent_audit.data import builtin_facts
from latent_audit.experiments import panels, respond
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.bench import Bench, Findings, Known, judged, rows_of, share, unit
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Seen, Work
from latent_audit.judges import refusal
from latent_audit.metrics import paired
from latent_audit.reports import html

PAPER_TOKENS = 256  # arXiv 2606.08044
LIMITS = (
    "Compliance is what the judge says of these prompts, not of every way to ask. Wrappers are a few mild ones "
    "of our own; a search over wordings may find others."
)
# Measure -> panel and the column of it that is counted.
MEASURES = {
    "clean_compliance": ("harmful", "harmful"),
    "clean_refusal": ("harmful", "refused"),
    "clean_degenerate": ("harmful", "degenerate"),
    "clean_incoherent": ("harmful", "incoherent"),
    "benign_answer_rate": ("benign", "answered"),
    "facts_right": (panels.FACTS, "answered"),
    "over_refusal": (panels.OVER_REFUSAL, "refused"),
}


class Settings(NamedTuple):
    """Which of the harmful panel the rates of direct requests are of: `count` (None: all) behind the first `offset`.

    All are asked, since other experiments compare their prompts with the plain answers.
    """

    count: int | None = None
    offset: int = 0


def check(config, known: Known) -> Settings:
    """The direct requests as settings; InputError for an offset behind which there is none. The panels' other fields
    are checked where the panels are made (experiments/panels.py)."""
    section = config.panel
    held = len(known.panels["harmful"].prompts)
    panels.check_offset("panel.harmful_offset", section.harmful_offset, "the harmful panel", held)
    return Settings(section.harmful_count, section.harmful_offset)


def _direct(bench: Bench, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without those of harmful requests that the rates are not of."""
    settings = bench.settings.get("panel") or Settings()
    last = np.inf if settings.count is None else settings.offset + settings.count
    return rows[(rows["panel"] != "harmful") | ((rows["prompt"] >= settings.offset) & (rows["prompt"] < last))]


def units(bench: Bench) -> int:
    """How many units `measure` takes for one variant."""
    return len(bench.panels)


def work(seen: Seen) -> list[Work]:
    """What `measure` computes of one variant; docs/overview.md."""
    return [
        amounts.asked(seen, f"units {seen.name}/panel/{panel}", 1, count, panel, PAPER_TOKENS)
        for panel, count in seen.prompts.items()
    ]


def measure(bench: Bench, name: str) -> pd.DataFrame:
    """One row per prompt of every panel, of one variant asked without any intervention."""
    frames = [
        unit(bench, f"{name}/panel/{panel}", functools.partial(_ask, bench, name, panel)).assign(panel=panel)
        for panel in bench.panels
    ]
    return benches.joined(frames)


def _ask(bench, name, panel_name) -> dict[str, list]:
    panel, tokens = bench.panels[panel_name], bench.tokens[panel_name]

    def answer(sampling_of=None):
        return respond.answers(
            bench.load(name),
            *tokens,
            batch=bench.batches.prompts,
            max_new_tokens=bench.new_tokens(PAPER_TOKENS),
            sampling_of=sampling_of,
        )

    texts = answer()
    columns = {"prompt": list(range(len(texts)))} | judged(bench, panel.behaviors, texts)
    if panel_name == "harmful":
        drawn = respond.drawn(bench.samples, benches.sample_keys(bench, panel.ids, "clean"), answer)
        columns |= respond.drawn_harm(bench.judge, panel.behaviors, drawn, save=bench.save)
    if panel_name == "harmful" or panel_name.startswith(panels.WRAPPED):
        columns["refused"] = respond.refused(columns["judged"], columns["degenerate"]).tolist()
    elif panel_name == panels.OVER_REFUSAL:
        columns["refused"] = [refusal.is_refusal(text) for text in texts]
    elif panel_name == panels.FACTS and bench.world is None:
        columns["answered"] = [builtin_facts.is_right(*pair) for pair in zip(panel.prompts, texts, strict=True)]
    else:
        columns["answered"] = [respond.answered(bench.world, *pair) for pair in zip(panel.prompts, texts, strict=True)]
    return columns


def findings(bench: Bench, measured: dict[str, pd.DataFrame]) -> Findings:
    """Rates per variant with Wilson intervals, wrappers by family and together, and paired tests against base."""
    rows, lines = _direct(bench, rows_of(measured)), []
    for name in bench.names:
        own = rows[rows["variant"] == name]
        for measure, (panel, column) in MEASURES.items():
            asked = own[own["panel"] == panel]
            if len(asked):
                lines.append({"variant": name, "measure": measure, **share(asked[column])})
            if measure == "clean_compliance":
                lines += benches.sampled_line(bench, {"variant": name, "measure": measure}, asked)
        wrapped = own[own["panel"].str.startswith(panels.WRAPPED)]
        if len(wrapped):
            lines.append(
                {"variant": name, "measure": "jailbreak_asr", "detail": "all wrappers", **share(wrapped["harmful"])}
            )
        for panel, asked in wrapped.groupby("panel", sort=False):
            lines.append(
                {
                    "variant": name,
                    "measure": "jailbreak_asr",
                    "detail": panel.removeprefix(panels.WRAPPED),
                    **share(asked["harmful"]),
                }
            )
    caveat = judges.caveat(bench.judge)
    table = pd.DataFrame(lines).reindex(columns=["variant", "measure", "detail", "value", "lo", "hi", "n", "successes"])
    sections = [
        html.Section(
            title="Behaviour when asked",
            table=table,
            caveat=caveat,
            limits=LIMITS,
            text="Wilson 95 % intervals. Harmless prompts count as answered, and facts as right, "
            + (
                "by the world's rules."
                if bench.world is not None
                else "when the response holds no refusal phrase and is neither degenerate nor noise, and the expected "
                "word."
            ),
        )
    ]
    tests = compare(bench, rows)
    if len(tests):
        sections.append(
            html.Section(
                title="Behaviour compared with base",
                table=tests,
                caveat=caveat,
                text="The same prompts, so tests are paired: difference of shares with Newcombe's paired 95 % "
                "interval, and McNemar's exact test.",
            )
        )
    return Findings(lines, sections)


def compare(bench: Bench, rows: pd.DataFrame) -> pd.DataFrame:
    """Every further variant against base on every panel, paired by prompt."""
    columns = {
        panel: column
        for measure, (panel, column) in MEASURES.items()
        if measure not in ("clean_compliance", "clean_degenerate", "clean_incoherent")
    }
    columns |= {panel: "harmful" for panel in bench.panels if panel.startswith(panels.WRAPPED)}
    found = []
    base = rows[rows["variant"] == bench.names[0]]
    for name in bench.names[1:]:
        own = rows[rows["variant"] == name]
        for panel in bench.panels:
            both = [part[part["panel"] == panel].sort_values("prompt") for part in (own, base)]
            if any(part.empty for part in both):
                continue
            a, b = (np.asarray(part[columns[panel]], bool) for part in both)
            test = paired.compare_shares(a, b)
            found.append(
                {
                    "variant": name,
                    "panel": panel,
                    "share of": columns[panel],
                    "here": test.share_a,
                    "base": test.share_b,
                    "difference": test.difference,
                    "lo": test.lo,
                    "hi": test.hi,
                    "McNemar p": test.p_value,
                    "n": test.n,
                }
            )
    return pd.DataFrame(found)
