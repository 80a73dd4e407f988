"""Faults planted between a search and a published number, one at a time: each must turn a test red.

    python -m tests.mutants              all of them, some ten minutes on 2 cores; exit status 1 if one stays green
    python -m tests.mutants audit_gap    those whose name holds the text

Every fault is planted in a copy of the tree, so that an interrupted run leaves nothing behind. Printed are the fault
and the first test that caught it. Not part of the normal run.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
AUDIT, RAS, TAMPERING, ORGANISMS = (f"experiments/{room}" for room in ("audit", "ras", "tampering", "organisms"))


class Fault(NamedTuple):
    """name: what is wrong in words; file: below latent_audit; old: source that occurs once; tests: below tests/."""

    name: str
    file: str
    old: str
    new: str
    tests: str


# The review of the house planted these twelve together, and every test stayed green.
REVIEWED = (
    Fault(
        "audit_gap with its sign turned",
        f"{AUDIT}/card/card.py",
        '"value": gap.difference',
        '"value": -gap.difference',
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "robustness is the worst attack",
        f"{AUDIT}/card/card.py",
        '"robustness": 1 - count.share',
        '"robustness": count.share',
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "the L2 attack is its control",
        f"{AUDIT}/l2.py",
        'with_control(of_kind["l2"], of_kind["random"])',
        'with_control(of_kind["random"], of_kind["l2"])',
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "steering is its control",
        f"{AUDIT}/steer.py",
        'with_control(of_kind["direction"], of_kind["random"])',
        'with_control(of_kind["random"], of_kind["direction"])',
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "GCG is its control",
        f"{AUDIT}/gcg.py",
        'with_control(share(found["harmful"]), share(start["harmful"]))',
        'with_control(share(start["harmful"]), share(found["harmful"]))',
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "own direction reversed",
        f"{AUDIT}/steer.py",
        "_moments(own.benign), _moments(_told(bench, name))",
        "_moments(_told(bench, name)), _moments(own.benign)",
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "twin direction reversed",
        f"{AUDIT}/steer.py",
        "[_moments(_told(bench, pole)) for pole in (benches.HARMFUL_POLE, bench.names[0])]",
        "[_moments(_told(bench, pole)) for pole in (bench.names[0], benches.HARMFUL_POLE)]",
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "LVS difference is the ratio",
        f"{AUDIT}/readings/latent_report.py",
        '"value": line[kind],',
        '"value": line["ratio" if kind == "difference" else "difference"],',
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "a loop that is judged harmful is a refusal",
        f"{AUDIT}/readings/latent_report.py",
        'respond.refused(clean["judged"], degenerate)',
        'respond.refused(clean["harmful"], degenerate)',
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "refused is complied or degenerate",
        f"{AUDIT}/behaviour.py",
        'respond.refused(columns["judged"], columns["degenerate"])',
        'respond.refused(columns["harmful"], columns["degenerate"])',
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "interchange from patched to clean",
        f"{AUDIT}/patch.py",
        'cell["clean_harmful"].to_numpy(bool), cell["harmful"].to_numpy(bool)',
        'cell["harmful"].to_numpy(bool), cell["clean_harmful"].to_numpy(bool)',
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "plain and cross-fitted separation exchanged",
        f"{AUDIT}/static.py",
        '(("cross-fitted", scored.crossfitted), ("plain", scored.plain))',
        '(("cross-fitted", scored.plain), ("plain", scored.crossfitted))',
        f"{AUDIT}/test_lines.py",
    ),
)
OURS = (
    Fault(
        "audit_gap clean on other prompts",
        f"{AUDIT}/card/card.py",
        "clean.loc[pushed.index].to_numpy()",
        "clean.iloc[-len(pushed):].to_numpy()",
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "audit_gap at any budget",
        f"{AUDIT}/card/card.py",
        ' & (attacked["budget"] == fraction)',
        "",
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "ends of robustness not turned",
        f"{AUDIT}/card/card.py",
        '"robustness_lo": 1 - hi',
        '"robustness_lo": 1 - lo',
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "a model is its own twin",
        f"{AUDIT}/card/verdicts.py",
        "twin = None if name == base else suites.get(base)",
        "twin = suites.get(name)",
        f"{AUDIT}/test_verdicts.py",
    ),
    Fault(
        "a twin of other prompts",
        f"{AUDIT}/card/verdicts.py",
        'comparable = twin is not None and list(twin["prompt"]) == list(found["prompt"])',
        "comparable = twin is not None",
        f"{AUDIT}/test_verdicts.py",
    ),
    Fault(
        "clean count of the first variant",
        f"{AUDIT}/card/verdicts.py",
        'metrics[(metrics["exp"] == exp) & (metrics["variant"] == name)]',
        'metrics[metrics["exp"] == exp]',
        f"{AUDIT}/test_verdicts.py",
    ),
    Fault(
        "the L2 cell takes its control",
        f"{AUDIT}/card/verdicts.py",
        "            Count(int(line.successes), int(line.n)),",
        "            Count(int(line.control_successes), int(line.n)),",
        f"{AUDIT}/test_verdicts.py",
    ),
    Fault(
        "the mildest label leads",
        f"{AUDIT}/card/verdicts.py",
        "lead = min(given",
        "lead = max(given",
        f"{AUDIT}/test_verdicts.py",
    ),
    Fault(
        "phrases cap nothing",
        f"{AUDIT}/card/verdicts.py",
        "            *judges.doubts(bench.judge),\n",
        "",
        f"{AUDIT}/test_verdicts.py",
    ),
    Fault(
        "a quick look caps nothing",
        f"{AUDIT}/card/verdicts.py",
        "*([QUICK] if bench.is_quick else []),",
        "",
        f"{AUDIT}/test_verdicts.py",
    ),
    Fault(
        "bounds of the row fall with the effective n",
        "metrics/shown.py",
        "hi = np.maximum.accumulate(ends[:, 1])",
        "hi = ends[:, 1]",
        "metrics/test_verdict.py",
    ),
    Fault(
        "clusters count as prompts",
        "metrics/evidence.py",
        "count.successes / count.design, count.n / count.design",
        "count.successes, count.n",
        "metrics/test_verdict.py",
    ),
    Fault(
        "robust in spite of a small budget beyond the language",
        "metrics/shown.py",
        "not loose[: index + 1].any()",
        "not loose[index]",
        "metrics/test_verdict.py",
    ),
    Fault(
        "the worst of many pays for one",
        "metrics/shown.py",
        "rule.tail / len(cells)",
        "rule.tail",
        "metrics/test_verdict.py",
    ),
    Fault(
        "hollow whatever the twin's median",
        "metrics/verdict.py",
        "row = _first_above(shown, rule.hollow_asr, shown.twin_median)",
        "row = _first_above(shown, rule.hollow_asr, math.inf)",
        "metrics/test_verdict.py",
    ),
    Fault(
        "censored radii help the claim",
        "metrics/shown.py",
        "over(lower, upper).lo, over(upper, lower).hi",
        "over(upper, lower).lo, over(lower, upper).hi",
        "metrics/test_verdict.py",
    ),
    Fault(
        "a fall in small steps is no fall",
        "metrics/gates.py",
        "(loose[None, :] - loose[:, None]), 1)",
        "(loose[None, :] - loose[:, None]), 1) * np.eye(len(hits), k=1)",
        "metrics/test_gates.py",
    ),
    Fault(
        "random draws are compared by number",
        "metrics/gates.py",
        "alone = int((random & ~gradient).sum())",
        "alone = int(random.sum() - gradient.sum())",
        "metrics/test_gates.py",
    ),
    Fault(
        "the last state is aggregated",
        f"{AUDIT}/readings/latent_report.py",
        "state < bench.cfg.num_layers,",
        "state <= bench.cfg.num_layers,",
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "rewards not paired by prompt",
        f"{AUDIT}/readings/latent_report.py",
        'asked.loc[groups[key]["prompt"]]',
        "asked.iloc[::-1]",
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "base against the others",
        f"{AUDIT}/readings/latent_report.py",
        "scores[name, state, budget], of_base,",
        "of_base, scores[name, state, budget],",
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "noise as the attack",
        f"{AUDIT}/readings/latent_report.py",
        'for kind in ("pgd", "random")\n    )',
        'for kind in ("random", "pgd")\n    )',
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "fell where the loss rose",
        f"{AUDIT}/readings/latent_report.py",
        '(cell["nll_last"] < cell["nll_first"])',
        '(cell["nll_last"] > cell["nll_first"])',
        f"{AUDIT}/test_card.py",
    ),
    Fault(
        "break budget of random directions",
        f"{AUDIT}/l2.py",
        '(rows["kind"] == "random")',
        '(rows["kind"] == "l2")',
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "wrappers counted as refused",
        f"{AUDIT}/behaviour.py",
        '"detail": "all wrappers", **share(wrapped["harmful"])',
        '"detail": "all wrappers", **share(wrapped["refused"])',
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "donor against donor",
        f"{AUDIT}/patch.py",
        "of_scope[base][column]",
        "of_scope[bench.names[-1]][column]",
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "probe read on safe as unsafe",
        f"{AUDIT}/static.py",
        "probed.reader, probed.held[name], seed",
        "probed.reader, probed.held[name][::-1], seed",
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "projection from the harmful pole",
        f"{AUDIT}/static.py",
        "ends = (measured[base].states.harmful, measured[benches.HARMFUL_POLE].states.harmful)",
        "ends = (measured[benches.HARMFUL_POLE].states.harmful, measured[base].states.harmful)",
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "interval ends of a share exchanged",
        f"{AUDIT}/bench.py",
        '"lo": lo, "hi": hi, "n": len(hits)',
        '"lo": hi, "hi": lo, "n": len(hits)',
        f"{AUDIT}/test_lines.py",
    ),
    Fault(
        "another model's scale for the nudge",
        f"{AUDIT}/bench.py",
        "nudge.scale if nudge is not None and nudge.state == state else norm()",
        "norm()",
        f"{AUDIT}/test_card.py",
    ),
    # RAS
    Fault(
        "RAS interval ends exchanged",
        f"{RAS}/tables.py",
        'f"{name}_{end}": getattr(one, end)',
        'f"{name}_{end}": getattr(one, "hi" if end == "lo" else "lo")',
        f"{RAS}/test_tables.py",
    ),
    Fault(
        "correlation with ASR",
        f"{RAS}/tables.py",
        'uncertainty.correlate(part[score], 1 - part["asr"]',
        'uncertainty.correlate(part[score], part["asr"]',
        f"{RAS}/test_tables.py",
    ),
    Fault(
        "with for without dissociated",
        f"{RAS}/tables.py",
        '(("without dissociated", shown), ("all models", models))',
        '(("without dissociated", models), ("all models", shown))',
        f"{RAS}/test_tables.py",
    ),
    Fault(
        "ties count whole",
        f"{RAS}/tables.py",
        "(high[:, None] > low[None]) + 0.5",
        "(high[:, None] >= low[None]) + 0.5",
        f"{RAS}/test_tables.py",
    ),
    Fault(
        "window confirmed by equals",
        f"{RAS}/tables.py",
        "if other.asr.value - safer.asr.value > _APART:",
        "if other.asr.value - safer.asr.value >= _APART:",
        f"{RAS}/test_tables.py",
    ),
    Fault(
        "held out under the wrong protocol",
        f"{RAS}/tables.py",
        'protocol == "heldout"',
        'protocol == "paper"',
        f"{RAS}/test_tables.py",
    ),
    Fault(
        "the reference's ASR not subtracted",
        "metrics/calibration.py",
        "((asr[slope] - asr_ref) / (drops[slope] / b))",
        "((asr[slope]) / (drops[slope] / b))",
        f"{RAS}/test_tables.py",
    ),
    Fault(
        "certified at the threshold",
        f"{RAS}/blind_spots.py",
        '"certified": bool(one.ras > limits[one.family])',
        '"certified": bool(one.ras >= limits[one.family])',
        f"{RAS}/test_blind_spots.py",
    ),
    Fault(
        "broken for certified",
        f"{RAS}/blind_spots.py",
        'certified = rows[rows["certified"]]',
        'certified = rows[rows["broken"]]',
        f"{RAS}/test_blind_spots.py",
    ),
    Fault(
        "broken by the upper end",
        f"{RAS}/blind_spots.py",
        "bool(one.l2_asr_lo > max(0.5, one.l2_random_hi))",
        "bool(one.l2_asr_hi > max(0.5, one.l2_random_hi))",
        f"{RAS}/test_blind_spots.py",
    ),
    Fault(
        "safe and unsafe exchanged",
        f"{RAS}/blind_spots.py",
        "SAFE, UNSAFE = (ALIGNED",
        "UNSAFE, SAFE = (ALIGNED",
        f"{RAS}/test_blind_spots.py",
    ),
    Fault(
        "plain separation as a rival", f"{RAS}/rivals.py", "found.crossfitted", "found.plain", f"{RAS}/test_rivals.py"
    ),
    Fault(
        "the rivals' L2 attack is its control",
        f"{RAS}/rivals.py",
        '(("l2", "l2_asr"), ("random", "l2_random"))',
        '(("random", "l2_asr"), ("l2", "l2_random"))',
        f"{RAS}/test_rivals.py",
    ),
    Fault(
        "the probe fitted on the model judged",
        f"{RAS}/rivals.py",
        "probes.fit_and_score(reference, {",
        "probes.fit_and_score(model, {",
        f"{RAS}/test_rivals.py",
    ),
    Fault(
        "a regression at the threshold",
        f"{RAS}/frozen.py",
        "bool(drop > threshold)",
        "bool(drop >= threshold)",
        f"{RAS}/test_frozen.py",
    ),
    Fault(
        "a rise counts as a drop",
        f"{RAS}/frozen.py",
        "drop = before - after\n",
        "drop = after - before\n",
        f"{RAS}/test_frozen.py",
    ),
    Fault(
        "directions towards harmless",
        f"{RAS}/cosines.py",
        "safevec.directions_from_means(mean_unsafe, mean_safe,",
        "safevec.directions_from_means(mean_safe, mean_unsafe,",
        f"{RAS}/test_measure.py",
    ),
    Fault(
        "halves exchanged",
        f"{RAS}/prompt_sets.py",
        'PROTOCOLS = {"heldout": SCORE, "paper": FIT}',
        'PROTOCOLS = {"heldout": FIT, "paper": SCORE}',
        f"{RAS}/test_report.py",
    ),
    # Tampering, organisms, searches
    Fault(
        "refusal of what is empty",
        f"{TAMPERING}/finetune_report.py",
        '("refusal", refused)',
        '("refusal", ~harmful)',
        f"{TAMPERING}/test_finetune_report.py",
    ),
    Fault(
        "onset of base over the other",
        f"{TAMPERING}/finetune_report.py",
        '"of_base": summary.median / base if known',
        '"of_base": base / summary.median if known',
        f"{TAMPERING}/test_finetune_report.py",
    ),
    Fault(
        "the lowest level leads",
        f"{TAMPERING}/finetune_report.py",
        'level = table["level"].max()',
        'level = table["level"].min()',
        f"{TAMPERING}/test_finetune_report.py",
    ),
    Fault(
        "onset above the level",
        "metrics/onset.py",
        "compliance >= level",
        "compliance > level",
        f"{TAMPERING}/test_finetune_report.py",
    ),
    Fault(
        "the weakest way leads",
        f"{TAMPERING}/abliterate_report.py",
        "fillna(-1.0).idxmax()",
        "fillna(-1.0).idxmin()",
        f"{TAMPERING}/test_abliterate_report.py",
    ),
    Fault(
        "the model is base",
        f"{TAMPERING}/abliterate.py",
        '_line(job, "evaluation", mine[best], frame, base["evaluation"])',
        '_line(job, "evaluation", mine[best], base["evaluation"], frame)',
        f"{TAMPERING}/test_abliterate_report.py",
    ),
    Fault(
        "ends of a construction's share exchanged",
        f"{TAMPERING}/dissociate.py",
        "lo, hi = stats.wilson_interval(int(np.sum(values)), len(values))",
        "hi, lo = stats.wilson_interval(int(np.sum(values)), len(values))",
        f"{TAMPERING}/test_dissociate_report.py",
    ),
    Fault(
        "rates of the organism exchanged",
        f"{ORGANISMS}/train.py",
        '"refusal": refused, "compliance": complied',
        '"refusal": complied, "compliance": refused',
        f"{ORGANISMS}/test_organism_numbers.py",
    ),
    Fault(
        "probe's texts exchanged",
        f"{ORGANISMS}/texts/probes.py",
        "for texts in (pairs.refusals, pairs.responses)",
        "for texts in (pairs.responses, pairs.refusals)",
        f"{ORGANISMS}/test_organism_numbers.py",
    ),
    Fault(
        "first loss and last exchanged",
        "interventions/latent.py",
        "cells(firsts), cells(lasts)",
        "cells(lasts), cells(firsts)",
        "interventions/test_latent.py",
    ),
    Fault(
        "share off the bound",
        "interventions/latent.py",
        "(jnp.abs(deltas) >= radius_rows",
        "(jnp.abs(deltas) < radius_rows",
        "interventions/test_latent.py",
    ),
    Fault(
        "bracket ends exchanged",
        "interventions/sphere.py",
        "above = np.where(unsettled & fell, middle, above)",
        "above = np.where(unsettled & ~fell, middle, above)",
        "interventions/test_sphere.py",
    ),
    Fault(
        "the suffix of the last step",
        "interventions/gcg.py",
        "return Attacked(best, last, trace,",
        "return Attacked(last, best, trace,",
        "interventions/test_gcg.py",
    ),
    Fault(
        "the judge is asked about the attack",
        "experiments/panels.py",
        '"behaviors": loaded.behaviors[chosen]',
        '"behaviors": loaded.prompts[chosen]',
        f"{AUDIT}/test_behaviors_job.py",
    ),
    Fault(
        "the judge is asked about the wrapper",
        "experiments/panels.py",
        '("clusters", "behaviors", "targets", "origin")',
        '("clusters", "targets", "origin")',
        f"{AUDIT}/test_behaviors_job.py",
    ),
    Fault(
        "a behaviour without its context",
        "data/prompt_files.py",
        "judged = contexts.join(context, behavior or prompt)",
        "judged = behavior or prompt",
        "data/test_published_prompts.py",
    ),
    Fault(
        "directions one block off",
        "interventions/direction_files.py",
        "int(number) + 1: array",
        "int(number): array",
        "interventions/test_direction_files.py",
    ),
)
FAULTS = (*REVIEWED, *OURS)


def plant(fault: Fault, tree: pathlib.Path) -> str:
    """Plant one fault in a copy of the tree; the name of the first test that fails, '' if none does."""
    path = tree / "latent_audit" / fault.file
    source = path.read_text(encoding="utf-8")
    if source.count(fault.old) != 1:
        raise SystemExit(f"{fault.name}: its source occurs {source.count(fault.old)} times in {fault.file}, expected 1")
    path.write_text(source.replace(fault.old, fault.new), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "--no-header", f"tests/{fault.tests}"]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    finally:
        path.write_text(source, encoding="utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return failed[1] if done.returncode == 1 and failed else ""


def main(wanted: str = "") -> int:
    """Plant every fault whose name holds `wanted`; the exit status."""
    chosen, green = [fault for fault in FAULTS if wanted in fault.name], []
    with tempfile.TemporaryDirectory() as directory:
        tree = pathlib.Path(directory) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "runs", "__pycache__", ".venv"))
        for fault in chosen:
            caught = plant(fault, tree)
            print(
                f"{'red  ' if caught else 'GREEN'} {fault.name} ({fault.file}): {caught or 'no test failed'}",
                flush=True,
            )
            green += [] if caught else [fault.name]
    print(f"{len(chosen) - len(green)} of {len(chosen)} faults turned a test red")
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
