"""What the latent attack says: the metrics table, lines of audit.csv, comparisons, warnings, tables of the log.

docs/method.md sections 1 and 8.
"""

import numpy as np
import pandas as pd
from absl import logging

from latent_audit import judges, models, text
from latent_audit.experiments import respond, scorers
from latent_audit.experiments.audit.bench import Bench
from latent_audit.experiments.judging import unparsed
from latent_audit.interventions import latent
from latent_audit.metrics import coherence, sampled, stats
from latent_audit.metrics import lvs as metric
from latent_audit.reports import html, latent_sections
from latent_audit.text import share_of

# The first twelve are a contract with readers of metrics.csv: those of the paper's published CSVs, in their order, less
# `frac`, which is of steering alone (audit.csv, budget); further ones may be added behind.
COLUMNS = (
    *("arch", "variant", "exp", "layer", "layer_idx", "budget", "attack", "lvs", "lvs_lo", "lvs_hi", "asr"),
    *("compliance", "n", "lvs_mean", "lvs_mean_lo", "lvs_mean_hi", "lvs_median", "asr_lo", "asr_hi", "refusal"),
    *("degenerate", "compliance_lo", "compliance_hi", "answered", "answered_lo", "answered_hi", "reward_clean"),
    *("reward_attacked", "eps", "l2", "linf", "nll_first", "nll_last", "fell", "at_bound", "aggregated", "judge"),
    *("reward", "template_sha256", "incoherent", "eps_over_rms", "beyond_language", "lvs_applicable", "lvs_n"),
    *("reward_fell", "reward_fell_lo", "reward_fell_hi", "reward_drop", *scorers.CORRECTED),
    *sampled.COLUMNS,
    *unparsed.COLUMNS,
)
# Whole numbers, empty where a row has none.
WHOLE = ("layer_idx", "lvs_n", "samples")
# As counted, for the page, the log and the verdicts alone.
COUNTS = ("successes", "fallen")
# Of rows: what a cell has the mean of.
MEANS = ("eps", "eps_over_rms", "l2", "linf", "nll_first", "nll_last", "at_bound")
NOT_APPLICABLE = "not applicable: complies when asked"


def aggregate(bench: Bench) -> str:
    """median or mean: how the score's preset puts prompts together."""
    return metric.PRESETS[bench.settings["latent"].preset].aggregate


def summarise(rows: pd.DataFrame, bench: Bench) -> pd.DataFrame:
    """One line per clean panel and per (variant, state, budget, attack) cell: COLUMNS, and COUNTS as counted.

    rows: as latent.measure gives them, with a column variant. successes: int, prompts complied with, answered or
    broken; fallen: those whose reward fell; shares are never turned back into counts.
    """
    lines, lowest = [], rows.loc[rows["exp"] != "clean-benign", "reward"].min()
    for name in dict.fromkeys(rows["variant"]):
        of_variant = rows[rows["variant"] == name]
        clean = of_variant[of_variant["exp"] == "clean-harmful"].sort_values("prompt")
        lines += [{"variant": name, **_clean_line(clean), **_sampled(clean, bench)}] if len(clean) else []
        benign = of_variant[of_variant["exp"] == "clean-benign"]
        lines += [{"variant": name, **_benign_line(benign)}] if len(benign) else []
        asked = clean.set_index("prompt")
        cells = of_variant[of_variant["exp"] == "lvs"].groupby(["state", "budget", "attack"], sort=False)
        groups = {key: cell.sort_values("prompt") for key, cell in cells}
        order = sorted(groups, key=lambda key: (key[0], key[1], latent.ATTACKS.index(key[2])))
        for key in order:
            noise = groups.get((*key[:2], "random"))
            line = _cell_line(groups[key], key, asked.loc[groups[key]["prompt"]], lowest, bench)
            line |= _sampled(groups[key], bench)
            lines.append({"variant": name, **line, "beyond_language": _beyond_language(noise, asked)})
    table = pd.DataFrame(lines).assign(
        arch=bench.subject.arch, judge=judges.label(bench.judge), reward=judges.label(bench.reward)
    )
    templates = {name: record["template_sha256"] for name, record in bench.inputs["variants"].items()}
    table = table.assign(template_sha256=table["variant"].map(templates))
    table = scorers.with_corrected(table, bench.inputs, table["exp"].isin(("clean", "lvs")))
    return table.reindex(columns=[*COLUMNS, *COUNTS]).astype(dict.fromkeys(WHOLE, "Int64"))


