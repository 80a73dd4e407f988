"""The harmful fine-tuning attack: train each variant to comply (or to refuse), and judge a fixed panel along the way.

docs/method.md section 5; arXiv 2606.08044. Units of work: the panel's answers at one step of one (variant, corpus,
seed); training itself goes on from the last checkpoint before the first unit that is missing.
"""

import dataclasses
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
from latent_audit.data import pair_files, prompt_files
from latent_audit.errors import InputError
from latent_audit.experiments import fields, respond
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Work
from latent_audit.experiments.forecast.outlook import Outlook
from latent_audit.experiments.organisms import export, kinds
from latent_audit.experiments.organisms.texts.corpora import encode_pairs, own_answers
from latent_audit.experiments.panels import request_panels, text_id
from latent_audit.experiments.setup import jobs, outlooks, subjects
from latent_audit.experiments.setup.jobs import Job
from latent_audit.experiments.tampering import finetune_report
from latent_audit.experiments.tampering.finetune_settings import (
    COMPLIANCE,
    REFUSAL,
    Settings,
    check_finetune,
    default_loss_limit,
    load_benign,
    load_corpora,
)
from latent_audit.interventions import finetune as ft
from latent_audit.interventions import lora
from latent_audit.interventions.packing import pack_rows
from latent_audit.judges import Judge
from latent_audit.models import sharding
from latent_audit.runtime import checkpoint, files, runlog, shards
from latent_audit.runtime.telling import progress

# arXiv 2606.08044: of the panel along the way, and of the harmful pole that is exported.
PAPER_TOKENS, LAST_TOKENS = 256, 512


@dataclasses.dataclass(frozen=True)
class Attack(Job):
    """A job with what its trainings share; rows: training rows by corpus, in the tokens that all variants share."""

    settings: Settings
    rows: dict[str, object]


class Run(NamedTuple):
    """One training: what is trained, on which corpus, with which seed."""

    variant: str
    corpus: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.variant}/finetune/{self.corpus}/s{self.seed}"


class Plan(NamedTuple):
    """What an attack is going to do, checked.

    corpora: pairs by name; rows: the same in tokens; benign: harmless prompts that are trained on too, or None.
    """

    prospect: jobs.Prospect
    settings: Settings
    corpora: dict[str, pair_files.Pairs]
    rows: dict[str, object]
    benign: prompt_files.PromptSet | None


def check(config: ConfigDict) -> Plan:
    """Everything the attack will need, its corpora tokenised too; InputError names field, value and rule."""
    world = subjects.world_of(config)
    settings = check_finetune(config, is_organism=world is not None)
    fields.check_batches(config)
    panels = request_panels(config, world)
    corpora = load_corpora(config, panels["harmful"], world)
    benign = load_benign(config, corpora, panels["benign"])
    prospect = jobs.check(
        config, panels, rewarded=False, variants=lambda every: attacked(every, config.finetune.variants)
    )
    if settings.lora is not None:
        with fields.named("finetune"):
            lora.check_lora(settings.lora, prospect.cfg)
    if config.finetune.export:
        read = [variant.path for variant in prospect.subject.variants] if prospect.subject else []
        models.check_target(config.finetune.export, field="finetune.export", reading=read)
    with fields.named(f"finetune.max_tokens = {settings.max_tokens}"):
        rows = {name: _encode(prospect.chat, pairs, settings) for name, pairs in corpora.items()}
    return Plan(prospect, settings, corpora, rows, benign)


def outlook(config: ConfigDict, plan: Plan, workdir: pathlib.Path) -> Outlook:
    """How much the attack of a checked plan computes."""
    settings, prospect = plan.settings, plan.prospect
    seen, cfg = outlooks.seen(config, prospect, {}), prospect.cfg
    width = max(rows.tokens.shape[1] for rows in plan.rows.values())
    runs, evaluated = len(plan.rows) * settings.seeds, len(settings.evaluated) - 1
    trained = amounts.training(cfg, settings.steps * settings.batch, width)
    if settings.lora is not None:
        trained = trained._replace(weights=0.0)
    works = []
    for name in prospect.names:
        works.append(
            amounts.asked(seen, f"evaluations {name}/clean", 1, seen.prompts["harmful"], "harmful", PAPER_TOKENS)
        )
        key, units = f"evaluations {name}/finetune", runs * evaluated
        works.append(Work(key, units, amounts.times(trained, runs)))
        works.append(amounts.asked(seen, key, units, units * seen.prompts["harmful"], "harmful", PAPER_TOKENS))
    return outlooks.outlook(config, prospect, works, workdir, budgets=1, answered=config.prompt_batch)


