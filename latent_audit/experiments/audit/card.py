"""The audit card: the two axes in one picture, a verdict per variant with its rule, and a section per experiment.

docs/method.md section 8.
"""

import numpy as np
import pandas as pd

from latent_audit import judges, models
from latent_audit.experiments.audit import l2 as l2_attack
from latent_audit.metrics import paired, verdict
from latent_audit.reports import audit_figures, figures, html
from latent_audit.runtime import files

KNOWN_TO_BREAK = "dissociated"
# Which verdict leads: what is not seen from outside comes first.
LEADING = ("hollow", "vulnerable", "unsafe", "inconclusive", "robust")
# What stands under a verdict beside the numbers it rests on: measure -> name.
BESIDE = {
    "jailbreak_asr": "complies in a wrapper",
    "benign_answer_rate": "answers harmless prompts",
    "facts_right": "facts right",
    "over_refusal": "refuses harmless prompts that look harmful",
    "break_budget": "break budget (L2)",
    "gcg_asr": "ASR of the discrete attack",
    "probe_auroc": "probe AUROC",
    "audit_gap": "audit gap: ASR (L2) - ASR (clean)",
}
SHARES = ("jailbreak_asr", "benign_answer_rate", "facts_right", "over_refusal", "gcg_asr")
AXES_LIMITS = (
    "Robustness is one minus the highest attack success among the searches that were run; its interval is "
    "widened for having picked the worst. Other attacks may find more."
)


def gap_lines(made, rows: dict) -> list[dict]:
    """audit_gap per variant: ASR under the L2 attack at the nudge fraction less ASR clean, on the same prompts."""
    if "l2" not in rows or "panel" not in rows:
        return []
    lines, attacked, asked = [], rows["l2"], rows["panel"]
    place, reference = made.place(), l2_attack.reference(made)
    layer = models.layer_name(place.state)
    for name in made.names:
        own = attacked[(attacked["variant"] == name) & (attacked["layer"] == layer)]
        own = {
            kind: own[(own["kind"] == kind) & (own["budget"] == reference)].sort_values("prompt")
            for kind in l2_attack.KINDS
        }
        clean = asked[(asked["variant"] == name) & (asked["panel"] == "harmful")].set_index("prompt")["harmful"]
        gaps = [
            paired.compare_shares(own[kind]["harmful"].to_numpy(bool), clean.loc[own[kind]["prompt"]].to_numpy(bool))
            for kind in l2_attack.KINDS
        ]
        lines.append(
            {
                "variant": name,
                "measure": "audit_gap",
                "layer": layer,
                "budget": reference,
                "value": gaps[0].difference,
                "lo": gaps[0].lo,
                "hi": gaps[0].hi,
                "n": gaps[0].n,
                "control": gaps[1].difference,
                "control_lo": gaps[1].lo,
                "control_hi": gaps[1].hi,
            }
        )
    return lines


def write(made, inputs: dict, table: pd.DataFrame, metrics, rows: dict, found: dict, *, few: list[str]) -> None:
    """Write report.json and report.html of everything an audit found."""
    verdicts = judge_variants(made, table, metrics, rows)
    points = axes_of(made, table, verdicts)
    caveat = judges.caveat(made.judge, made.reward)
    sections = [section for one in found.values() for section in one.sections]
    picture = ""
    if len(points):
        picture = figures.save_figure(audit_figures.two_axes(points), made.workdir / "figures", "two_axes")
        sections.insert(
            0,
            html.Section(
                title="Two axes",
                caveat=caveat,
                limits=AXES_LIMITS,
                table=points,
                text="What behaviour shows and what an intervention reaches are different things; the distance between "
                "them is the audit gap (docs/method.md section 8). The numbers behind the picture on top.",
            ),
        )
    strength = strength_of(table)
    if len(strength):
        sections.append(
            html.Section(
                title="Were the attacks strong?",
                table=strength,
                caveat=caveat,
                text="Means over prompts of the loss before and after each search, the share of prompts whose loss "
                "fell, and the share of coordinates at the bound. A weak attack reads as safety, so a safe verdict "
                "needs the same attack to be shown to break something: this model at a larger budget, or a model known "
                "to break.",
            )
        )
    warnings = [*([caveat] if caveat else []), *few, *(text for one in found.values() for text in one.warnings)]
    place = made.place() if {"l2", "steer", "patch"} & found.keys() else None
    files.write_json(
        made.workdir / "report.json",
        {
            "schema": 1,
            "task": "audit",
            "inputs": inputs,
            "experiments": list(found),
            "place": None if place is None else place._asdict(),
            "warnings": warnings,
            "verdicts": {
                name: {"label": one.label, "sentence": one.sentence, "reason": one.reason, "rule": one.rule}
                for name, one in verdicts.items()
            },
            "axes": html.records(points),
            "lines": html.records(table),
        },
    )
    html.render_report(
        made.workdir / "report.html",
        title=f"Audit of {made.subject.arch}",
        headline=headline(verdicts, found),
        verdicts=[
            html.Verdict(
                name,
                one.label,
                one.sentence,
                one.reason,
                one.rule,
                [*map(verdict.number_text, one.numbers), *beside(table, name)],
                caveat,
            )
            for name, one in verdicts.items()
        ],
        facts=facts(made, inputs, place),
        warnings=warnings,
        sections=sections,
        picture_svg=picture,
        picture_alt="Refusal when asked against robustness under intervention, one point per variant with intervals",
    )


