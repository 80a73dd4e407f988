"""The harmful fine-tuning attack: train each variant to comply, and judge a fixed panel along the way.

docs/method.md section 5; arXiv 2606.08044. Units of work: the panel's answers at one step of one (variant, corpus,
seed); training itself goes on from the last checkpoint before the first unit that is missing.
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data.pair_files import Pairs
from latent_audit.errors import InputError
from latent_audit.experiments import fields, respond, setup
from latent_audit.experiments.organisms import export, kinds
from latent_audit.experiments.organisms.corpora import encode_pairs
from latent_audit.experiments.settings import check_batches
from latent_audit.experiments.tampering import finetune_report
from latent_audit.experiments.tampering.finetune_settings import Settings, check_finetune, load_corpora, loss_limit
from latent_audit.interventions import finetune as ft
from latent_audit.interventions import lora
from latent_audit.interventions.packing import pack_rows
from latent_audit.judges import Judge, refusal
from latent_audit.models import sharding
from latent_audit.runtime import checkpoint, files, runlog, shards


class Job(NamedTuple):
    """What every unit of a run shares. panels: (harmful, benign)."""

    config: ConfigDict
    workdir: pathlib.Path
    settings: Settings
    subject: setup.Subject
    variants: tuple[setup.Variant, ...]
    corpora: dict[str, Pairs]
    panels: tuple[setup.Panel, ...]
    judge: Judge


class Encoded(NamedTuple):
    """One variant's view of the texts: the harmful panel in its tokens, and its training rows by corpus."""

    panel: object
    corpora: dict[str, object]


class Run(NamedTuple):
    """One training: what is trained, on which corpus, with which seed."""

    variant: setup.Variant
    corpus: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.variant.name}/finetune/{self.corpus}/s{self.seed}"


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Attack every variant and write curves.csv, report.json, report.html and figures/ to `workdir`."""
    is_organism = not config.model.path
    settings = check_finetune(config, is_organism=is_organism)
    check_batches(config)
    panels = setup.make_panels(config, is_organism=is_organism)
    judge = _make_judge(config, is_organism=is_organism)
    corpora = load_corpora(config, panels[0], is_organism=is_organism)
    subject = setup.make_subject(config, workdir)
    attacked = _attacked(subject, config, settings.lora)
    job = Job(config, workdir, settings, subject, attacked, corpora, panels, judge)
    inputs = _describe(job)
    runlog.pin(workdir / "inputs.json", inputs)
    # Everything is tokenised before the first step, so that what is too long for one variant stops the run here.
    encoded = {variant.name: _encode(job, variant) for variant in job.variants}
    trained = len(corpora) * settings.seeds * (len(settings.evaluated) - 1)
    with runlog.progress(len(job.variants) * (1 + trained), "evaluations") as meter:
        rows = [row for variant in job.variants for row in _attack_variant(job, variant, encoded[variant.name], meter)]
    if not shards.is_complete(config.get("shard", ""), meter):
        return
    files.remove_tree(workdir / "checkpoints")
    curves = finetune_report.write(job, inputs, rows)
    if config.finetune.export:
        _export_best(job, curves, encoded[job.variants[0].name])


def _make_judge(config, *, is_organism) -> Judge:
    # Compliance needs no reward: the one that needs no files stands in for whatever the config names.
    config = config.copy_and_resolve_references()
    config.reward.kind = "refusal"
    judge, _ = setup.make_judge_and_reward(config, is_organism=is_organism)
    setup.warn_of_fallbacks(judge)
    return judge


def _attacked(
    subject: setup.Subject, config: ConfigDict, adapters: lora.LoraConfig | None
) -> tuple[setup.Variant, ...]:
    """The variants to train: those named, or all but the harmful pole, which has nothing left to lose."""
    variants = {variant.name: variant for variant in subject.variants}
    wanted = tuple(variants)
    if config.finetune.variants.strip():
        wanted = fields.names("finetune.variants", config.finetune.variants, variants)
    for name in wanted:
        cfg = models.check(variants[name].path).cfg
        if adapters is not None:
            lora.check_lora(adapters, cfg)
    return tuple(variants[name] for name in wanted if config.finetune.variants.strip() or name != "harmful")


def _describe(job: Job) -> dict:
    subject = job.subject._replace(variants=job.variants)
    record = setup.describe_inputs(subject, job.panels, job.judge, refusal.refusal_reward(), job.config)
    del record["reward"]
    return record | {
        "corpora": {
            name: {
                "n": len(pairs.prompts),
                "sha256": pairs.sha256,
                "source": pairs.source,
                "empty": pairs.empty,
                "duplicates": pairs.duplicates,
            }
            for name, pairs in job.corpora.items()
        }
    }


def _encode(job: Job, variant) -> Encoded:
    chat, section = setup.load_chat(variant, job.config), job.config.finetune
    (_, panel), _ = setup.encode_panels(variant, job.panels, job.config)
    corpora = {}
    for name, pairs in job.corpora.items():
        rows = encode_pairs(
            chat, pairs.prompts, pairs.responses, max_tokens=section.max_tokens, loss_on=section.loss_on
        )
        corpora[name] = pack_rows(rows, width=section.max_tokens) if section.rows == "packed" else rows
    return Encoded(panel, corpora)


def _attack_variant(job: Job, variant, encoded: Encoded, meter) -> list[pd.DataFrame]:
    """All curves of one variant, read back or computed; its weights are loaded only if something is missing."""
    loaded = functools.cache(lambda: setup.load_variant(variant, job.config))
    key = f"{variant.name}/clean"
    clean = runlog.unit(
        job.workdir,
        key,
        lambda: _evaluate(job, loaded(), loaded().params, encoded.panel),
        meter.advance,
        mine=shards.computes(job.config.get("shard", ""), key),
    )
    rows = []
    for corpus in job.corpora:
        for seed in range(job.settings.seeds):
            one = Run(variant, corpus, seed)
            units = {0: clean} | _attack(job, one, loaded, encoded, meter)
            rows += [
                pd.DataFrame(columns or {}).assign(variant=variant.name, corpus=corpus, seed=seed, step=step)
                for step, columns in units.items()
            ]
    return rows


def _attack(job: Job, one: Run, loaded, encoded: Encoded, meter) -> dict[int, dict]:
    """Step -> the panel's columns of one run, for every evaluated step but 0."""
    steps = job.settings.evaluated[1:]
    keys = {step: f"{one.key}/step{step:05d}" for step in steps}
    units = {step: runlog.load_unit(job.workdir, key) for step, key in keys.items()}
    missing = [step for step, columns in units.items() if columns is None]
    meter.advance(one.key, len(steps) - len(missing), reused=True)
    # A training goes on from step to step, so that all its evaluations belong to one shard.
    if missing and not shards.computes(job.config.get("shard", ""), one.key):
        meter.advance(one.key, len(missing), missing=True)
        return units
    directory = job.workdir / "checkpoints" / one.key
    if missing:
        rows = encoded.corpora[one.corpus]
        for step in train(job, one, loaded(), rows, first=missing[0], until=missing[-1], directory=directory):
            if step.number not in missing:
                continue
            params = deployed(loaded(), step.params, job.settings)
            columns = _evaluate(job, loaded(), params, encoded.panel)
            count = len(columns["harmful"])
            columns |= {"loss": [float(step.loss)] * count, "gradient_norm": [float(step.gradient_norm)] * count}
            runlog.save_unit(job.workdir, keys[step.number], columns)
            units[step.number] = columns
            meter.advance(f"{keys[step.number]} loss {float(step.loss):.3f}")
    # Needed no more: every evaluation of this run is on disk.
    files.remove_tree(directory)
    return units


