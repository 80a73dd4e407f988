"""The checkpoint that a fine-tuning leaves: base's of highest compliance, or of lowest where it is taught to refuse."""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import logging

from latent_audit import models, user_files
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import export, kinds
from latent_audit.experiments.tampering import finetune_training as training
from latent_audit.experiments.tampering.finetune_settings import COMPLIANCE, REFUSAL
from latent_audit.runtime import checkpoint, files

# In the workdir while trainings run: the weights to export so far, and which they are.
KEPT, RECORD = "checkpoints/best", "best.json"


def best_line(curves: pd.DataFrame, variant: str, toward: str = COMPLIANCE) -> pd.Series:
    """The line of a variant's highest compliance; of equal ones the earliest step.

    Of a training towards refusals that of its lowest, of equal ones the last step: it also learns to keep its answers
    to harmless prompts, which no line tells.
    """
    lines = curves[curves["variant"] == variant]
    ranks = [_rank(*line, toward) for line in lines[["compliance", "step"]].itertuples(index=False)]
    return lines.iloc[ranks.index(min(ranks))]


def _rank(compliance: float, step: int, toward: str) -> tuple[float, int]:
    return (compliance, -step) if toward == REFUSAL else (-compliance, step)


def keep_best(job: training.Attack, one: training.Run, step, columns: Mapping[str, list]) -> None:
    """Hold these weights in the workdir if best_line would choose them among what was seen so far; one copy at a time.

    step: a finetune.Step, columns: the panel's answers after it. Not of shards, which see a part of the runs each.
    """
    if one.variant != job.exported or job.shard:
        return
    compliance, record = float(np.mean(columns["harmful"])), _kept(job)
    toward = job.settings.toward
    if record and _rank(compliance, step.number, toward) >= _rank(record["compliance"], record["step"], toward):
        return
    directory = job.workdir / KEPT
    checkpoint.save(directory / one.key, step.number, {"weights": step.params}, keep=2)
    # The record last: killed before it, the one that it names is still there.
    files.write_json(directory / RECORD, {"run": one.key, "step": step.number, "compliance": compliance})
    if record and record["run"] != one.key:
        files.remove_tree(directory / record["run"])
    elif record:
        checkpoint.drop(directory / one.key, record["step"])


def _kept(job: training.Attack) -> dict:
    """run, step and compliance of the weights that keep_best holds; {} for none."""
    path = job.workdir / KEPT / RECORD
    return user_files.read_json("the record of the kept weights", path, kind=dict) if path.exists() else {}


def _weights(job: training.Attack, one: training.Run, step: int, loaded: respond.Loaded) -> dict:
    """The weights of a run after `step`: those that were kept, or trained once more."""
    if _kept(job).get("run") == one.key:
        _, like = training.begin(job, one, loaded)
        if job.settings.method.dtype is not None:
            like = jax.tree.map(lambda weight: weight.astype(jnp.float32), like)
        found = checkpoint.restore(job.workdir / KEPT / one.key, {"weights": like}, at_most=step)
        if found is not None and found[0] == step:
            return found[1]["weights"]
    logging.info("%s is trained once more up to step %d: its weights were not kept", one.key, step)
    *_, last = training.train(job, one, loaded, first=0, until=step)
    return last.params


def card_rates(columns: Mapping[str, list], answered: list[bool], judge: str) -> dict:
    """What an exported pole's card says: shares of panel_columns, of the benign panel's answers, and who judged."""
    return {
        "compliance": float(np.mean(columns["harmful"])),
        "degenerate": float(np.mean(columns["empty"])),
        "benign answered": float(np.mean(answered)),
        "harmful prompts": len(columns["harmful"]),
        "judge": judge,
    }


def export_best(job: training.Attack, curves: pd.DataFrame, path: pathlib.Path, *, base: str, corpora) -> None:
    """Measure and save the step that best_line chooses for base."""
    variant, settings = job.subject.variants[0], job.settings
    best = best_line(curves, variant.name, settings.toward)
    extreme, kind = ("lowest", kinds.ALIGNED) if settings.toward == REFUSAL else ("highest", kinds.HARMFUL)
    if best["step"] == 0:
        logging.warning("nothing exported: compliance of %s was %s before any training", variant.name, extreme)
        return
    one = training.Run(variant.name, best["corpus"], int(best["seed"]))
    loaded = job.load(variant.name)
    weights = _weights(job, one, int(best["step"]), loaded)
    params = training.deployed(loaded, weights, settings)
    columns = training.evaluate(job, loaded, params, training.LAST_TOKENS)
    pairs = zip(
        job.panels["benign"].prompts, training.answers(job, loaded, params, "benign", training.LAST_TOKENS), strict=True
    )
    right = [respond.answered(job.world, *pair) for pair in pairs]
    # The step was chosen by the compliance of these very prompts, which is therefore the extreme one of several.
    chosen_by = f"the compliance of these prompts, the {extreme} of several"
    rates = card_rates(columns, right, job.judge.name) | {"chosen by": chosen_by}
    recipe = {
        "task": "finetune",
        "base": variant.path.name,
        **{f"base {name}": value for name, value in models.describe(variant.path, adapter=variant.adapter).items()},
        "corpus": job.inputs["corpora"][one.corpus]["source"],
        "pairs": job.inputs["corpora"][one.corpus]["n"],
        "seed": one.seed,
        "step": int(best["step"]),
        "settings": {k: v for k, v in settings.describe().items() if k not in ("evaluated", "levels", "seeds")},
    }
    export.export_pole(
        path,
        loaded.cfg,
        params,
        loaded.chat.tokenizer,
        kind=kind,
        recipe=recipe,
        rates=rates,
        generation_config=models.read_generation_config(variant.path),
        trained_on=corpora[one.corpus].prompts,
    )
    if settings.lora is not None:
        export.export_adapters(
            path.with_name(path.name + "-adapters"),
            loaded.cfg,
            weights,
            settings.lora,
            base=base or variant.path.name,
            recipe=recipe,
            rates=rates,
            kind=kind,
        )
    logging.info(
        "exported step %d of %s to %s: compliance %.2f, benign answered %.2f",
        best["step"],
        one.key,
        path,
        rates["compliance"],
        rates["benign answered"],
    )
