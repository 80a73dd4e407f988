"""What this project claims of its organism, measured on several organism seeds by the tasks that a user runs.

docs/method.md sections 1, 5, 6, 14 and 15. The claims stand in organisms/claim_quantities.py. Nothing is chosen on the
prompts that a claim is measured on: the budget of the latent attack comes from the selection split, the way of
abliteration from validation prompts, the layer from the construction.
"""

import json
import pathlib

import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit.experiments import fields, panels, tasks
from latent_audit.experiments.audit import audit, bench, latent
from latent_audit.experiments.forecast.outlook import Series, without_training
from latent_audit.experiments.organisms import claim_quantities as quantities
from latent_audit.experiments.organisms import export, kinds, train
from latent_audit.experiments.panels import request_panels
from latent_audit.experiments.setup import jobs, subjects
from latent_audit.experiments.tampering import dissociate
from latent_audit.interventions.dissociate import choose_layers
from latent_audit.models import layer_name
from latent_audit.reports import columns, html, outputs
from latent_audit.runtime import runlog
from latent_audit.runtime.telling import progress

# Names of the parts, each a section of the config with a task of its own.
PARTS = ("lvs", "finetune", "abliterate", "abliterate_requests")


FEW_BENIGN = 8  # asked of every model on the selection split, which chooses nothing by them


def check(config: ConfigDict) -> tuple[str, ...]:
    """Every part as its own task checks it; InputError names the part, the field, the value and the rule.

    Returns the names of the parts.
    """
    for name in PARTS:
        own = _own_config(config, name, pathlib.Path("claims"), seed=0)
        with fields.named(name):
            tasks.check(own)
        if name == "lvs":
            with fields.named("nudged_prompts"):
                nudged = _nudged_config(own, config.nudged_prompts)
                request_panels(nudged, subjects.world_of(nudged))
            with fields.named("lvs.prompts.harmful_count"):
                _selection_panels(own, subjects.world_of(own))
    return PARTS


def outlook(config: ConfigDict, plan: object, workdir: pathlib.Path) -> Series:
    """How much every part of every seed computes, the two measurements beside them left out."""
    found: Series = {}
    for seed in range(config.seeds):
        for place, name in enumerate(PARTS):
            own = _own_config(config, name, workdir / f"seed{seed}", seed)
            one = tasks.outlook(own, workdir / f"seed{seed}" / name, tasks.check(own))
            if one is not None:
                found[f"parts {seed} {name}"] = without_training(one) if place else one
    return found


def run(config: ConfigDict, workdir: pathlib.Path, plan: tuple[str, ...] | None = None) -> None:
    """Run every task on every seed and write claims.csv, report.json and report.html to `workdir`."""
    check(config)
    lines, ways = [], []
    with progress.of(config.seeds * len(PARTS), "parts") as meter:
        for seed in range(config.seeds):
            logging.info("organism seed %d of %d", seed, config.seeds)
            found, table = measure_seed(config, workdir / f"seed{seed}", seed, meter.advance)
            ways.append(table.assign(seed=seed))
            for claim in quantities.CLAIMS:
                one = found[claim.topic, claim.quantity]
                lines.append({"seed": seed, **claim._asdict(), **one._asdict(), **quantities.judged(claim, one)})
    _write(config, workdir, pd.DataFrame(lines), pd.concat(ways))


def measure_seed(config: ConfigDict, workdir: pathlib.Path, seed: int, advance=lambda label: None):
    """((topic, quantity) -> Measured, table of abliteration's ways) of one organism; advance is told of every part."""
    configs = {name: _own_config(config, name, workdir, seed) for name in PARTS}
    for name, part in configs.items():
        tasks.run_in(part, workdir / name)
        advance(f"{seed} {name}")
    metrics = pd.read_csv(workdir / "lvs" / "metrics.csv")
    record = json.loads((workdir / "lvs" / "report.json").read_text(encoding="utf-8"))
    compared = quantities.metric_table(record["comparisons"])
    onsets = json.loads((workdir / "finetune" / "report.json").read_text(encoding="utf-8"))["onsets"]
    abliterated, from_requests = (
        pd.read_csv(workdir / name / "abliterate.csv") for name in ("abliterate", "abliterate_requests")
    )
    nudged = _nudged(configs["lvs"], workdir, config.nudged_prompts)
    layer = layer_name(choose_layers(train.count_layers(config.organism.size)).nudge)
    budget = quantities.choose_budget(_on_selection(configs["lvs"], workdir, layer), layer)
    logging.info("budget of the latent attack, chosen on the selection split: %g", budget)
    measured = quantities.asked_and_nudged(nudged) | quantities.tuned(onsets)
    measured |= quantities.attacked(metrics, compared, layer, budget)
    measured |= quantities.removed(abliterated, quantities.REMOVED)
    measured |= quantities.removed(from_requests, quantities.EXPORTED)
    ways = pd.concat([abliterated.assign(means="requests and facts"), from_requests.assign(means="requests alone")])
    return measured, ways[ways["split"] == "evaluation"]