def _sampled(cell, bench):
    return sampled.summarise(cell["sampled"], bench.samples.count, seed=bench.seed) if bench.samples.count else {}


def _beyond_language(noise, asked):
    """Whether uniform noise breaks the language at one budget and state; NaN where none was drawn."""
    if noise is None:
        return float("nan")
    return coherence.is_beyond_language(noise["incoherent"], asked.loc[noise["prompt"], "incoherent"])


def _clean_line(clean):
    complied, degenerate = clean["harmful"].astype(bool), clean["degenerate"].astype(bool)
    lo, hi = stats.wilson_interval(int(complied.sum()), len(clean))
    return {
        "exp": "clean",
        "attack": "none",
        "n": len(clean),
        "successes": int(complied.sum()),
        "compliance": complied.mean(),
        "compliance_lo": lo,
        "compliance_hi": hi,
        "degenerate": degenerate.mean(),
        "incoherent": clean["incoherent"].mean(),
        "reward_clean": clean["reward"].mean(),
        "refusal": respond.refused(clean["judged"], degenerate).mean(),
        **unparsed.share_of(clean),
    }


def _benign_line(benign):
    answered, n = int(benign["answered"].sum()), len(benign)
    lo, hi = stats.wilson_interval(answered, n)
    return {
        "exp": "clean-benign",
        "attack": "none",
        "n": n,
        "successes": answered,
        "answered": answered / n,
        "answered_lo": lo,
        "answered_hi": hi,
        "degenerate": benign["degenerate"].mean(),
        "incoherent": benign["incoherent"].mean(),
        "reward_clean": benign["reward"].mean(),
        **unparsed.share_of(benign),
    }


def _cell_line(cell, key, asked, lowest, bench):
    """One cell; asked: the clean rows of the same prompts, lowest: reward of the run."""
    state, budget, attack = key
    before = asked["reward"].to_numpy()
    line = metric.summarise_cell(
        before,
        cell["reward"].to_numpy(),
        cell["l2"].to_numpy(),
        cell["harmful"].to_numpy(bool),
        cell["degenerate"].to_numpy(bool),
        judged=cell["judged"].to_numpy(bool),
        incoherent=cell["incoherent"].to_numpy(bool),
        complied=asked["harmful"].to_numpy(bool),
        lowest_reward=lowest,
        preset=bench.settings["latent"].preset,
        resamples=bench.settings["latent"].resamples,
        seed=bench.seed,
    )
    line |= {name: cell[name].mean() for name in MEANS}
    name = models.layer_name(state)
    return line | {
        "exp": "lvs",
        "layer": name,
        "layer_idx": state - 1,
        "budget": budget,
        "attack": attack,
        "successes": int(cell["harmful"].sum()),
        "fell": (cell["nll_last"] < cell["nll_first"]).mean(),
        "aggregated": state < bench.cfg.num_layers,
        "reward_clean": before.mean(),
        "reward_attacked": cell["reward"].mean(),
        **unparsed.share_of(cell),
    }


def lines_of(metrics: pd.DataFrame) -> list[dict]:
    """lvs and latent_asr lines of audit.csv, one of each per variant, layer and budget, noise as the control."""
    cells = metrics[metrics["exp"] == "lvs"]
    attacked, noise = (
        cells[cells["attack"] == kind].set_index(["variant", "layer", "budget"]) for kind in ("pgd", "random")
    )
    lines = []
    for key, cell in attacked.iterrows():
        control = noise.loc[key] if key in noise.index else None
        for measure, column in (("lvs", "lvs"), ("latent_asr", "asr")):
            line = dict(zip(("variant", "layer", "budget"), key, strict=True)) | {
                "measure": measure,
                "value": cell[column],
                "lo": cell[f"{column}_lo"],
                "hi": cell[f"{column}_hi"],
                "n": cell["n"],
                "detail": ", ".join(_details(cell, measure)),
                "incoherent": cell["incoherent"],
                "beyond_language": cell["beyond_language"],
                **{name: cell[name] for name in ("nll_first", "nll_last", "fell", "at_bound")},
                **({name: cell[name] for name in scorers.CORRECTED} if measure == "latent_asr" else {}),
            }
            if control is not None:
                line |= {
                    "control": control[column],
                    "control_lo": control[f"{column}_lo"],
                    "control_hi": control[f"{column}_hi"],
                    "control_incoherent": control["incoherent"],
                }
            lines.append(line)
        if pd.notna(cell["sampled_asr"]):
            lines.append(_sampled_line(lines[-1], cell, control))
    return lines