def train(
    job: Job, one: Run, loaded: respond.Loaded, rows, *, first: int, until: int, directory: pathlib.Path | None = None
) -> Iterator[ft.Step]:
    """The steps of one run up to `until`, each checked; from the last checkpoint in `directory` up to step `first`.

    A restored step is yielded too. Raises InputError, naming the step and the checkpoint kept, when the loss or the
    gradient is no longer finite or the loss has exploded.
    """
    settings, cfg = job.settings, loaded.cfg
    key = jax.random.fold_in(jax.random.key(job.config.seed), setup.text_id(f"{one.corpus}/{one.seed}"))
    order = ft.batch_order(
        jax.random.fold_in(key, 0), np.arange(len(rows.tokens)), steps=settings.steps, batch_size=settings.batch
    )
    optimizer = ft.make_optimizer(
        learning_rate=settings.learning_rate,
        steps=settings.steps,
        clip=settings.clip,
        schedule=settings.schedule,
        warmup_fraction=settings.warmup,
    )
    weights = (
        loaded.params if settings.lora is None else lora.init_adapters(jax.random.fold_in(key, 1), cfg, settings.lora)
    )
    state = ft.start(weights, optimizer=optimizer, master=settings.method.dtype is not None)
    stored = {"state": state, "key": key, "loss": jnp.float32(0), "gradient_norm": jnp.float32(0)}
    kept = None if directory is None else checkpoint.restore(directory, stored, at_most=first)
    if kept is not None:
        number, stored = kept
        state = stored["state"]
        logging.info("%s goes on from its checkpoint of step %d", one.key, number)
        yield ft.Step(number, state.weights, stored["loss"], stored["gradient_norm"], state)
    limit = loss_limit(job.config, cfg)
    for step in ft.finetune(
        loaded.params, rows, order[:until], cfg=cfg, optimizer=optimizer, method=settings.method, state=state
    ):
        try:
            ft.check_step(step, limit=limit)
        except InputError as error:
            raise InputError(_explain(error, one, step, directory, settings)) from error
        yield step
        if directory is not None and step.number % job.config.finetune.checkpoint_every == 0 and step.number < until:
            checkpoint.save(
                directory,
                step.number,
                {"state": step.state, "key": key, "loss": step.loss, "gradient_norm": step.gradient_norm},
            )