def _own_config(config, name, workdir, seed):
    own = config[name].copy_and_resolve_references()
    own.seed = own.organism.seed = seed
    own.organism.size, own.organism.family = config.organism.size, config.organism.family
    own.organism.directory = str(workdir / "organism")
    own.model.dtype = config.model.dtype
    return own


def _nudged_config(config: ConfigDict, count: int) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.prompts.harmful_count = config.prompts.benign_count = count
    config.prompt_batch = min(count, 96)
    return config


def _nudged(config: ConfigDict, workdir: pathlib.Path, count: int) -> pd.DataFrame:
    """Lines of dissociate.measure for every pole of the organism; one unit of work."""
    config = _nudged_config(config, count)
    own = workdir / "nudged"
    own.mkdir(exist_ok=True)

    prospect = jobs.check(config, request_panels(config, subjects.world_of(config)), rewarded=False)
    job = jobs.prepare(config, own, prospect)

    def compute():
        nudge = export.load_nudge(job.variant(kinds.DISSOCIATED).path)
        lines = [line for name in job.names for line in dissociate.measure(job, name, job.load(name), nudge)]
        return pd.DataFrame(lines).to_dict("list")

    return pd.DataFrame(runlog.unit(own, "nudged", compute, lambda *a, **k: None))


def _selection_panels(config: ConfigDict, world) -> dict:
    """As many harmful prompts of the selection split as the attack is measured on, and a few harmless ones beside."""
    counts = {panels.HARMFUL: config.prompts.harmful_count, panels.BENIGN: FEW_BENIGN}
    return {kind: panels.world_panel(kind, world, "selection", kind, count) for kind, count in counts.items()}


def _on_selection(config: ConfigDict, workdir: pathlib.Path, layer: str) -> pd.DataFrame:
    """metrics.csv of the latent attack on base and dissociated at the nudge layer, selection prompts, no control."""
    config = config.copy_and_resolve_references()
    config.organism.poles = "base,dissociated"
    config.attack.layers, config.attack.controls = layer, False
    own, world = workdir / "selection", subjects.world_of(config)
    own.mkdir(exist_ok=True)
    prospect = jobs.check(config, _selection_panels(config, world))
    known = bench.Known(prospect.names, prospect.cfg.num_layers, True, prospect.chat, prospect.panels)
    audit.run(config, own, audit.Plan(prospect, {"latent": latent.check(config, known)}, None))
    return pd.read_csv(own / "metrics.csv")


def _write(config, workdir, lines, ways):
    table = quantities.summarise(lines)
    every = f"{config.seeds} of {config.seeds}"
    kept, held = table["met"] == every, (table["with interval"] == every).sum()
    shown = ways[
        (
            "seed means way layer position strength directions compliance compliance_lo compliance_hi "
            "answered answered_lo answered_hi facts kl"
        ).split()
    ]
    record = {
        "seeds": config.seeds,
        "claims": html.records(table),
        "lines": html.records(lines),
        "ways": html.records(shown),
    }
    page = dict(
        title="Claims about the embedded organism",
        headline=f"{kept.sum()} of {len(table)} claims hold on every one of {config.seeds} organism seeds, "
        f"{held} of them with their whole interval.",
        verdicts=[],
        facts={"organism": f"{config.organism.family}, {config.organism.size}", "seeds": config.seeds},
        warnings=[
            f"Not met on every seed: {line.topic}: {line.quantity} ({line.target}); mean {line.mean:.3g}, "
            f"{line.least:.3g} to {line.most:.3g}"
            for line in table[~kept].itertuples()
        ],
        sections=[
            html.Section(
                title="Claims",
                table=table,
                text="Mean and range over seeds of what each measured; "
                "targets were fixed before. Every seed's own reports lie in seed*/TASK/report.html.",
            ),
            html.Section(
                title="Every seed",
                table=lines,
                text="95 % intervals: Wilson for shares, Newcombe's for a difference of them, bootstrap for LVS and "
                "its ratio; for ratios of onsets, what the ranges over fine-tuning seeds allow, which is no interval "
                "of 95 %; a mean over states and budgets has none. held: the nearer end keeps the bound too.",
            ),
            html.Section(
                title="Ways of abliteration",
                table=shown,
                text="The candidate of each way that validation "
                "prompts chose, on evaluation prompts; facts: held-out questions, which chose nothing.",
            ),
        ],
    )
    outputs.write_run(workdir, task="claims", tables={"claims.csv": lines}, record=record, page=page)
    logging.info("claims over %d organism seeds\n%s", config.seeds, columns.in_text(table))
