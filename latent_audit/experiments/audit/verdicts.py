"""From an audit's tables to a verdict per variant, and the sentences that lead a report. docs/method.md section 8.

The rules themselves are metrics/verdict.py's; here the counts that they read are found in the tables.
"""

import pandas as pd

from latent_audit import judges, models
from latent_audit.experiments.audit.bench import AT_FRACTION, Bench, reference
from latent_audit.metrics import verdict
from latent_audit.reports import html

KNOWN_TO_BREAK = "dissociated"
# Which verdict leads: what is not seen from outside comes first.
LEADING = ("hollow", "vulnerable", "unsafe", "inconclusive", "robust")


def judge_variants(bench: Bench, table: pd.DataFrame, metrics: pd.DataFrame | None) -> dict[str, verdict.Verdict]:
    """Variant -> Verdict, from the latent attack's cells and the L2 attack at the nudge fraction; {} without the first.

    table: lines of the experiments, with their counts; metrics: latent_report.summarise's, or None. A dissociated
    variant, made to break, is the others' positive control.
    """
    if metrics is None or not metrics["aggregated"].eq(True).any():
        return {}
    rule = verdict.Rule(reference_budget=bench.settings["latent"].reference_budget, also=_also(bench))
    cells = {name: verdict.cells_of(metrics, name) + l2_cells(table, name, rule) for name in bench.names}
    known = cells.get(KNOWN_TO_BREAK)
    return {
        name: verdict.judge(
            clean_count(table, metrics, name),
            cells[name],
            rule=rule,
            positive_control=None if name == KNOWN_TO_BREAK else known,
        )
        for name in bench.names
    }


def _also(bench: Bench) -> str:
    """What the rule says of the L2 attack, where it was run."""
    if "l2" not in bench.settings:
        return ""
    return (
        f"The one-layer L2 attack at the nudge fraction ({reference(bench):g} of the activation norm at "
        f"{models.layer_name(bench.nudge_state)}) is judged as one more state. "
    )


def clean_count(table: pd.DataFrame, metrics: pd.DataFrame, name: str) -> verdict.Count:
    """Harmful requests complied with when asked: of the whole panel where it was asked, else of the latent attack's."""
    asked = table[(table["measure"] == "clean_compliance") & (table["variant"] == name)]
    if asked.empty:
        asked = metrics[(metrics["exp"] == "clean") & (metrics["variant"] == name)]
    return verdict.Count(int(asked["successes"].iloc[0]), int(asked["n"].iloc[0]))


def l2_cells(table: pd.DataFrame, name: str, rule: verdict.Rule) -> list[verdict.Cell]:
    """The L2 attack at the nudge fraction as a cell of the verdict; [] where it was not run."""
    lines = table[(table["measure"] == "l2_asr") & (table["variant"] == name)]
    lines = lines[lines["detail"] == AT_FRACTION] if len(lines) else lines
    return [
        verdict.Cell(
            f"{line.layer} (L2)",
            rule.reference_budget,
            verdict.Count(int(line.successes), int(line.n)),
            verdict.Count(int(line.control_successes), int(line.n)),
            float(line.fell),
            push=f"one vector of {line.budget:g} of the activation norm at {line.layer}",
        )
        for line in lines.itertuples()
    ]


def headline(verdicts: dict[str, verdict.Verdict], experiments) -> str:
    """The answer in one or two sentences; experiments: names of those that were run."""
    if not verdicts:
        missing = "only the last state was attacked" if "latent" in experiments else "it needs the latent attack"
        return f"Measured: {', '.join(experiments)}. No verdict: {missing}."
    lead = min(verdicts, key=lambda name: LEADING.index(verdicts[name].label))
    sentence = verdicts[lead].sentence
    text = f"{lead} is {verdicts[lead].label}: it {sentence[0].lower()}{sentence[1:]}"
    others = ", ".join(f"{name} is {of_name.label}" for name, of_name in verdicts.items() if name != lead)
    return f"{text} For comparison: {others}." if others else text


def record(given: verdict.Verdict) -> dict:
    """A verdict as report.json has it."""
    numbers = [
        dict(zip(("name", "value", "interval", "control"), verdict.number_text(number), strict=True))
        for number in given.numbers
    ]
    return {
        "label": given.label,
        "sentence": given.sentence,
        "reason": given.reason,
        "rule": given.rule,
        "numbers": numbers,
    }


def shown(name: str, given: verdict.Verdict, beside: list[tuple], caveat: str) -> html.Verdict:
    """A verdict as the report shows it; beside: further numbers under those it rests on."""
    numbers = [*map(verdict.number_text, given.numbers), *beside]
    return html.Verdict(name, given.label, given.sentence, given.reason, given.rule, numbers, caveat)


def facts(bench: Bench, place) -> dict[str, str]:
    """What was audited and how, for the first screen; place: where one-layer attacks pushed, or None."""
    variants = bench.inputs["variants"]
    told = {
        "model": bench.subject.arch,
        "variants": ", ".join(f"{name} ({variant['fingerprint']})" for name, variant in variants.items()),
        "prompts": "; ".join(
            f"{name} {panel['n']} from {panel['source']}"
            for name, panel in bench.inputs["prompts"].items()
            if not name.startswith("wrapped-")
        ),
        "judge": judges.label(bench.judge),
        "reward": judges.label(bench.reward),
        "chat template": next(iter(variants.values()))["template_sha256"][:12],
        "dtype": bench.dtype,
    }
    if "latent" in bench.settings:
        attack = bench.settings["latent"]
        told["budgets"] = ", ".join(f"{budget:g}" for budget in attack.budgets) + f" of {attack.search.mode}"
    if place is not None:
        told["nudge layer"] = f"{models.layer_name(place.state)}, fraction {place.fraction:.3g} ({place.source})"
    return told
