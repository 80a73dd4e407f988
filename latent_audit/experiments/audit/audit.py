"""The whole audit: both axes of a model and of its variants, experiment by experiment, and the card.

docs/method.md sections 1 to 4, 7 and 8. Every experiment can be run alone: its config names it in `experiments`.
"""

import pathlib

import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit import judges
from latent_audit.errors import InputError
from latent_audit.experiments import fields, panels, setup
from latent_audit.experiments import settings as attack_settings
from latent_audit.experiments.audit import behaviour, bench, card, gcg, l2, latent_sweep, patch, static, steer
from latent_audit.runtime import files, runlog, shards

EXPERIMENTS = {
    "panel": behaviour,
    "latent": latent_sweep,
    "l2": l2,
    "steer": steer,
    "patch": patch,
    "static": static,
    "gcg": gcg,
}
# Contract with readers of audit.csv: the first ten; further columns may be added behind.
COLUMNS = (
    "arch",
    "variant",
    "measure",
    "layer",
    "budget",
    "value",
    "lo",
    "hi",
    "n",
    "control",
    "control_lo",
    "control_hi",
    "detail",
    "nll_first",
    "nll_last",
    "fell",
    "at_bound",
    "judge",
    "template_sha256",
)
FEW = 20  # fewer prompts than this leave a Wilson interval wider than .4 around one half


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Run the chosen experiments on every variant; write audit.csv, figures/, report.json and report.html."""
    is_organism = not config.model.path
    chosen = check(config, is_organism=is_organism)
    sets = panels.make_panels(config, is_organism=is_organism)
    if "panel" not in chosen:
        sets = {name: sets[name] for name in ("harmful", "benign")}
    judge, reward = setup.make_judge_and_reward(config, is_organism=is_organism)
    attack = attack_settings.check_attack(config, is_organism=is_organism, num_layers=setup.count_layers(config))
    pairs = (
        static.load_pairs(config, is_organism=is_organism, evaluated=(sets["harmful"],)) if "static" in chosen else None
    )
    subject = setup.make_subject(config, workdir)
    bench.check_alike(subject, config)
    steer.check(config, [variant.name for variant in subject.variants])
    inputs = setup.describe_inputs(subject, list(sets.values()), judge, reward, config)
    runlog.pin(workdir / "inputs.json", inputs)
    setup.warn_of_fallbacks(judge, reward)
    with runlog.progress(0, "units") as meter:
        made = bench.make_bench(
            config,
            workdir,
            subject=subject,
            judge=judge,
            reward=reward,
            settings=attack,
            panels=sets,
            pairs=pairs,
            advance=meter.advance,
        )
        meter.total = sum(EXPERIMENTS[name].units(made) for name in chosen) * len(subject.variants)
        measured = {name: {} for name in chosen}
        for variant in made.names:
            for name in chosen:
                if name == "static" and shards.parse(config.get("shard", "")):
                    made.advance(f"{variant}/static", reused=True)  # Nothing of it is kept: the merge measures it.
                    continue
                measured[name][variant] = EXPERIMENTS[name].measure(made, variant)
    if not shards.is_complete(config.get("shard", ""), meter):
        return
    write(made, inputs, chosen, measured)


def check(config: ConfigDict, *, is_organism: bool) -> tuple[str, ...]:
    """The experiments to run, in their fixed order; InputError names the field, the value and the rule."""
    wanted = [name.strip() for name in config.experiments.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in EXPERIMENTS and name != "all"]
    if unknown or not wanted:
        raise InputError(f"experiments = {config.experiments!r}, expected all, or some of {', '.join(EXPERIMENTS)}")
    attack_settings.check_batches(config, "rows")
    fields.check_whole({"rows": config.rows, "attack.prompts": config.attack.prompts}, least=1)
    fields.check_whole({"generation.max_new_tokens": config.generation.max_new_tokens}, least=0)
    fraction = config.place.fraction
    if fraction is not None and not 0 < fraction < float("inf"):
        raise InputError(f"place.fraction = {fraction!r}, expected a number above 0")
    chosen = tuple(name for name in EXPERIMENTS if "all" in wanted or name in wanted)
    for name in chosen:
        if name in ("l2", "patch", "gcg"):
            EXPERIMENTS[name].check(config)
    return chosen


def write(made: bench.Bench, inputs: dict, chosen, measured: dict) -> None:
    """Turn what was measured into lines and sections, and write the table and the card."""
    found, rows = {}, {}
    for name in chosen:
        if name == "static":
            found[name] = static.findings(made, measured[name])
            continue
        rows[name] = pd.concat(
            [frame.assign(variant=variant) for variant, frame in measured[name].items()], ignore_index=True
        )
        extra = (inputs,) if name == "latent" else ()
        found[name] = EXPERIMENTS[name].findings(made, rows[name], *extra)
    lines = [line for one in found.values() for line in one.lines]
    lines += card.gap_lines(made, rows)
    table = pd.DataFrame(lines).assign(
        arch=made.subject.arch,
        judge=judges.label(made.judge),
        template_sha256=inputs["variants"][made.names[0]]["template_sha256"],
    )
    table = table.reindex(columns=COLUMNS)
    files.write_text(made.workdir / "audit.csv", table.to_csv(index=False, lineterminator="\n"))
    metrics = latent_sweep.table(made, rows["latent"], inputs) if "latent" in rows else None
    card.write(made, inputs, table, metrics, rows, found, few=few_prompts(made))
    shown = table[["variant", "measure", "layer", "budget", "value", "lo", "hi", "n", "control", "detail"]]
    headed = shown[~shown["measure"].isin(("lvs", "latent_asr", "steer_compliance", "cone_compliance", "projection"))]
    logging.info("audit\n%s", headed.to_string(index=False, float_format="{:.3g}".format, na_rep=""))


def few_prompts(made: bench.Bench) -> list[str]:
    """A warning for panels too small for their intervals to say much; the intervals stay honest."""
    small = {name: len(one.prompts) for name, one in made.panels.items() if len(one.prompts) < FEW}
    if not small:
        return []
    named = ", ".join(f"{name} {count}" for name, count in small.items())
    return [f"Few prompts ({named}): their 95 % intervals are wide, and a share of 0 does not mean none."]
