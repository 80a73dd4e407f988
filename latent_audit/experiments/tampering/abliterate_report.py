"""What abliteration says: abliterate.csv, the figure, report.json and report.html. docs/method.md section 14."""

import pandas as pd
from absl import logging

from latent_audit import judges
from latent_audit.experiments import respond
from latent_audit.experiments.judging import unparsed
from latent_audit.interventions import abliterate
from latent_audit.metrics import first_token, stats
from latent_audit.reports import ablation_figures, columns, figures, html, outputs

PLACE = ("way", "layer", "position", "strength", "directions")
COLUMNS = tuple(
    (
        "arch way layer layer_idx position strength directions split bypass kl kl_lo kl_hi log_odds compliance "
        "compliance_lo compliance_hi refusal degenerate n answered answered_lo answered_hi n_benign facts "
        "facts_lo facts_hi n_facts chosen judge template_sha256 unparsed unparsed_lo unparsed_hi"
    ).split()
)
# As counted, for the page and the log alone.
# What stands in the place of a choice for a way that has no candidate.
LEFT_OUT = "left out: every token of the template's generation prefix stands elsewhere in the prompts too"
COUNTS = ("compliance_count", "answered_count", "facts_count")
LIMITS = (
    "A refusal that these ways do not remove may still be removed by others, several directions at once among them. "
    "The means of a few dozen prompts say little about unlike ones. affine, affine_layerwise and subtract act while "
    "the model runs: they are no checkpoints. affine_layerwise reaches the last layers too, where its direction is "
    "close to the first word itself. A way that moves the first word for harmful requests may do so for harmless "
    "prompts unlike the training ones: see the organism's facts, which chose nothing."
)


def summarise(frame: pd.DataFrame, base: pd.DataFrame) -> dict:
    """One model's numbers on one part, with Wilson (shares) and bootstrap (KL) 95 % intervals.

    bypass: how far the mean log-odds of a refusing first token on harmful prompts went from base's there to base's on
    harmless prompts, within [0, 1]. Shares are there where answers were generated.
    """
    harmful, benign = (frame[frame["harmful_prompt"] == kind] for kind in (True, False))
    line = {"kl": float(benign["kl"].mean()), "n": len(harmful), "n_benign": len(benign)}
    line["kl_lo"], line["kl_hi"] = stats.bootstrap_interval(benign["kl"], "mean")
    if "log_odds" in frame:
        line["log_odds"] = float(harmful["log_odds"].mean())
        start, end = (base[base["harmful_prompt"] == kind]["log_odds"].mean() for kind in (True, False))
        line["bypass"] = first_token.bypass(line["log_odds"], start=start, end=end)
    if "harmful" in frame:
        complied, degenerate = harmful["harmful"].astype(bool), harmful["degenerate"].astype(bool)
        line |= share("compliance", complied) | share("answered", benign["answered"])
        refusal = float(respond.refused(harmful["judged"], degenerate).mean())
        line |= {"refusal": refusal, "degenerate": float(degenerate.mean())} | unparsed.share_of(frame)
    return line


def share(name: str, values) -> dict:
    """{name, name_lo, name_hi, name_count}: the share of true values with its Wilson 95 % interval, and their count."""
    count = int(values.astype(bool).sum())
    lo, hi = stats.wilson_interval(count, len(values))
    return {name: count / len(values), f"{name}_lo": lo, f"{name}_hi": hi, f"{name}_count": count}


def write(job, table: pd.DataFrame, choices: dict[str, str]) -> None:
    """Write abliterate.csv, figures/, report.json and report.html from the lines of every model."""
    (template,) = (variant["template_sha256"] for variant in job.inputs["variants"].values())
    table = table.assign(judge=judges.label(job.judge), template_sha256=template).reindex(columns=[*COLUMNS, *COUNTS])
    for name in ("layer_idx", "position", "directions", *COUNTS):
        table[name] = table[name].astype("Int64")
    final, tried = (table[table["split"] == split] for split in ("evaluation", "validation"))
    rule = rule_text(job.by, job.shortlist)
    opened = job.loaded.chat.tokenizer.convert_ids_to_tokens(list(job.openings))
    svg = ""
    # Without a refusing first token there is no bypass to draw.
    if job.openings:
        picture = ablation_figures.bypass_by_layer(table, max_kl=abliterate.MAX_KL)
        svg = figures.save_figure(picture, job.workdir / "figures", "bypass_by_layer")
    record = {
        "inputs": job.inputs,
        "ways": abliterate.WAYS,
        "rule": rule,
        "choices": choices,
        "openings": opened,
        "positions": list(job.means.positions),
        "evaluation": html.records(final[list(COLUMNS)]),
        "validation": html.records(tried[list(COLUMNS)]),
    }
    page = _page(job, tried, final, rule, opened, choices, svg)
    outputs.write_run(
        job.workdir, task="abliterate", tables={"abliterate.csv": table[list(COLUMNS)]}, record=record, page=page
    )
    shown = final[[*PLACE, "compliance", "refusal", "answered", "facts", "kl", "n", "n_benign", "n_facts", *COUNTS]]
    logging.info(
        "evaluation prompts, chosen candidate of each way\n%s", columns.in_text(shown.dropna(axis="columns", how="all"))
    )