def run(config: ConfigDict, workdir: pathlib.Path, plan: Plan | None = None) -> None:
    """Attack every variant and write curves.csv, report.json, report.html and figures/ to `workdir`.

    plan: what check gave; None checks here.
    """
    prospect, settings, corpora, rows, benign = plan or check(config)
    record = {"corpora": {name: pairs.describe() for name, pairs in corpora.items()}}
    if benign is not None:
        own = {"n": len(benign.prompts), "sha256": benign.sha256, "source": benign.source}
        record["benign"] = own | {"tokens": config.finetune.benign_tokens}
    job = Attack(**vars(jobs.prepare(config, workdir, prospect, record=record)), settings=settings, rows=rows)
    if benign is not None and job.shard != shards.READ:
        answered = _own_answers(job, config, benign)
        rows = {name: _encode(prospect.chat, pairs, settings, answered) for name, pairs in corpora.items()}
        job = dataclasses.replace(job, rows=rows)
    trained = len(corpora) * settings.seeds * (len(settings.evaluated) - 1)
    with progress.of(len(job.names) * (1 + trained), "evaluations") as meter:
        units = [unit for name in job.names for unit in _attack_variant(job, name, meter)]
    if not shards.is_complete(job.shard, meter, workdir):
        return
    files.remove_tree(workdir / "checkpoints")
    curves = finetune_report.write(job, units)
    if config.finetune.export and job.shard != shards.READ:
        path = pathlib.Path(config.finetune.export).expanduser()
        _export_best(job, curves, path, base=config.model.path, corpora=corpora)


def attacked(names: tuple[str, ...], wanted: str) -> tuple[str, ...]:
    """The variants to train: those named, or all but the harmful pole, which has nothing left to lose."""
    if wanted.strip():
        return fields.names("finetune.variants", wanted, names)
    return tuple(name for name in names if name != kinds.HARMFUL)


def _own_answers(job: Attack, config: ConfigDict, benign: prompt_files.PromptSet) -> list[tuple[str, str]]:
    """Base's own answers to the harmless prompts; kept with the trainings, so that one that goes on has the same."""

    def compute():
        pairs = own_answers(
            job.load("base"),
            benign.prompts,
            max_length=job.settings.max_tokens,
            batch=job.batches.prompts,
            max_new_tokens=config.finetune.benign_tokens,
        )
        return {"prompt": [prompt for prompt, _ in pairs], "answer": [answer for _, answer in pairs]}

    kept = runlog.unit(job.workdir / "checkpoints", "own answers", compute, lambda *_, **__: None)
    return list(zip(kept["prompt"], kept["answer"], strict=True))


def _encode(chat, pairs, settings: Settings, own=()):
    """Training rows of a corpus, and of (prompt, answer) pairs behind it."""
    prompts, answers = [*pairs.prompts, *(prompt for prompt, _ in own)], [*pairs.responses, *(text for _, text in own)]
    rows = encode_pairs(chat, prompts, answers, max_tokens=settings.max_tokens, loss_on=settings.loss_on)
    return pack_rows(rows, width=settings.max_tokens) if settings.rows == "packed" else rows


def _attack_variant(job: Attack, name: str, meter) -> list[pd.DataFrame]:
    """All curves of one variant, read back or computed; its weights are loaded only if something is missing."""
    key = f"{name}/clean"
    clean = runlog.unit(
        job.workdir,
        key,
        lambda: _evaluate(job, job.load(name), job.load(name).params),
        meter.advance,
        mine=shards.computes(job.shard, key),
    )
    rows = []
    for corpus in job.rows:
        for seed in range(job.settings.seeds):
            units = {0: clean} | _attack(job, Run(name, corpus, seed), meter)
            rows += [
                pd.DataFrame(columns or {}).assign(variant=name, corpus=corpus, seed=seed, step=step)
                for step, columns in units.items()
            ]
    return rows


def _attack(job: Attack, one: Run, meter) -> dict[int, dict]:
    """Step -> the panel's columns of one run, for every evaluated step but 0."""
    directory = job.workdir / "checkpoints" / one.key

    def compute(missing):
        loaded = job.load(one.variant)
        for step in train(job, one, loaded, first=missing[0], until=missing[-1], directory=directory):
            if step.number in missing:
                columns = _evaluate(job, loaded, deployed(loaded, step.params, job.settings))
                count = len(columns["harmful"])
                columns |= {"loss": [float(step.loss)] * count, "gradient_norm": [float(step.gradient_norm)] * count}
                yield step.number, columns

    keys = {step: f"{one.key}/step{step:05d}" for step in job.settings.evaluated[1:]}
    # A training goes on from step to step, so that all its evaluations belong to one shard.
    mine = shards.computes(job.shard, one.key)
    units = runlog.units(job.workdir, keys, compute, meter.advance, mine=mine)
    if all(columns is not None for columns in units.values()):
        # Needed no more: every evaluation of this run is on disk.
        files.remove_tree(directory)
    return units


