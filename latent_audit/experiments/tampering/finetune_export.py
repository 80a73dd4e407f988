"""The checkpoint that a fine-tuning leaves: base's of highest compliance, or of lowest where it is taught to refuse."""

import pathlib
from collections.abc import Mapping

import numpy as np
import pandas as pd
from absl import logging

from latent_audit import models
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import export, kinds
from latent_audit.experiments.tampering import finetune_training as training
from latent_audit.experiments.tampering.finetune_settings import COMPLIANCE, REFUSAL


def best_line(curves: pd.DataFrame, variant: str, toward: str = COMPLIANCE) -> pd.Series:
    """The line of a variant's highest compliance; of equal ones the earliest step.

    Of a training towards refusals that of its lowest, of equal ones the last step: it also learns to keep its answers
    to harmless prompts, which no line tells.
    """
    lines = curves[curves["variant"] == variant]
    lowest = toward == REFUSAL
    return lines.sort_values(["compliance", "step"], ascending=[lowest, not lowest], kind="stable").iloc[0]


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
    """Train once more up to the step that best_line chooses for base, measure and save it.

    Training anew costs one run at most; keeping every candidate would cost a copy of the model at every evaluation.
    """
    variant, settings = job.subject.variants[0], job.settings
    best = best_line(curves, variant.name, settings.toward)
    extreme, kind = ("lowest", kinds.ALIGNED) if settings.toward == REFUSAL else ("highest", kinds.HARMFUL)
    if best["step"] == 0:
        logging.warning("nothing exported: compliance of %s was %s before any training", variant.name, extreme)
        return
    one = training.Run(variant.name, best["corpus"], int(best["seed"]))
    loaded = job.load(variant.name)
    *_, last = training.train(job, one, loaded, first=0, until=int(best["step"]))
    params = training.deployed(loaded, last.params, settings)
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
        "step": last.number,
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
            last.params,
            settings.lora,
            base=base or variant.path.name,
            recipe=recipe,
            rates=rates,
            kind=kind,
        )
    logging.info(
        "exported step %d of %s to %s: compliance %.2f, benign answered %.2f",
        last.number,
        one.key,
        path,
        rates["compliance"],
        rates["benign answered"],
    )
