"""The whole audit: both axes of a model and of its variants, experiment by experiment, and the card.

docs/method.md sections 1 to 4, 7 and 8. Every experiment can be run alone: its config names it in `experiments`; the
main job (configs/lvs.py) is the latent attack alone.
"""

import pathlib

from absl import logging
from ml_collections import ConfigDict

from latent_audit.experiments import fields, setup
from latent_audit.experiments.audit import behaviour, card, gcg, l2, latent, latent_report, patch, static, steer
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.panels import audit_panels, request_panels
from latent_audit.runtime import runlog, shards

# Each has check(config, known), units(bench), measure(bench, variant) and findings(bench, measured).
EXPERIMENTS = {
    "panel": behaviour,
    "latent": latent,
    "l2": l2,
    "steer": steer,
    "patch": patch,
    "static": static,
    "gcg": gcg,
}
# Long tables that the log leaves to audit.csv.
UNLOGGED = ("lvs", "latent_asr", "steer_compliance", "cone_compliance", "projection")


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Run the chosen experiments on every variant; write audit.csv, figures/, report.json and report.html."""
    settings, world = check(config), setup.world_of(config)
    panels = audit_panels(config, world) if "panel" in settings else request_panels(config, world)
    pairs = static.load_pairs(config, world, evaluated=[panels["harmful"]]) if "static" in settings else None
    job = setup.prepare(config, workdir, panels)
    with runlog.progress(0, "units") as meter:
        bench = benches.make_bench(config, job, settings=settings, pairs=pairs, advance=meter.advance)
        meter.total = sum(EXPERIMENTS[name].units(bench) for name in settings) * len(bench.names)
        measured = {name: {} for name in settings}
        # Variant by variant, since one model is held at a time.
        for variant in bench.names:
            for name in settings:
                measured[name][variant] = EXPERIMENTS[name].measure(bench, variant)
    if not shards.is_complete(bench.shard, meter):
        return
    found = {name: EXPERIMENTS[name].findings(bench, measured[name]) for name in settings}
    written = card.write(bench, _titles(config, bench), measured, found)
    if "latent" in found:
        latent_report.log_table(found["latent"].record["metrics"])
    shown = written[["variant", "measure", "layer", "budget", "value", "lo", "hi", "n", "control", "detail"]]
    headed = shown[~shown["measure"].isin(UNLOGGED)]
    if len(headed):
        logging.info("audit\n%s", headed.to_string(index=False, float_format="{:.3g}".format, na_rep=""))


def check(config: ConfigDict) -> dict[str, object]:
    """Experiment -> its checked settings, in their fixed order; InputError names the field, the value and the rule."""
    wanted = config.get("experiments", "latent")
    chosen = EXPERIMENTS if wanted == "all" else fields.names("experiments", wanted, ("all", *EXPERIMENTS))
    fields.check_batches(config, *(["rows"] if "rows" in config else []))
    fields.check_whole({"generation.max_new_tokens": config.generation.max_new_tokens}, least=0)
    known = benches.Known(setup.variant_names(config), setup.count_layers(config), setup.world_of(config) is not None)
    benches.check_place(config, known.num_layers)
    return {
        name: experiment.check(config, known)
        for name, experiment in EXPERIMENTS.items()
        if name in chosen or "all" in chosen
    }


def _titles(config, bench) -> dict[str, str]:
    what = "Latent vulnerability" if config.task == "lvs" else "Audit"
    return {"task": config.task, "title": f"{what} of {bench.subject.arch}"}