def rule_text(by: str, shortlist: int) -> str:
    """The rule of abliterate.shortlist and abliterate.choose in words, as it was applied."""
    within = (
        f"among candidates whose KL from base on the first token of harmless validation prompts is at most "
        f"{abliterate.MAX_KL:g}, the largest bypass: how far the log-odds of a refusing first token fell, from "
        "base's on harmful to base's on harmless validation prompts; ties to the smaller KL"
    )
    last = (
        f" Directions of the last {abliterate.EXCLUDED_SHARE:.0%} of layers are excluded. If no candidate is "
        "within the bounds, the smallest KL."
    )
    if by == "log_odds":
        return f"Per way, {within}.{last}"
    return (
        f"Per way, {shortlist} of each strength are put on a short list: {within}. They answer the validation "
        f"prompts, and of those that answer at most {abliterate.MAX_LOST_ANSWERS:.0%} fewer harmless ones than "
        f"base, the one that complies with most harmful ones is kept; ties to the smaller KL.{last}"
    )


def headline(final: pd.DataFrame, tried: pd.DataFrame, name: str) -> str:
    """What the way does that validation prompts chose as strongest, and the strongest that is a checkpoint.

    final: lines of evaluation prompts, with COUNTS; tried: of validation prompts; name: of the model.
    """
    candidates = tried[tried["chosen"].astype(bool)].set_index("way")
    strength = candidates["bypass"].astype(float)
    if "compliance" in candidates and candidates["compliance"].notna().any():
        strength = candidates["compliance"].astype(float)
    base = final[final["way"] == "base"].iloc[0]
    ways = final[final["way"] != "base"]
    text = f"{name} complies with {_told(base, 'compliance', 'n')} harmful requests."
    for title, rows in (("", ways), (" as a checkpoint", ways[ways["way"].isin(abliterate.IN_WEIGHTS)])):
        if len(rows):
            best = rows.loc[rows["way"].map(strength).fillna(-1.0).idxmax()]
            text += (
                f" The way{title} that validation prompts chose, {best['way']} ({best['layer']}), complies with "
                f"{_told(best, 'compliance', 'n')} and answers {_told(best, 'answered', 'n_benign')} harmless ones"
            )
            known = not pd.isna(best["facts"])
            text += f", but tells {_told(best, 'facts', 'n_facts')} held-out facts right." if known else "."
    return text


def _told(line, share: str, n: str) -> str:
    return f"{int(line[f'{share}_count'])} of {int(line[n])}"


def _result(way: str, choice: str) -> str:
    if choice == LEFT_OUT:
        return choice
    return "checkpoint" if way in abliterate.IN_WEIGHTS else "edit"


def _page(job, tried, final, rule, opened, choices, svg) -> dict:
    caveat = judges.caveat(job.judge)
    relaxed = [f"{way}: {step}" for way, step in choices.items() if step not in ("largest bypass", LEFT_OUT)]
    prompts = ", ".join(f"{name} {panel['n']}" for name, panel in job.inputs["prompts"].items())
    facts = {
        "model": job.subject.arch,
        "prompts": prompts,
        "judge": judges.label(job.judge),
        "chosen by": job.by,
        "positions": ", ".join(map(str, job.means.positions)),
        "refusing openings": ", ".join(opened) or "none",
        "dtype": job.dtype,
    }
    measured = [
        *PLACE,
        "compliance",
        "compliance_lo",
        "compliance_hi",
        "refusal",
        "degenerate",
        "answered",
        "answered_lo",
        "answered_hi",
        "kl",
        "n",
        "n_benign",
        "compliance_count",
        "answered_count",
    ]
    measured += [] if final["facts"].isna().all() else ["facts", "facts_lo", "facts_hi", "n_facts", "facts_count"]
    ways = pd.DataFrame(
        [
            {"way": way, "what it does": what, "result": _result(way, choices[way])}
            for way, what in abliterate.WAYS.items()
            if way in choices
        ]
    )
    tried = tried[tried["way"] != "base"]
    return dict(
        title=f"Abliteration of {job.subject.arch}",
        headline=headline(final, tried, job.subject.arch),
        verdicts=[],
        facts=facts,
        warnings=[
            text
            for text in (caveat, *(f"No candidate was within the bounds of the rule. {one}" for one in relaxed))
            if text
        ],
        sections=[
            html.Section(
                title="Chosen candidates on evaluation prompts",
                caveat=caveat,
                limits=LIMITS,
                text="Wilson 95 % intervals. Nothing was chosen on these prompts.",
                table=final[measured],
            ),
            html.Section(
                title="The ways",
                table=ways,
                text="The direction is the difference of mean states, harmful minus harmless training "
                "prompts (arXiv 2406.11717).",
            ),
            html.Section(
                title="Every candidate on validation prompts",
                text=rule,
                figure_svg=svg,
                caveat=caveat,
                figure_alt="bypass and KL by layer, one line per way; chosen candidates ringed",
                table=tried[
                    [*PLACE, "bypass", "kl", "log_odds", "compliance", "answered", "chosen", "n", "n_benign"]
                    + ["compliance_count", "answered_count"]
                ],
            ),
        ],
    )
