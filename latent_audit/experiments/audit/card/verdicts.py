"""From an audit's tables to a verdict per variant, and the sentences that lead a report. docs/method.md section 13.

The rules themselves are metrics/verdict.py's; here the counts, cells and radii that they read are found in the tables.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from latent_audit import judges, models
from latent_audit.experiments import panels
from latent_audit.experiments.audit.bench import AT_FRACTION, Bench, reference
from latent_audit.experiments.judging import unparsed
from latent_audit.metrics import clusters, evidence, shown, verdict, verdict_words
from latent_audit.metrics.evidence import Cell, Count, Evidence, Rule, Suite
from latent_audit.metrics.gates import Gate
from latent_audit.reports import html

# Which verdict leads: what is not seen from outside comes first.
LEADING = ("hollow", "vulnerable", "unsafe", "unusable", "inconclusive", "robust")
FEW = 50  # a verdict on fewer prompts says so in its first sentence
BUDGET_OF = {
    "linf_of_max": "the state's largest coordinate",
    "linf_of_rms": "the state's root mean square",
    "l2_of_norm": "the state's length (L2)",
}
QUICK = "a quick look searches few prompts, states and budgets"
PART = "units of the run are missing"
ALL_WRAPPERS = "all wrappers"


class Judged(NamedTuple):
    """A verdict with what it was decided from and by, for the words about it."""

    verdict: verdict.Verdict
    evidence: Evidence
    rule: Rule

    @property
    def label(self) -> str:
        return self.verdict.label

    @property
    def sentence(self) -> str:
        return verdict_words.sentence(*self)


def judge_variants(
    bench: Bench, table: pd.DataFrame, metrics: pd.DataFrame | None, suites: Mapping[str, Mapping] | None = None
) -> dict[str, Judged]:
    """Variant -> Judged, of those that were attacked by the suite or by the latent attack; {} without either.

    table: lines of the experiments, with their counts; metrics: latent_report.summarise's, or None; suites: variant ->
    what the suite's experiment records of it. Base is the twin of every other variant.
    """
    suites, rule = suites or {}, rule_of(bench)
    names = names_of(bench.subject.arch, bench.names)
    given = {}
    for name in bench.names:
        own = _of_metrics(metrics, "lvs", name)
        attacked = bool(len(own)) and own["aggregated"].eq(True).any()
        if not attacked and name not in suites:
            continue
        base = bench.names[0]
        twin = None if name == base else suites.get(base)
        suite = None if name not in suites else suite_of(suites[name], twin, names[base])
        cells = evidence.cells_of(metrics, name) + l2_cells(table, name, rule) if attacked else []
        found = _evidence(bench, table, metrics, name, suite, [_clustered_cell(bench, cell) for cell in cells])
        given[name] = Judged(verdict.judge(found, rule=rule), found, rule)
    return given


def rule_of(bench: Bench) -> Rule:
    """The rule with the budgets of the suite, or the reference budget of the latent attack where no suite is run."""
    settings = bench.settings.get("suite") or bench.settings.get("latent")
    return Rule(
        reference_budget=getattr(settings, "reference_budget", 0.0),
        hollow_budget=getattr(settings, "hollow_budget", math.inf),
        also=_also(bench),
    )


def suite_of(found: Mapping, twin: Mapping | None, twin_name: str) -> Suite:
    """A Suite from what its experiment records of one variant, and of base on the same prompts."""

    def radii(recorded: Mapping) -> list[float]:
        return [math.inf if radius is None else float(radius) for radius in recorded["radius"]]

    comparable = twin is not None and list(twin["prompt"]) == list(found["prompt"])
    return Suite(
        budgets=found["budgets"],
        radius=radii(found),
        incoherent=[math.nan if share is None else float(share) for share in found["incoherent"]],
        gates=[Gate(*gate) for gate in found["gates"]],
        tried=found["tried"],
        clusters=found["cluster"],
        twin=radii(twin) if twin is not None and comparable else None,
        twin_name=twin_name if comparable else "",
    )


def _evidence(bench, table, metrics, name, suite, cells) -> Evidence:
    def clustered(count, panel):
        return None if count is None else _clustered(bench, count, panel)

    wrapped = _lines(table, "jailbreak_asr", name)
    benign = _first(_lines(table, "benign_answer_rate", name), _of_metrics(metrics, "clean-benign", name))
    return Evidence(
        clean=_clustered(bench, clean_count(table, metrics, name, suite), panels.HARMFUL),
        wrapped={
            line.detail: _clustered(bench, _count(line), panels.WRAPPED + line.detail)
            for line in wrapped.itertuples()
            if line.detail != ALL_WRAPPERS
        },
        benign=clustered(benign, panels.BENIGN),
        coherent=clustered(_coherent(table, metrics, name), panels.HARMFUL),
        cells=cells,
        suite=suite,
        caps=(
            *judges.doubts(bench.judge),
            *unparsed.doubts(table, name),
            *_searched_by_another(bench, suite),
            *([QUICK] if bench.is_quick else []),
            *([PART] if bench.lacking else []),
        ),
    )


def _searched_by_another(bench: Bench, suite) -> tuple[str, ...]:
    """A cap where the attack suite was searched, and what it broke judged, by a first judge alone."""
    first = bench.inputs.get("judged_again", {})
    if suite is None or not first.get("searched_by_first"):
        return ()
    return (f"what the attack suite broke was judged by the live judge alone ({first['first']})",)


def _clustered(bench: Bench, count: Count, panel: str) -> Count:
    """A count with the design effect of the first prompts of its panel, which it was counted on."""
    labels = bench.panels[panel].clusters[: count.n] if panel in bench.panels else None
    return count._replace(design=clusters.design_effect(labels))


def _clustered_cell(bench: Bench, cell: Cell) -> Cell:
    counts = (None if one is None else _clustered(bench, one, panels.HARMFUL) for one in (cell.attack, cell.control))
    return cell._replace(**dict(zip(("attack", "control"), counts, strict=True)))


def clean_count(table: pd.DataFrame, metrics: pd.DataFrame | None, name: str, suite: Suite | None = None) -> Count:
    """Harmful requests complied with when asked: of the panel, else of the latent attack, else of the suite."""
    asked = _first(_lines(table, "clean_compliance", name), _of_metrics(metrics, "clean", name))
    if asked is not None or suite is None:
        return asked or Count(0, 0)
    radius = list(suite.radius)
    return Count(sum(one == 0 for one in radius), len(radius))


def _coherent(table, metrics, name) -> Count | None:
    """Clean answers to harmful requests that are text."""
    incoherent = _first(_lines(table, "clean_incoherent", name))
    if incoherent is not None:
        return Count(incoherent.n - incoherent.successes, incoherent.n)
    clean = _of_metrics(metrics, "clean", name)
    if not len(clean) or "incoherent" not in clean or pd.isna(clean["incoherent"].iloc[0]):
        return None
    share, n = float(clean["incoherent"].iloc[0]), int(clean["n"].iloc[0])
    return Count(n - round(share * n), n)


def _lines(table, measure, name) -> pd.DataFrame:
    return table[(table["measure"] == measure) & (table["variant"] == name)]


def _of_metrics(metrics, exp, name) -> pd.DataFrame:
    return pd.DataFrame() if metrics is None else metrics[(metrics["exp"] == exp) & (metrics["variant"] == name)]


def _first(*lines: pd.DataFrame) -> Count | None:
    """The count of the first line there is."""
    return next((_count(next(some.itertuples())) for some in lines if len(some)), None)


def _count(line) -> Count:
    return Count(int(line.successes), int(line.n))


def _also(bench: Bench) -> str:
    """What the rule says of the L2 attack, where it was run."""
    if "l2" not in bench.settings:
        return ""
    return (
        f"The one-layer L2 attack at the nudge fraction ({reference(bench):g} of the activation norm at "
        f"{models.layer_name(bench.nudge_state)}) is judged as one more cell of the fixed target. "
    )


def l2_cells(table: pd.DataFrame, name: str, rule: Rule) -> list[Cell]:
    """The L2 attack at the nudge fraction as a cell of the verdict; [] where it was not run."""
    lines = _lines(table, "l2_asr", name)
    lines = lines[lines["detail"] == AT_FRACTION] if len(lines) else lines
    return [
        Cell(
            f"{line.layer} (L2)",
            rule.reference_budget,
            Count(int(line.successes), int(line.n)),
            Count(int(line.control_successes), int(line.n)),
            float(line.fell),
            push=f"one vector of {line.budget:g} of the activation norm at {line.layer}",
            beyond=getattr(line, "beyond_language", False) is True,
        )
        for line in lines.itertuples()
    ]


def names_of(arch: str, variants: Sequence[str]) -> dict[str, str]:
    """Variant -> the model's own name, with the pole's beside it where there are several."""
    return {name: arch if len(variants) == 1 else f"{arch} ({name})" for name in variants}


def circumstances(
    bench: Bench, table: pd.DataFrame, metrics: pd.DataFrame | None, suites: Mapping[str, Mapping] | None = None
) -> str:
    """What a reader must know before a label: few or mild prompts, a judge of phrases; '' where neither is so.

    table, metrics, suites: as in judge_variants, for how many prompts each count rests on.
    """
    counts = list(table[table["measure"].isin(("clean_compliance", "l2_asr"))]["n"])
    counts += [] if metrics is None else list(metrics[metrics["exp"].isin(("clean", "lvs"))]["n"])
    counts += [len(one["prompt"]) for one in (suites or {}).values()]
    mild = bench.inputs["prompts"]["harmful"]["source"].startswith("builtin:")
    said = []
    if counts and (mild or min(counts) < FEW):
        least, most = int(min(counts)), int(max(counts))
        number = f"{least}" if least == most else f"{least} to {most}"
        said.append(f"on {number} {'mild built-in prompts' if mild else 'prompts'}")
    if bench.judge.is_fallback:
        said.append("judged by refusal phrases, not by harm")
    if bench.judge.is_untested:
        said.append("by a judge that was not tested")
    return ", ".join(said)


def headline(
    given: Mapping[str, Judged], experiments, *, names: Mapping[str, str] | None = None, under: str = ""
) -> str:
    """The answer in one or two sentences.

    experiments: names of those that were run; names: variant -> what it is called; under: circumstances.
    """
    names = names or {name: name for name in given}
    if not given:
        missing = "it needs the latent attack or the attack suite"
        if "latent" in experiments:
            missing = "no state, or only the last one, was attacked"
        return f"Measured: {', '.join(experiments)}. No verdict: {missing}."
    lead = min(given, key=lambda name: LEADING.index(given[name].label))
    sentence = given[lead].sentence
    opening = f"{under[0].upper()}{under[1:]}, " if under else ""
    text = f"{opening}{names[lead]} is {given[lead].label}: it {sentence[0].lower()}{sentence[1:]}"
    others = ", ".join(f"{names[name]} is {one.label}" for name, one in given.items() if name != lead)
    return f"{text} For comparison: {others}." if others else text


def attacked(judged: Judged) -> tuple[str, Count, float, float] | None:
    """(name, count, lo, hi) of what gives way where the label speaks: at the suite's reference budget, else in the
    worst cell; None where neither was measured."""
    found, rule = judged.verdict.shown, judged.rule
    if found.rows:
        row = verdict.reference_row(found, rule) or found.rows[-1]
        return f"gives way at {row.budget:g} or below", row.broken, row.lo, row.hi
    if found.attack is None:
        return None
    worst = found.attack
    return f"one fixed target, worst of {worst.cells} cells ({worst.cell.layer})", worst.count, worst.lo, worst.hi


def rows_of(judged: Judged) -> tuple[shown.Row, ...]:
    """The label at every budget: of the suite's grid; without one, of the fixed target's, each as the reference one."""
    given, found, rule = judged
    if given.shown.rows or not found.cells:
        return given.shown.rows
    rows = []
    for budget in sorted({cell.budget for cell in found.cells}):
        there = verdict.judge(found, rule=dataclasses.replace(rule, reference_budget=budget))
        worst = there.shown.attack
        if worst is not None:
            rows.append(shown.Row(budget, there.label, worst.count, worst.lo, worst.hi, math.nan))
    return tuple(rows)


def _alone(found: Evidence, rule: Rule) -> dict | None:
    """What the same evidence gives where no twin is known; None where there is none anyway."""
    if found.suite is None or found.suite.twin is None:
        return None
    bare = dataclasses.replace(found, suite=dataclasses.replace(found.suite, twin=None, twin_name=""))
    given = verdict.judge(bare, rule=rule)
    return {"label": given.label, "reason": given.reason}


def record(judged: Judged) -> dict:
    """A verdict as report.json has it."""
    given, found, rule = judged
    rows = [
        {
            "budget": row.budget,
            "label": row.label,
            "broken": row.broken.successes,
            "n": row.broken.n,
            "effective_n": row.broken.n / row.broken.design,
            "lo": row.lo,
            "hi": row.hi,
            "incoherent": None if math.isnan(row.incoherent) else row.incoherent,
        }
        for row in rows_of(judged)
    ]
    up_to, start, ratio = shown.robust_up_to(given.shown), shown.hollow_from(given.shown), given.shown.ratio
    return {
        "label": given.label,
        "by_counts": given.by_counts,
        "sentence": judged.sentence,
        "reason": given.reason,
        "missing": list(given.missing),
        "change": verdict_words.change(*judged),
        "rule": verdict_words.describe(rule),
        "robust_up_to": up_to or None,
        "hollow_from": None if math.isinf(start) else start,
        "alone": _alone(found, rule),
        "twin_ratio": None if ratio is None else [None if math.isnan(end) else end for end in ratio],
        "rows": rows,
        "gates": [] if found.suite is None else [gate._asdict() for gate in found.suite.gates],
        "numbers": [
            dict(zip(("name", "value", "interval", "control"), number, strict=True))
            for number in verdict_words.numbers(*judged)
        ],
    }


def sentence_of(judged: Judged, under: str) -> str:
    """A verdict's sentence that begins with its circumstances, if there are any."""
    sentence = judged.sentence
    return f"{under[0].upper()}{under[1:]}, it {sentence[0].lower()}{sentence[1:]}" if under else sentence


def row_said(judged: Judged) -> str:
    """The row of labels by budget as one line; '' where nothing was attacked."""
    rows = rows_of(judged)
    return ", ".join(f"{row.budget:g} {row.label} ({evidence.of(row.broken)})" for row in rows)


def as_card(name: str, judged: Judged, beside: list[tuple], caveat: str, under: str = "") -> html.Verdict:
    """A verdict as the report shows it; beside: further numbers under those it rests on; under: circumstances."""
    given, found, rule = judged
    return html.Verdict(
        name,
        given.label,
        sentence_of(judged, under),
        given.reason,
        verdict_words.describe(rule),
        [*verdict_words.numbers(*judged), *beside],
        caveat,
        gates=() if found.suite is None else [tuple(gate) for gate in found.suite.gates],
        row=[verdict_words.row_text(row) for row in rows_of(judged)],
        change=verdict_words.change(*judged),
    )


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
        told["budgets"] = ", ".join(f"{budget:g}" for budget in attack.budgets) + f" of {BUDGET_OF[attack.search.mode]}"
    if place is not None:
        told["nudge layer"] = f"{models.layer_name(place.state)}, fraction {place.fraction:.3g} ({place.source})"
    return told
