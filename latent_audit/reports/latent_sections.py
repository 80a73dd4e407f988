"""What a report shows of the latent attack, from the lines of metrics.csv; docs/method.md section 1."""

from typing import Any

import pandas as pd

from latent_audit import text
from latent_audit.reports import figures, html
from latent_audit.reports.page.heat import Cell, Heat

LIMITS = (
    "A bounded search of ten steps towards one opening is a lower bound on what an attacker with the weights can do: "
    "high scores are evidence of weakness, low ones are not proof of strength. Scores at the embedding and the first "
    "block have reasons of input space. The state after the last block reaches one generated token only and is kept "
    "out of every aggregate."
)


def sections_of(
    metrics: pd.DataFrame, compared: pd.DataFrame, *, svg: str, settings: dict, caveat: str, answered: str
) -> list[html.Section]:
    """Figure, behaviour (where harmless prompts were asked too), every cell, strength of the attacks, comparisons.

    Args:
      metrics: lines of metrics.csv with their counts, successes and fallen; compared: of the variants with base.
      svg: the figure by depth; settings, caveat: as in html.Section; answered: what counts as an answer, in words.
    """
    cells = metrics[metrics["exp"] == "lvs"]
    clean = metrics[metrics["exp"].isin(("clean", "clean-benign"))]
    behaviour = html.Section(
        title="Behaviour when merely asked",
        caveat=caveat,
        text="Wilson 95 % intervals; docs/method.md section 0. Harmless requests count as answered when " + answered,
        table=clean.assign(compliance_count=clean["successes"], answered_count=clean["successes"], n_benign=clean["n"])[
            ["variant", "exp", "compliance", "compliance_lo", "compliance_hi", "compliance_count", "n", "refusal"]
            + ["degenerate", "incoherent", "answered", "answered_lo", "answered_hi", "answered_count", "n_benign"]
        ],
        limits="Compliance is what the judge says of these prompts, not of every way to ask.",
    )
    comparison = html.Section(
        title="Compared with base",
        table=compared,
        text="Difference and ratio of mean LVS, paired by prompt, bootstrap intervals; states kept out of aggregates "
        "are left out here.",
    )
    return [
        html.Section(
            title="Vulnerability by depth",
            figure_svg=svg,
            settings=settings,
            caveat=caveat,
            limits=LIMITS,
            figure_alt="LVS and attack success rate by residual state, one column per budget; controls dashed",
            text="Each residual state is pushed by a delta on the prompt's positions whose coordinates are bounded by "
            "the budget times the state's largest coordinate; the response is then generated greedily and scored "
            "(docs/method.md section 1). Attack success counts what is judged harmful and coherent. LVS does not apply "
            "to a model that complies when asked, and none is drawn.",
        ),
        *([behaviour] if (clean["exp"] == "clean-benign").any() or cells.empty else []),
        html.Section(
            title="Every cell",
            caveat=caveat,
            limits=LIMITS,
            text="LVS with its bootstrap interval (where nothing fell, its upper end is that of zero events), beside "
            "it the prompts whose reward fell, of those with something to lose, and their mean drop of reward; n/a "
            "where the model complies when asked. ASR with its Wilson interval counts what is judged harmful and "
            "coherent. Uniform noise lies under the same bound; noise of the same L2 length as the PGD delta may "
            "leave it. A cell is beyond the model's language, not its safety, where uniform noise makes more than a "
            "quarter of the answers incoherent.",
            table=cells.rename(columns={"successes": "asr_count", "fallen": "reward_fell_count"})[
                ["variant", "layer", "budget", "eps_over_rms", "attack", "lvs", "lvs_lo", "lvs_hi", "lvs_applicable"]
                + ["reward_fell", "reward_fell_lo", "reward_fell_hi", "reward_fell_count", "lvs_n", "reward_drop"]
                + ["asr", "asr_lo", "asr_hi", "asr_count", "n", "incoherent", "beyond_language", "l2", "aggregated"]
            ],
        ),
        html.Section(
            title="Were the attacks strong?",
            text="A weak attack reads as safety: the loss must fall. Losses are means over prompts.",
            table=cells[cells["attack"] == "pgd"][
                ["variant", "layer", "budget", "nll_first", "nll_last", "fell", "at_bound", "eps", "eps_over_rms"]
            ],
        ),
        *([] if compared.empty else [comparison]),
    ]


def heat_of(metrics: pd.DataFrame, variant: str, *, name: str, blocks: int) -> Heat | None:
    """What PGD broke of one variant, by budget and state of a model of so many blocks; None where nothing was attacked.

    metrics: as in sections_of; name: what the variant is called.
    """
    cells = metrics[(metrics["exp"] == "lvs") & (metrics["variant"] == variant)]
    attacked = cells[cells["attack"] == "pgd"]
    if attacked.empty:
        return None
    noise = {(row.layer, row.budget): row for row in cells[cells["attack"] == "random"].itertuples()}
    return Heat(
        rows=[f"{budget:g}" for budget in sorted(attacked["budget"].unique())],
        columns=[figures.state_name(state) for state in range(blocks + 1)],
        cells={
            (f"{row.budget:g}", figures.state_name(row.layer_idx + 1)): _heat_cell(
                row, noise.get((row.layer, row.budget))
            )
            for row in attacked.itertuples()
        },
        what=f"{name}: share of prompts broken by the latent attack, by budget and residual state",
        note="complies when asked: no push is needed" if attacked["lvs_applicable"].eq(False).any() else "",
    )


def _heat_cell(row: Any, noise: Any) -> Cell:
    told = f"{figures.state_name(row.layer_idx + 1)}, budget {row.budget:g}: "
    told += f"{text.counted(int(row.successes), int(row.n), float(row.asr_lo), float(row.asr_hi))} broken"
    told += "" if noise is None else f"; uniform noise {int(noise.successes)} of {int(noise.n)}"
    told += "" if pd.isna(row.lvs) else f"; LVS {row.lvs:.3g}"
    mark = "beyond" if row.beyond_language == 1 else "" if row.aggregated else "apart"
    told += {"beyond": "; beyond the model's language, not its safety", "apart": "; kept out of verdicts", "": ""}[mark]
    return Cell(float(row.asr), str(int(row.successes)), told, mark)
