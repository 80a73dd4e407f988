"""The whole audit: both axes of a model and of its variants, experiment by experiment, and the card.

docs/method.md sections 1 to 4, 7 and 8. Every experiment can be run alone: its config names it in `experiments`; the
main job (configs/lvs.py) is the latent attack alone.
"""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from latent_audit.data import pair_files
from latent_audit.experiments import fields
from latent_audit.experiments.audit import behaviour, gcg, l2, latent, patch, static, steer
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.card import card
from latent_audit.experiments.audit.readings import partial
from latent_audit.experiments.audit.suite import suite
from latent_audit.experiments.forecast.outlook import Outlook
from latent_audit.experiments.panels import audit_panels, request_panels
from latent_audit.experiments.setup import jobs, outlooks, subjects
from latent_audit.runtime import shards
from latent_audit.runtime.telling import progress

# Each has check(config, known), units(bench), work(seen), measure(bench, variant) and findings(bench, measured).
EXPERIMENTS = {
    "panel": behaviour,
    "latent": latent,
    "suite": suite,
    "l2": l2,
    "steer": steer,
    "patch": patch,
    "static": static,
    "gcg": gcg,
}


# Those that tell their counts before a run, too.
TOLD = {"latent": latent, "suite": suite}


class Plan(NamedTuple):
    """What an audit is going to do, checked; pairs: texts of the probe, or None."""

    prospect: jobs.Prospect
    settings: dict[str, object]
    pairs: pair_files.Pairs | None


def check(config: ConfigDict) -> Plan:
    """Everything the audit will need; InputError names the field, the value and the rule."""
    wanted = config.get("experiments", "latent")
    chosen = EXPERIMENTS if wanted == "all" else fields.names("experiments", wanted, ("all", *EXPERIMENTS))
    names = [name for name in EXPERIMENTS if name in chosen or "all" in chosen]
    fields.check_batches(config, *(["rows"] if "rows" in config else []))
    world = subjects.world_of(config)
    panels = audit_panels(config, world) if "panel" in names else request_panels(config, world)
    prospect = jobs.check(config, panels)
    cfg, is_organism = prospect.cfg, world is not None
    known = benches.Known(prospect.names, cfg.num_layers, is_organism, prospect.chat, panels, cfg.embed_dim)
    benches.check_place(config, known.num_layers, known.names)
    settings = {name: EXPERIMENTS[name].check(config, known) for name in names}
    pairs = static.load_pairs(config, world, evaluated=[panels["harmful"]]) if "static" in settings else None
    if pairs is not None and prospect.subject is not None:
        static.check_untrained(pairs, prospect.subject.variants)
    return Plan(prospect, settings, pairs)


def outlook(config: ConfigDict, plan: Plan, workdir: pathlib.Path) -> Outlook:
    """How much the audit of a checked plan computes."""
    prospect = plan.prospect
    saved = None if prospect.subject is None else benches.saved_nudge(prospect.subject)
    state = benches.state_of_place(config, prospect.cfg.num_layers, saved)
    seen = outlooks.seen(config, prospect, plan.settings)._replace(nudge_state=state)
    works = [
        work
        for name in prospect.names
        for experiment in plan.settings
        for work in EXPERIMENTS[experiment].work(seen._replace(name=name))
    ]
    budgets, answered = 1, config.get("rows", config.prompt_batch)
    if "latent" in plan.settings:
        attack = plan.settings["latent"]
        budgets = len(attack.budgets)
        answered = seen.batch * budgets * len(attack.attacks) * min(config.layer_batch, len(attack.states))
    made = outlooks.outlook(config, prospect, works, workdir, budgets=budgets, answered=answered)
    return made._replace(notes=tuple(one.told(seen) for name, one in TOLD.items() if name in plan.settings))


def run(config: ConfigDict, workdir: pathlib.Path, plan: Plan | None = None) -> None:
    """Run the chosen experiments on every variant; write audit.csv, figures/, report.json and report.html.

    plan: what check gave; None checks here.
    """
    prospect, settings, pairs = plan or check(config)
    record = steer.record(settings.get("steer"))
    if pairs is not None and prospect.world is None:
        record |= {"static_pairs": pairs.describe()}
    job = jobs.prepare(config, workdir, prospect, record=record)
    with progress.of(0, "units") as meter:
        bench = benches.make_bench(config, job, settings=settings, pairs=pairs, advance=meter.advance)
        meter.total = sum(EXPERIMENTS[name].units(bench) for name in settings) * len(bench.names)
        measured = {name: {} for name in settings}
        # Variant by variant, since one model is held at a time.
        for variant in bench.names:
            for name in settings:
                measured[name][variant] = EXPERIMENTS[name].measure(bench, variant)
    if not shards.is_complete(bench.shard, meter, workdir):
        return
    if bench.shard == shards.READ:
        bench, measured = partial.what_is_there(bench, measured)
    found = {name: EXPERIMENTS[name].findings(bench, rows) for name, rows in measured.items()}
    card.write(bench, _titles(config, bench), measured, found)
    card.log(bench, measured, found)


def _titles(config, bench) -> dict[str, str]:
    what = "Latent vulnerability" if config.task == "lvs" else "Audit"
    if bench.is_quick:
        what = f"Quick look: {what[0].lower()}{what[1:]}"
    doubt = " (the judge was not tested)" if bench.judge.is_untested else ""
    return {"task": config.task, "title": f"{what} of {bench.subject.arch}{doubt}"}