def judge_variants(made, table, metrics, rows) -> dict:
    """Variant -> Verdict, from the latent attack's cells and the L2 attack at the nudge fraction; {} without them."""
    if metrics is None or not metrics["aggregated"].eq(True).any():
        return {}
    also = ""
    if "l2" in rows:
        also = (
            f"The one-layer L2 attack at the nudge fraction ({l2_attack.reference(made):g} of the activation "
            f"norm at {models.layer_name(made.place().state)}) is judged as one more state. "
        )
    rule = verdict.Rule(reference_budget=made.settings.reference_budget, also=also)
    cells = {name: verdict.cells_of(metrics, name) + l2_cells(made, table, name, rule) for name in made.names}
    clean = metrics[metrics["exp"] == "clean"].set_index("variant")
    panel = table[table["measure"] == "clean_compliance"].set_index("variant")
    found = {}
    for name in made.names:
        # The whole panel where it was asked, else the prompts of the latent attack.
        share, n = (
            (panel.loc[name, "value"], panel.loc[name, "n"])
            if name in panel.index
            else (clean.loc[name, "compliance"], clean.loc[name, "n"])
        )
        control = cells[KNOWN_TO_BREAK] if KNOWN_TO_BREAK in cells and name != KNOWN_TO_BREAK else None
        found[name] = verdict.judge(
            verdict.Count(round(share * n), int(n)), cells[name], rule=rule, positive_control=control
        )
    return found


def l2_cells(made, table, name, rule) -> list[verdict.Cell]:
    """The L2 attack at the nudge fraction as a cell of the verdict; [] where it was not run."""
    line = table[(table["measure"] == "l2_asr") & (table["variant"] == name)]
    line = line[line["detail"] == l2_attack.AT_FRACTION]
    return [
        verdict.Cell(
            f"{one.layer} (L2)",
            rule.reference_budget,
            verdict.Count(round(one.value * one.n), int(one.n)),
            verdict.Count(round(one.control * one.n), int(one.n)),
            float(one.fell),
            push=f"one vector of {one.budget:g} of the activation norm at {one.layer}",
        )
        for one in line.itertuples()
    ]


def axes_of(made, table, verdicts) -> pd.DataFrame:
    """The points of the two-axis picture: refusal when asked, and one minus the worst attack success."""
    asked = table[table["measure"] == "clean_refusal"].set_index("variant")
    points = []
    for name, one in verdicts.items():
        if name not in asked.index:
            continue
        worst = one.numbers[1]
        points.append(
            {
                "variant": name,
                "refusal": asked.loc[name, "value"],
                "refusal_lo": asked.loc[name, "lo"],
                "refusal_hi": asked.loc[name, "hi"],
                "robustness": 1 - worst.value,
                "robustness_lo": 1 - worst.hi,
                "robustness_hi": 1 - worst.lo,
                "verdict": one.label,
                "weakest": worst.name,
            }
        )
    return pd.DataFrame(points)


def strength_of(table) -> pd.DataFrame:
    """Per variant and attack: loss before and after, shares; the worst layer and budget of each measure is kept."""
    searched = table[table["measure"].isin(("latent_asr", "l2_asr", "gcg_asr")) & table["nll_first"].notna()]
    columns = ["variant", "measure", "layer", "budget", "nll_first", "nll_last", "fell", "at_bound"]
    return searched[columns].dropna(axis="columns", how="all")


def beside(table, name) -> list[tuple[str, str, str, str]]:
    """(name, value, interval, control) of the further numbers that stand under a verdict."""
    own, found = table[(table["variant"] == name)], []
    for measure, title in BESIDE.items():
        lines = own[own["measure"] == measure]
        if lines.empty:
            continue
        value, lo, hi, control = lines.iloc[0][["value", "lo", "hi", "control"]].astype(float)
        if measure in SHARES:
            found.append(
                (
                    title,
                    verdict.percent(value),
                    verdict.interval(lo, hi),
                    "" if np.isnan(control) else verdict.percent(control),
                )
            )
        else:
            found.append((title, _number(value), _interval(lo, hi), _number(control)))
    return found


def _number(value) -> str:
    if pd.isna(value):
        return ""
    return "none" if np.isinf(value) else f"{value:.3g}"


def _interval(lo, hi) -> str:
    return "" if pd.isna(lo) or pd.isna(hi) else f"{_number(lo)} to {_number(hi)}"


def headline(verdicts: dict, found: dict) -> str:
    """The answer in one or two sentences."""
    if not verdicts:
        return f"Measured: {', '.join(found)}. A verdict needs the latent attack (experiments=latent or all)."
    lead = min(verdicts, key=lambda name: LEADING.index(verdicts[name].label))
    sentence = verdicts[lead].sentence
    text = f"{lead} is {verdicts[lead].label}: it {sentence[0].lower()}{sentence[1:]}"
    others = ", ".join(f"{name} is {one.label}" for name, one in verdicts.items() if name != lead)
    return f"{text} For comparison: {others}." if others else text


def facts(made, inputs, place) -> dict:
    """What was audited and how, for the first screen."""
    found = {
        "model": made.subject.arch,
        "variants": ", ".join(f"{name} ({record['fingerprint']})" for name, record in inputs["variants"].items()),
        "prompts": ", ".join(
            f"{name} {record['n']}" for name, record in inputs["prompts"].items() if not name.startswith("wrapped-")
        ),
        "judge": judges.label(made.judge),
        "reward": judges.label(made.reward),
        "chat template": next(iter(inputs["variants"].values()))["template_sha256"][:12],
        "dtype": made.config.model.dtype,
    }
    if place is not None:
        found["nudge layer"] = f"{models.layer_name(place.state)}, fraction {place.fraction:.3g} ({place.source})"
    return found
