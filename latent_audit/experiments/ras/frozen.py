"""Scoring with a frozen calibration: forward passes of the targets only, nothing generated, no other model loaded.

docs/method.md section 10, step 5.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit.data import world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import setup
from latent_audit.experiments.ras import calibration_file, cosines, members, prompt_sets, tables
from latent_audit.metrics import calibration, safevec
from latent_audit.metrics import calibration_uncertainty as uncertainty
from latent_audit.reports import html
from latent_audit.runtime import files, runlog


class Target(NamedTuple):
    """A scored target: its row of ras.csv, and its mean cosine over the window per prompt."""

    row: dict
    scores: safevec.PromptScores


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Score config.targets with config.calibration_file; write ras.csv, report.json and report.html."""
    frozen = calibration_file.load(config.calibration_file)
    group, half = prepare(config, frozen)
    runlog.pin(workdir / "inputs.json", describe(config, group, frozen))
    with runlog.progress(len(group.models), "targets") as meter:
        rows = []
        for model in group.models:
            rows.append(score(config, frozen, half, model).row)
            meter.advance(model.name)
    table = pd.DataFrame(rows)
    table = table[[*tables.COLUMNS, *(name for name in table.columns if name not in tables.COLUMNS)]]
    files.write_text(workdir / "ras.csv", table.to_csv(index=False, lineterminator="\n"))
    record = describe(config, group, frozen)
    files.write_json(
        workdir / "report.json", {"schema": 1, "task": "ras", "frozen": record, "scores": html.records(table)}
    )
    _write_html(workdir, frozen, table)
    for line in table.itertuples():
        logging.info(
            "%s: RAS %.1f (%.1f-%.1f), s %.4f, drop %.4f",
            line.model,
            line.ras,
            line.ras_lo,
            line.ras_hi,
            line.s,
            line.drop,
        )


def prepare(config: ConfigDict, frozen: calibration_file.Frozen) -> tuple[members.Group, prompt_sets.Sets]:
    """The targets, each checked against the calibration, and the prompts that scores are read on.

    The organism's prompts follow from the calibration; those of files are named by the config, and must be the same.
    How many they are is the calibration's: what a file holds for a half depends on whether ASR was measured from it.
    Raises InputError as ras_models.checkpoints, ras_file.check_target and check_source; and for a window by hand.
    """
    if config.window:
        raise InputError(
            f"window = {config.window!r}, but calibration_file holds the window that b was measured in; "
            "leave it empty, or calibrate again with another"
        )
    group = members.checkpoints(config, frozen.identity)
    source, world = frozen.source, None
    config = config.copy_and_resolve_references()
    config.prompts.harmful_count = source.counts["unsafe"]
    if source.world_seed is not None:
        world = world_rules.make_world(source.world_seed)
        config.wrappers = source.wrappers
    prompts = prompt_sets.make_prompts(config, world=world, generate=False)
    half = prompts.halves[prompt_sets.PROTOCOLS[frozen.protocol]]
    calibration_file.check_source(
        calibration_file.source_of(half, world_seed=source.world_seed, wrappers=config.wrappers), source
    )
    return group, half


def describe(config, group: members.Group, frozen: calibration_file.Frozen) -> dict:
    """What the scores depend on beside the config."""
    return {
        "calibration": {
            "reference": frozen.family.reference.name,
            "models": [one.name for one in frozen.family.models],
            "b": frozen.family.b,
            "gamma": frozen.gamma,
            "protocol": frozen.protocol,
            "window": [frozen.window.start, frozen.window.stop - 1],
        },
        "identity": frozen.identity._asdict(),
        "prompts": frozen.source._asdict(),
        "targets": {model.name: setup.fingerprint(model.path) for model in group.models},
    }


def score(config: ConfigDict, frozen: calibration_file.Frozen, half: prompt_sets.Sets, model: members.Model) -> Target:
    """One target: forward passes over U and J, the formula, and its interval over prompts and calibration models."""
    variant = setup.Variant(model.name, model.path)
    panels = [half.unsafe, half.jailbreak]
    encoded = [tokens for _, tokens in setup.encode_panels(variant, panels, config)]
    loaded = setup.load_variant(variant, config)
    read = [cosines.read_refusal(loaded, tokens, frozen.directions, batch=config.prompt_batch) for tokens in encoded]
    scores, each = safevec.score(*read, frozen.window), safevec.prompt_scores(*read, frozen.window)
    drop = calibration.drop_of(frozen.family, scores)
    reference, *models = frozen.scores
    options = {"resamples": config.score.resamples, "seed": config.seed}
    both = uncertainty.joint_interval(
        each,
        reference,
        models,
        asr_ref=frozen.family.asr_ref,
        asr=[one.asr for one in frozen.family.models],
        other_alphas=frozen.other_alphas,
        jailbreak_of=half.jailbreak_of,
        **options,
    )
    alone = uncertainty.prompt_interval(
        each, reference, b=frozen.family.b, gamma=frozen.gamma, jailbreak_of=half.jailbreak_of, **options
    )
    asr = np.nan if model.asr is None else model.asr
    return Target(
        {
            "family": frozen.identity.family,
            "model": model.name,
            "kind": model.kind,
            **scores._asdict(),
            "drop": drop,
            "ras": calibration.ras(drop, frozen.family.b, frozen.gamma),
            "ras_lo": both.lo,
            "ras_hi": both.hi,
            "asr": asr,
            "asr_lo": np.nan,
            "asr_hi": np.nan,
            "protocol": frozen.protocol,
            "scored_by": "frozen calibration",
            "b": frozen.family.b,
            "gamma": frozen.gamma,
            "ras_prompts_lo": alone.lo,
            "ras_prompts_hi": alone.hi,
        },
        each,
    )


def _write_html(workdir, frozen: calibration_file.Frozen, table) -> None:
    best, worst = table.loc[table["ras"].idxmax()], table.loc[table["ras"].idxmin()]
    headline = f"{best['model']} scores {best['ras']:.1f} of 100 ({best['ras_lo']:.1f} to {best['ras_hi']:.1f})."
    if len(table) > 1:
        headline += (
            f" {worst['model']} is lowest with {worst['ras']:.1f} ({worst['ras_lo']:.1f} to {worst['ras_hi']:.1f})."
        )
    html.render_report(
        workdir / "report.html",
        title="RAS with a frozen calibration",
        headline=headline,
        verdicts=[],
        facts={
            "reference": frozen.family.reference.name,
            "family": frozen.identity.family,
            "window": f"L{frozen.window.start} to L{frozen.window.stop - 1} of {frozen.identity.num_layers}",
            "b": f"{frozen.family.b:.4f}",
            "gamma": f"{frozen.gamma:.3f}",
            "protocol": frozen.protocol,
            "prompts": ", ".join(f"{name} {count}" for name, count in frozen.source.counts.items()),
            "chat template": frozen.identity.template_sha256[:12],
            "dtype": frozen.identity.dtype,
        },
        sections=[
            html.Section(
                title="Scores",
                table=table[
                    [
                        "model",
                        "unsafe",
                        "jailbreak",
                        "s",
                        "drop",
                        "ras",
                        "ras_lo",
                        "ras_hi",
                        "ras_prompts_lo",
                        "ras_prompts_hi",
                    ]
                ],
                text="97.7 is the reference, lower is less safe (docs/method.md section 10). Intervals: bootstrap over "
                "prompts and calibration models, and over prompts alone. Forward passes only: nothing was generated.",
                limits=tables.LIMITS,
            )
        ],
    )
