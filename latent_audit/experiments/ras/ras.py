"""RAS: score models by how far they drop along their family's refusal direction, calibrated on models of known ASR.

docs/method.md section 10, arXiv 2606.25750. Three ways to run: on the zoo of organisms (default), on checkpoints that
the config names, or with a frozen calibration, which takes forward passes only. As in the paper "safe" prompts S are
harmless ones and "unsafe" prompts U are harmful ones; where a model is meant to be safe, the text says so.
"""

import functools
import pathlib
import threading
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import pair_files, world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import fields, scorers
from latent_audit.experiments.audit import static
from latent_audit.experiments.forecast.outlook import Outlook
from latent_audit.experiments.organisms import zoo
from latent_audit.experiments.ras import (
    blind_spots,
    calibration_file,
    frozen,
    measure,
    members,
    prompt_sets,
    report,
    rivals,
    tables,
    timing,
)
from latent_audit.experiments.setup import jobs, outlooks, subjects
from latent_audit.judges import Judge, Reward
from latent_audit.metrics import calibration, rulers, safevec, separation
from latent_audit.models.fingerprint import sha256_of_files
from latent_audit.runtime import runlog, side_by_side
from latent_audit.runtime.telling import progress
from latent_audit.user_files import path_of

# Tokens of a checkpoint's prompt in its template, about: for the forecast alone.
CHECKPOINT_COLUMNS = 48

dtype_of = members.dtype_of


class Results(NamedTuple):
    """Everything a run found, for the report; tables.py and blind_spots.py make the tables.

    Parts that were not run are None or empty.
    """

    table: pd.DataFrame
    correlations: pd.DataFrame
    controls: pd.DataFrame
    random: dict
    windows: list[dict]
    seen: pd.DataFrame
    rules: pd.DataFrame
    answer: blind_spots.Answer | None
    speed: list[timing.Case]
    places: dict[str, dict]


class Plan(NamedTuple):
    """What a run is going to do, checked; group: None for the zoo; scoring: with a frozen calibration, and then alone.

    judge, reward, settings (of the attacks), pairs (of the probe): None where they are not asked for.
    """

    protocols: tuple[str, ...]
    scoring: frozen.Plan | None = None
    group: members.Group | None = None
    world: world_rules.World | None = None
    prompts: prompt_sets.Prompts | None = None
    judge: Judge | None = None
    reward: Reward | None = None
    settings: dict | None = None
    pairs: pair_files.Pairs | None = None


def check(config: ConfigDict) -> Plan:
    """Everything the run will need; InputError names the field, the value and the rule."""
    config = members.with_dtype(config)
    fields.check_batches(config)
    if config.random_directions == 1:
        raise InputError("random_directions = 1 has no spread; expected 0, or at least 2")
    if config.generation.max_new_tokens is None:
        raise InputError("generation.max_new_tokens = None: RAS generates with one length; give it in tokens")
    if config.model.path or config.model.variants or config.model.adapter:
        raise InputError(
            "model.path, model.variants and model.adapter belong to other tasks: RAS names its models in reference, "
            "calibration and targets"
        )
    protocols = prompt_sets.parse_protocols(config.protocols)
    members.parse_families(config.families)
    measure.parse_window(config.window)
    if config.direction and (config.calibration_file or not config.reference):
        raise InputError(
            f"direction = {config.direction!r} is for a reference that is named: the zoo has families of its own, and "
            "a frozen calibration its own directions; give reference, or leave direction empty"
        )
    if config.calibration_file:
        return Plan(protocols, frozen.check(config))
    is_zoo = not (config.reference or config.calibration or config.targets)
    attacks = config.attacks == "yes" or (config.attacks == "auto" and is_zoo)
    group = None if is_zoo else members.checkpoints(config)
    generate = is_zoo or attacks or any(model.measured for model in group.models)
    world = world_rules.make_world(config.organism.seed) if is_zoo else None
    if is_zoo:
        cfg, chat = subjects.organism_parts(config)
        if config.zoo.directory:
            members.check_zoos(config)
    else:
        reference = subjects.Variant(group.models[0].name, group.models[0].path)
        cfg, chat = models.check(reference.path).cfg, subjects.load_chat(reference, config)
    _check_window(config, cfg.num_layers)
    measure.given_directions(config, cfg.num_layers, cfg.embed_dim)
    prompts = prompt_sets.make_prompts(config, world=world, generate=generate)
    for half in prompts.halves.values():
        held = min(len(half.safe.prompts), len(half.unsafe.prompts))
        if config.rivals and held < separation.LEAST_PROMPTS:
            raise InputError(
                f"rivals = True needs at least {separation.LEAST_PROMPTS} prompts of each kind in each half for the "
                f"separation score, there are {held}; raise prompts.harmful_count and benign_count, or rivals=False"
            )
    panels = {panel.name: panel for panel in prompts.panels()}
    tokens = subjects.encode(chat, cfg, panels.values(), config, who="the reference")
    for model in () if is_zoo else group.models[1:]:
        member = subjects.Variant(model.name, model.path)
        subjects.check_tokens(member, panels, tokens, config, field=model.kind, base="the reference")
    return Plan(
        protocols,
        None,
        group,
        world,
        prompts,
        scorers.make_judge(config, world) if generate else None,
        scorers.make_reward(config, world) if attacks else None,
        rivals.check(config, cfg.num_layers, chat, is_organism=is_zoo) if attacks else None,
        _pairs(config, prompts, world),
    )