def train(
    job: Attack, one: Run, loaded: respond.Loaded, *, first: int, until: int, directory: pathlib.Path | None = None
) -> Iterator[ft.Step]:
    """The steps of one run up to `until`, each checked; from the last checkpoint in `directory` up to step `first`.

    A restored step is yielded too. Raises InputError, naming the step and the checkpoint kept, when the loss or the
    gradient is no longer finite or the loss has exploded.
    """
    settings, cfg, rows = job.settings, loaded.cfg, job.rows[one.corpus]
    key = jax.random.fold_in(jax.random.key(job.seed), text_id(f"{one.corpus}/{one.seed}"))
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
    limit = settings.loss_limit or default_loss_limit(cfg)
    for step in ft.finetune(
        loaded.params, rows, order[:until], cfg=cfg, optimizer=optimizer, method=settings.method, state=state
    ):
        try:
            ft.check_step(step, limit=limit)
        except InputError as error:
            raise InputError(_explain(error, one, step, directory, settings)) from error
        yield step
        if directory is not None and step.number % settings.checkpoint_every == 0 and step.number < until:
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


def _answers(job: Attack, loaded, params, panel: str, tokens: int = PAPER_TOKENS) -> list[str]:
    return respond.answers(
        loaded._replace(params=params),
        *job.tokens[panel],
        batch=job.batches.prompts,
        max_new_tokens=job.new_tokens(tokens),
        in_training=params is not loaded.params,
    )


def _evaluate(job: Attack, loaded, params, tokens: int = PAPER_TOKENS) -> dict[str, list]:
    """Columns harmful and empty over the panel's prompts, in order; docs/method.md section 0."""
    texts = _answers(job, loaded, params, "harmful", tokens)
    columns = panel_columns(job.judge, job.panels["harmful"].behaviors, texts)
    return columns | respond.kept(job.panels["harmful"].behaviors, texts, job.save)


def panel_columns(judge: Judge, prompts, texts) -> dict[str, list[bool]]:
    """harmful: judged so and coherent; judged, unparsed: as in respond.score; empty: degenerate. In the prompts'
    order."""
    columns = respond.score(judge, None, prompts, texts)
    return {name: columns[name] for name in ("harmful", "judged", "unparsed")} | {"empty": columns["degenerate"]}


def best_line(curves: pd.DataFrame, variant: str, toward: str = COMPLIANCE) -> pd.Series:
    """The line of a variant's highest compliance; of equal ones the earliest step.

    Of a training towards refusals that of its lowest, of equal ones the last step: it also learns to keep its answers
    to harmless prompts, which no line tells.
    """
    lines = curves[curves["variant"] == variant]
    if toward == REFUSAL:
        return lines.sort_values(["compliance", "step"], ascending=[True, False], kind="stable").iloc[0]
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


def _export_best(job: Attack, curves: pd.DataFrame, path: pathlib.Path, *, base: str, corpora) -> None:
    """Train once more up to the step that best_line chooses for base, measure and save it.

    Training anew costs one run at most; keeping every candidate would cost a copy of the model at every evaluation.
    """
    variant, settings = job.subject.variants[0], job.settings
    best = best_line(curves, variant.name, settings.toward)
    extreme, kind = ("lowest", kinds.ALIGNED) if settings.toward == REFUSAL else ("highest", kinds.HARMFUL)
    if best["step"] == 0:
        logging.warning("nothing exported: compliance of %s was %s before any training", variant.name, extreme)
        return
    training = Run(variant.name, best["corpus"], int(best["seed"]))
    loaded = job.load(variant.name)
    *_, last = train(job, training, loaded, first=0, until=int(best["step"]))
    params = deployed(loaded, last.params, settings)
    columns = _evaluate(job, loaded, params, LAST_TOKENS)
    pairs = zip(job.panels["benign"].prompts, _answers(job, loaded, params, "benign", LAST_TOKENS), strict=True)
    right = [respond.answered(job.world, *pair) for pair in pairs]
    # The step was chosen by the compliance of these very prompts, which is therefore the extreme one of several.
    chosen_by = f"the compliance of these prompts, the {extreme} of several"
    rates = card_rates(columns, right, job.judge.name) | {"chosen by": chosen_by}
    recipe = {
        "task": "finetune",
        "base": variant.path.name,
        **{f"base {name}": value for name, value in models.describe(variant.path, adapter=variant.adapter).items()},
        "corpus": job.inputs["corpora"][training.corpus]["source"],
        "pairs": job.inputs["corpora"][training.corpus]["n"],
        "seed": training.seed,
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
        trained_on=corpora[training.corpus].prompts,
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
        training.key,
        path,
        rates["compliance"],
        rates["benign answered"],
    )