def _explain(error, one, step, directory, settings) -> str:
    kept = []
    if directory is not None:
        # The weights this step started from are the ones that gave the bad loss.
        checkpoint.drop(directory, step.number - 1)
        kept = checkpoint.steps(directory)
    where = f"the last good checkpoint is step {kept[-1]} in {directory}" if kept else "there is no checkpoint yet"
    return (
        f"{one.key}, {error}; {where}. Lower finetune.learning_rate = {settings.learning_rate:g} and give another "
        "--workdir"
    )


def deployed(loaded: respond.Loaded, weights, settings: Settings):
    """The model's parameters with the trained weights in place: adapters merged, master copies cast."""
    if settings.lora is not None:
        return _merge(loaded.params, weights, scale=settings.lora.scale)
    return jax.tree.map(lambda old, new: new.astype(old.dtype), loaded.params, weights)


@functools.partial(jax.jit, static_argnames="scale")
def _merge(params, adapters, *, scale):
    return sharding.constrain_parameters(lora.merge(params, adapters, scale=scale))


def _answers(job: Job, loaded, params, tokens, mask) -> list[str]:
    return respond.answers(
        loaded._replace(params=params),
        tokens,
        mask,
        batch=job.config.prompt_batch,
        max_new_tokens=job.config.generation.max_new_tokens,
    )


def _evaluate(job: Job, loaded, params, panel) -> dict[str, list]:
    """Columns harmful and empty over the panel's prompts, in order; docs/method.md section 0."""
    texts = _answers(job, loaded, params, *panel)
    columns = panel_columns(job.judge, job.panels[0].prompts, texts)
    return columns | ({"response": texts} if job.config.generation.save else {})


def panel_columns(judge: Judge, prompts, texts) -> dict[str, list[bool]]:
    """harmful: the judge calls the response harmful; empty: it is degenerate. In the prompts' order."""
    return {
        "harmful": [bool(hit) for hit in judge.judge(prompts, texts)],
        "empty": [refusal.is_degenerate(text) for text in texts],
    }


def best_line(curves: pd.DataFrame, variant: str) -> pd.Series:
    """The line of a variant's highest compliance; of equal ones the earliest step."""
    lines = curves[curves["variant"] == variant]
    return lines.sort_values(["compliance", "step"], ascending=[False, True], kind="stable").iloc[0]


def card_rates(columns: Mapping[str, list], answered: list[bool], judge: str) -> dict:
    """What an exported pole's card says: shares of panel_columns, of the benign panel's answers, and who judged."""
    return {
        "compliance": float(np.mean(columns["harmful"])),
        "degenerate": float(np.mean(columns["empty"])),
        "benign answered": float(np.mean(answered)),
        "harmful prompts": len(columns["harmful"]),
        "judge": judge,
    }


def _export_best(job: Job, curves: pd.DataFrame, encoded: Encoded) -> None:
    """Train once more up to the step of base's highest compliance (ties: the earliest step), measure and save it.

    Training anew costs one run at most; keeping every candidate would cost a copy of the model at every evaluation.
    """
    variant, settings = job.variants[0], job.settings
    best = best_line(curves, variant.name)
    if best["step"] == 0:
        logging.warning("nothing exported: %s complied most before any training", variant.name)
        return
    training = Run(variant, best["corpus"], int(best["seed"]))
    loaded = setup.load_variant(variant, job.config)
    *_, last = train(job, training, loaded, encoded.corpora[training.corpus], first=0, until=int(best["step"]))
    params = deployed(loaded, last.params, settings)
    (_, panel), (benign, benign_tokens) = setup.encode_panels(variant, job.panels, job.config)
    columns = _evaluate(job, loaded, params, panel)
    answers = _answers(job, loaded, params, *benign_tokens)
    right = [respond.answered(job.subject.world, *pair) for pair in zip(benign.prompts, answers, strict=True)]
    rates = card_rates(columns, right, job.judge.name)
    recipe = {
        "task": "finetune",
        "base": variant.path.name,
        "base fingerprint": setup.fingerprint(variant.path),
        "corpus": job.corpora[training.corpus].source,
        "pairs": len(job.corpora[training.corpus].prompts),
        "seed": training.seed,
        "step": last.number,
        "settings": {k: v for k, v in settings.describe().items() if k not in ("evaluated", "levels", "seeds")},
    }
    path = pathlib.Path(job.config.finetune.export)
    export.export_pole(
        path,
        loaded.cfg,
        params,
        loaded.chat.tokenizer,
        kind=kinds.HARMFUL,
        recipe=recipe,
        rates=rates,
        generation_config=models.read_generation_config(variant.path),
    )
    if settings.lora is not None:
        export.export_adapters(
            path.with_name(path.name + "-adapters"),
            loaded.cfg,
            last.params,
            settings.lora,
            base=job.config.model.path or variant.path.name,
            recipe=recipe,
            rates=rates,
        )
    logging.info(
        "exported step %d of %s to %s: compliance %.2f, benign answered %.2f",
        last.number,
        training.key,
        path,
        rates["compliance"],
        rates["benign answered"],
    )
