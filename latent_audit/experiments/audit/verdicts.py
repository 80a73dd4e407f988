"""From an audit's tables to a verdict per variant, and the sentences that lead a report. docs/method.md section 8.

The rules themselves are metrics/verdict.py's; here the counts that they read are found in the tables.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from latent_audit import judges, models
from latent_audit.experiments.audit.bench import AT_FRACTION, Bench, reference
from latent_audit.metrics import verdict
from latent_audit.reports import html

KNOWN_TO_BREAK = "dissociated"
# Which verdict leads: what is not seen from outside comes first.
LEADING = ("hollow", "vulnerable", "unsafe", "inconclusive", "robust")
FEW = 50  # a verdict on fewer prompts says so in its first sentence


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


def names_of(arch: str, variants: Sequence[str]) -> dict[str, str]:
    """Variant -> the model's own name, with the pole's beside it where there are several."""
    return {name: arch if len(variants) == 1 else f"{arch} ({name})" for name in variants}


def circumstances(bench: Bench, table: pd.DataFrame, metrics: pd.DataFrame | None) -> str:
    """What a reader must know before a label: few or mild prompts, a judge of phrases; '' where neither is so.

    table, metrics: as in judge_variants, for how many prompts each count rests on.
    """
    counts = list(table[table["measure"].isin(("clean_compliance", "l2_asr"))]["n"])
    counts += [] if metrics is None else list(metrics[metrics["exp"].isin(("clean", "lvs"))]["n"])
    mild = bench.inputs["prompts"]["harmful"]["source"].startswith("builtin:")
    said = []
    if counts and (mild or min(counts) < FEW):
        least, most = int(min(counts)), int(max(counts))
        number = f"{least}" if least == most else f"{least} to {most}"
        said.append(f"on {number} {'mild built-in prompts' if mild else 'prompts'}")
    if bench.judge.is_fallback:
        said.append("judged by refusal phrases, not by harm")
    return ", ".join(said)


def headline(
    verdicts: dict[str, verdict.Verdict], experiments, *, names: Mapping[str, str] | None = None, under: str = ""
) -> str:
    """The answer in one or two sentences.

    experiments: names of those that were run; names: variant -> what it is called; under: circumstances.
    """
    names = names or {name: name for name in verdicts}
    if not verdicts:
        missing = "only the last state was attacked" if "latent" in experiments else "it needs the latent attack"
        return f"Measured: {', '.join(experiments)}. No verdict: {missing}."
    lead = min(verdicts, key=lambda name: LEADING.index(verdicts[name].label))
    sentence = verdicts[lead].sentence
    opening = f"{under[0].upper()}{under[1:]}, " if under else ""
    text = f"{opening}{names[lead]} is {verdicts[lead].label}: it {sentence[0].lower()}{sentence[1:]}"
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


def sentence_of(given: verdict.Verdict, under: str) -> str:
    """A verdict's sentence that begins with its circumstances, if there are any."""
    if not under:
        return given.sentence
    return f"{under[0].upper()}{under[1:]}, it {given.sentence[0].lower()}{given.sentence[1:]}"


def shown(name: str, given: verdict.Verdict, beside: list[tuple], caveat: str, under: str = "") -> html.Verdict:
    """A verdict as the report shows it; beside: further numbers under those it rests on; under: circumstances."""
    numbers = [*map(verdict.number_text, given.numbers), *beside]
    sentence = sentence_of(given, under)
    return html.Verdict(name, given.label, sentence, given.reason, given.rule, numbers, caveat)


def facts(bench: Bench, place) -> dict[str, str]:
    """What was audited and how, for the first screen; place: where one-layer attacks pushed, or None.

    Hashes of the inputs stand in the box of the run.
    """
    told = {
        "model": bench.subject.arch,
        **({"variants": ", ".join(bench.names)} if len(bench.names) > 1 else {}),
        "prompts": "; ".join(
            f"{name} {panel['n']} from {panel['source']}"
            for name, panel in bench.inputs["prompts"].items()
            if not name.startswith("wrapped-")
        ),
        "judge": judges.label(bench.judge),
        "reward": judges.label(bench.reward),
        "dtype": bench.dtype,
    }
    if "latent" in bench.settings:
        attack = bench.settings["latent"]
        told["budgets"] = ", ".join(f"{budget:g}" for budget in attack.budgets) + f" of {attack.search.mode}"
    if place is not None:
        told["nudge layer"] = f"{models.layer_name(place.state)}, fraction {place.fraction:.3g} ({place.source})"
    return told