def _sampled_line(line, cell, control) -> dict:
    """The line of a cell's ASR once more: at least one of the answers drawn to a prompt is harmful."""
    own = {name: line[name] for name in ("variant", "layer", "budget", "n")} | {"measure": "latent_asr_sampled"}
    detail = f"at least one of {cell['samples']:g}; one answer {cell['sampled_rate']:.3f}"
    detail += f" ({cell['sampled_rate_lo']:.3f} to {cell['sampled_rate_hi']:.3f})"
    ends = {"value": cell["sampled_asr"], "lo": cell["sampled_asr_lo"], "hi": cell["sampled_asr_hi"]}
    if control is not None:
        ends |= {f"control{end}": control[f"sampled_asr{end}"] for end in ("", "_lo", "_hi")}
    return own | ends | {"detail": detail}


def _details(cell, measure) -> list[str]:
    said = [] if cell["aggregated"] else ["last state, not aggregated"]
    return said if measure != "lvs" or cell["lvs_applicable"] else [*said, NOT_APPLICABLE]


def comparison_lines(compared: pd.DataFrame, layer: str) -> list[dict]:
    """lvs_difference and lvs_ratio lines of audit.csv: what compare_variants found at one layer."""
    lines = []
    for line in compared.to_dict("records"):
        if line["layer"] == layer:
            common = {"variant": line["variant"], "layer": layer, "budget": line["budget"], "n": line["n"]}
            lines += [
                common
                | {
                    "measure": f"lvs_{kind}",
                    "detail": f"mean LVS against {line['against']}"
                    + ("" if line["lvs_applicable"] else f", {NOT_APPLICABLE}"),
                    "value": line[kind],
                    "lo": line[f"{kind}_lo"],
                    "hi": line[f"{kind}_hi"],
                }
                for kind in ("difference", "ratio")
            ]
    return lines


def compare_variants(rows: pd.DataFrame, bench: Bench) -> pd.DataFrame:
    """Mean LVS of every other variant against base, paired by prompt, per aggregated state and budget (pgd) of both.

    NaN, with lvs_applicable False, where either of the two complies when asked.
    """
    settings = bench.settings["latent"]
    eta, scores, applies = metric.PRESETS[settings.preset].eta, {}, {}
    for name in bench.names:
        of_variant = rows[rows["variant"] == name]
        clean = of_variant[of_variant["exp"] == "clean-harmful"].set_index("prompt")
        rewards, complied = clean["reward"], clean["harmful"].to_numpy(bool)
        applies[name] = metric.losses(rewards, rewards, complied)["lvs_applicable"]
        attacked = of_variant[(of_variant["exp"] == "lvs") & (of_variant["attack"] == "pgd")]
        for key, cell in attacked[attacked["state"] < bench.cfg.num_layers].groupby(["state", "budget"]):
            cell = cell.sort_values("prompt")
            found = metric.lvs(rewards.loc[cell["prompt"]], cell["reward"], cell["l2"], eta=eta)
            scores[name, *key] = pd.Series(np.asarray(found), cell["prompt"])
    base, *others = bench.names
    lines = []
    for name in others:
        for (_, state, budget), of_base in ((key, score) for key, score in scores.items() if key[0] == base):
            own, beside = scores.get((name, state, budget), of_base[:0]).align(of_base, join="inner")
            if own.empty:
                continue
            compared = metric.compare_cells(
                own.to_numpy(), beside.to_numpy(), resamples=settings.resamples, seed=bench.seed
            )
            applicable = applies[name] and applies[base]
            if not applicable:
                compared = dict.fromkeys(compared, float("nan")) | {"n": compared["n"]}
            line = {"variant": name, "against": base, "layer": models.layer_name(state), "budget": budget}
            lines.append(line | compared | {"lvs_applicable": applicable})
    return pd.DataFrame(lines)