def outlook(config: ConfigDict, plan: Plan, workdir: pathlib.Path) -> Outlook | None:
    """How much a checked run computes; None with a frozen calibration, which takes few forward passes."""
    if plan.scoring is not None:
        return None
    works, new = [], config.generation.max_new_tokens
    if plan.group is None:
        cfg, _ = subjects.organism_parts(config)
        families = {family: tuple(zoo.names()) for family in members.parse_families(config.families)}
        works += members.work(config, cfg, workdir)
        columns, measured = outlooks.TRAINED_COLUMNS // 2, len(zoo.names())
    else:
        cfg, columns = models.check(plan.group.models[0].path).cfg, CHECKPOINT_COLUMNS
        families = {plan.group.family: tuple(model.name for model in plan.group.models)}
        measured = sum(model.measured for model in plan.group.models)
    judge = outlooks.parameters_of(plan.judge, config)
    if plan.prompts is not None:
        works += measure.work(
            cfg, plan.prompts, families, measured=measured, columns=columns, new_tokens=new, judge=judge
        )
    if plan.settings is not None:
        works += rivals.work(config, cfg, plan.settings, families, columns=columns, judge=judge)
    rows = config.prompt_batch
    return Outlook(cfg, config.model.dtype, rows, 1, columns, rows, new, tuple(works), sum(map(len, families.values())))


def run(config: ConfigDict, workdir: pathlib.Path, plan: Plan | None = None) -> None:
    """Score every model; write ras.csv, calibration/, figures/, report.json and report.html to `workdir`.

    plan: what check gave; None checks here.
    """
    config = members.with_dtype(config)
    plan = plan or check(config)
    if plan.scoring is not None:
        frozen.run(config, workdir, plan.scoring)
        return
    protocols, prompts, judge, reward = plan.protocols, plan.prompts, plan.judge, plan.reward
    groups = members.zoos(config, workdir) if plan.group is None else [plan.group]
    inputs = {one.family: describe(one, prompts, judge, reward, config) for one in groups}
    runlog.pin(workdir / "inputs.json", inputs)
    scorers.warn_of_fallbacks(judge, reward)
    tested = scorers.self_test(judge, workdir) if judge is not None else {}
    inputs = {family: one | ({"judge_self_test": tested} if tested else {}) for family, one in inputs.items()}
    with progress.of(0, "units") as meter:
        failed = threading.Event()
        advance = side_by_side.heeding(meter.advance, failed)
        work = measure.Plan(config, workdir, prompts, protocols, judge, reward, plan.pairs, plan.settings, advance)
        prepared = [measure.prepare(work, one, inputs[one.family]) for one in groups]
        meter.total = sum(map(measure.units, prepared))
        measured = side_by_side.of_each(measure.measure, prepared, failed)
    results = evaluate(config, protocols, measured)
    save_calibrations(config, workdir, protocols[0], groups, prompts, measured)
    if judge is not None and config.speed:
        results = results._replace(speed=_speed(work, groups[0], measured[0]))
    report.write(work, groups, inputs, measured, results)


def _check_window(config, layers: int) -> None:
    """A window by hand must lie inside the model; said before any compute."""
    manual = measure.parse_window(config.window)
    flat = np.ones(layers)
    safevec.choose_window(safevec.Profile(np.zeros(layers), flat, flat, np.zeros(layers)), manual=manual)


def _pairs(config, prompts, world):
    """Texts of the probe, None where they are not known or no rival is asked for."""
    if not config.rivals or (world is None and not config.static.pairs):
        return None
    return static.load_pairs(config, world, evaluated=[half.unsafe for half in prompts.halves.values()])


def describe(group: members.Group, prompts, judge, reward, config) -> dict:
    """What a family's numbers depend on beside the config."""
    record = jobs.describe_inputs(group.subject, prompts.panels(), judge, reward, config)
    if config.direction:
        record["direction"] = {"sha256": sha256_of_files([path_of("direction", config.direction)])[0]}
    return record


def evaluate(config: ConfigDict, protocols, measured) -> Results:
    """Tables of all protocols; controls, blind spots, rules and the question by the first of them."""
    families = [one.family for one in measured]
    options = {"resamples": config.score.resamples, "seed": config.seed}
    scored = [
        tables.with_intervals(tables.scored(families, protocol), families, protocol, **options)
        for protocol in protocols
    ]
    others = pd.concat([one.others.assign(family=one.family.name) for one in measured], ignore_index=True)
    whole = tables.withhold(pd.concat(scored, ignore_index=True), families)
    table = tables.in_order(whole.merge(others, on=["family", "model"], how="left"))
    main = table[table["protocol"] == protocols[0]]
    correlated = [
        tables.correlations(table[table["protocol"] == protocol], **options).assign(protocol=protocol)
        for protocol in protocols
    ]
    windows = [
        {
            "family": family.name,
            "first": family.window.start,
            "last": family.window.stop - 1,
            "of": family.layers,
            "reason": family.window.reason,
            "relaxations": list(family.window.relaxations),
            **tables.window_check(family, protocols[0]),
            "rulers": "" if family.ruled is None else rulers.told(family.ruled),
        }
        for family in families
    ]
    shown = [family for family in families if not family.withheld]
    without = functools.partial(tables.scored_without, shown, protocols[0])
    return Results(
        table,
        pd.concat(correlated, ignore_index=True),
        controls(main, shown, protocols[0], options),
        tables.random_control(shown, protocols[0], **options),
        windows,
        blind_spots.seen(main),
        blind_spots.rules(main, without),
        blind_spots.question(main, without),
        [],
        {one.family.name: one.place for one in measured if one.place is not None},
    )


def controls(main: pd.DataFrame, families, protocol: str, options: dict) -> pd.DataFrame:
    """RAS, its controls and its rivals in one table: Spearman with 1 - ASR and AUROC of aligned against unsafe."""
    if (main["asr"].notna() & main["ras"].notna()).sum() < 3:
        return pd.DataFrame()
    first = pd.DataFrame(
        [
            {"score": "RAS", **tables.summary(main, "ras", **options)},
            {"score": "s, not calibrated", **tables.summary(main, "s", **options)},
        ]
    )
    others = [
        {"score": title, **tables.summary(main, name, **options)}
        for name, title in (
            ("separation", "separation score"),
            ("probe_auroc", "probe AUROC"),
            ("probe_gap", "probe sigmoid gap"),
        )
        if name in main and main[name].notna().any()
    ]
    return pd.concat(
        [first, tables.control_rows(families, protocol, tables.views(families), **options), pd.DataFrame(others)],
        ignore_index=True,
    )


def save_calibrations(config, workdir, protocol, groups, prompts, measured) -> None:
    """Freeze every family's calibration under the first protocol: calibration/FAMILY.json."""
    families = [one.family for one in measured]
    calibrated = tables.calibrate(families, protocol)
    half = prompts.halves[prompt_sets.PROTOCOLS[protocol]]
    for group, one in zip(groups, measured, strict=True):
        if one.family.withheld:
            logging.warning("%s: no calibration is frozen: %s", group.family, rulers.told(one.family.ruled))
            continue
        made = calibrated[group.family]
        by_name = {
            entry.name: safevec.prompt_scores(*(each.refusal for each in entry.cosines[protocol]), one.family.window)
            for entry in one.family.entries
        }
        names = [model.name for model in (made.family.reference, *made.family.models)]
        reference = subjects.Variant(group.models[0].name, group.models[0].path)
        tokens = subjects.encode_panels(reference, [half.unsafe, half.jailbreak], config)
        calibration_file.save(
            workdir / "calibration" / f"{group.family}.json",
            calibration_file.Frozen(
                members.identity(group.models[0], config),
                calibration_file.source_of(
                    half,
                    calibration_file.ids_of(tokens.values()),
                    world_seed=None if group.world is None else group.world.seed,
                    wrappers=config.wrappers,
                ),
                one.family.window,
                made.family,
                made.gamma,
                calibration.global_alpha((made.family.alpha, *made.other_alphas)),
                made.other_alphas,
                protocol,
                one.directions.refusal,
                tuple(by_name[name] for name in names),
            ),
        )
    saved = [one.family.name for one in measured if not one.family.withheld]
    if saved:
        logging.info("calibrations of %s saved to %s", ", ".join(saved), workdir / "calibration")


def _speed(plan, group, one) -> list[timing.Case]:
    variant, config = group.subject.variants[0], plan.config
    return timing.measure(
        lambda: subjects.load_variant(variant, config),
        plan.half,
        one.tokens,
        one.directions.refusal,
        one.family.window,
        plan.judge,
        batch=config.prompt_batch,
        max_new_tokens=config.generation.max_new_tokens,
        seed=config.seed,
    )