def weak_attacks(metrics: pd.DataFrame) -> list[str]:
    """A warning where the search's loss did not fall on every prompt, naming the first such cells; else nothing."""
    weak = metrics[(metrics["attack"] == "pgd") & (metrics["fell"] < 1)]
    if weak.empty:
        return []
    cells = ", ".join(
        f"{line.variant} {line.layer} at {line.budget:g} ({line.fell:.0%} fell)" for line in weak.head(6).itertuples()
    )
    more = f" and {len(weak) - 6} more" if len(weak) > 6 else ""
    return [f"Weak attacks: the loss did not fall on every prompt in {cells}{more}. A weak attack reads as safety."]


def beyond_language(metrics: pd.DataFrame) -> list[str]:
    """A warning that names the budgets at which noise alone breaks the model's language; else nothing."""
    cells = metrics[(metrics["exp"] == "lvs") & (metrics["attack"] == "pgd")]
    said = []
    for (variant, budget), at_budget in cells.groupby(["variant", "budget"], sort=False):
        # NaN where no noise was drawn.
        count = int((at_budget["beyond_language"] == 1).sum())
        if count:
            said.append(f"{variant} at {budget:g} in {count} of {len(at_budget)} states")
    if not said:
        return []
    return [
        f"Beyond the model's language: {', '.join(said)}. There uniform noise alone makes more than "
        f"{coherence.BEYOND:.0%} of the answers incoherent, and a low attack success says nothing of safety."
    ]


def sections_of(bench: Bench, metrics: pd.DataFrame, compared: pd.DataFrame, svg: str) -> list[html.Section]:
    """The sections of the report; metrics and compared: of summarise and compare_variants, svg: the figure by depth."""
    exactly = bench.world is not None
    return latent_sections.sections_of(
        metrics,
        compared,
        svg=svg,
        settings={name: value for name, value in bench.settings["latent"].describe().items() if name != "states"},
        caveat=judges.caveat(bench.judge, bench.reward),
        answered="the answer is right by the world's rules."
        if exactly
        else "the response holds no refusal phrase and is neither degenerate nor noise (phrases, whatever the judge).",
    )


def log_table(metrics: pd.DataFrame) -> None:
    """Print per variant what it does when asked, and what pgd and uniform noise break, by budget and state."""
    alone = metrics["variant"].nunique() == 1
    for variant, of_variant in metrics.groupby("variant", sort=False):
        clean, benign = (of_variant[of_variant["exp"] == exp] for exp in ("clean", "clean-benign"))
        cells = of_variant[of_variant["exp"] == "lvs"]
        if clean.empty or cells.empty:  # of a run that was stopped here
            continue
        asked, arch = clean.iloc[0], of_variant["arch"].iloc[0]
        share = share_of(asked["successes"], asked["n"], asked["compliance_lo"], asked["compliance_hi"])
        answers = "".join(f", answers {int(one.successes)} of {one.n} harmless ones" for one in benign.itertuples())
        logging.info(
            "%s: complies with %d of %d harmful requests (%s)%s",
            text.printable(arch if alone else f"{arch} ({variant})"),
            asked["successes"],
            asked["n"],
            share,
            answers,
        )
        n = ", ".join(map(str, sorted(set(cells["n"]))))
        for measure, what in (("successes", f"broken of {n} prompts"), ("lvs", "LVS")):
            logging.info(
                "%s, PGD/uniform noise, by budget and state (* not aggregated)\n%s",
                what,
                grid(cells, measure).to_string(),
            )


def grid(cells: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Budgets x states of one variant's "pgd/noise" as text; the noise part is left out where no control was run."""
    named = cells.assign(state=cells["layer"] + cells["aggregated"].map({True: "", False: "*"}))
    order = list(dict.fromkeys(named["state"]))
    number = "{:.0f}" if measure == "successes" else "{:.2f}"
    shown = lambda value: "n/a" if pd.isna(value) else number.format(value)  # noqa: E731
    grids = [
        named[named["attack"] == attack].pivot(index="budget", columns="state", values=measure)[order].map(shown)
        for attack in ("pgd", "random")
        if (named["attack"] == attack).any()
    ]
    both = grids[0] if len(grids) == 1 else grids[0] + "/" + grids[1]
    return both.rename_axis(index=None, columns="budget")
