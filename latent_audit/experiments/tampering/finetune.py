"""The harmful fine-tuning attack: train each variant to comply (or to refuse), and judge a fixed panel along the way.

docs/method.md section 5; arXiv 2606.08044. Units of work: the panel's answers at one step of one (variant, corpus,
seed); training itself goes on from the last checkpoint before the first unit that is missing.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import pandas as pd
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import pair_files, prompt_files
from latent_audit.experiments import fields
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Work
from latent_audit.experiments.forecast.outlook import Outlook
from latent_audit.experiments.organisms import kinds
from latent_audit.experiments.organisms.texts.corpora import encode_pairs, own_answers
from latent_audit.experiments.panels import request_panels
from latent_audit.experiments.setup import jobs, outlooks, subjects
from latent_audit.experiments.tampering import finetune_export, finetune_report
from latent_audit.experiments.tampering import finetune_training as training
from latent_audit.experiments.tampering.finetune_settings import Settings, check_finetune, load_benign, load_corpora
from latent_audit.interventions import lora
from latent_audit.interventions.packing import pack_rows
from latent_audit.runtime import files, runlog, shards
from latent_audit.runtime.telling import progress


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
    count, tokens, works = seen.prompts["harmful"], training.PAPER_TOKENS, []
    for name in prospect.names:
        works.append(amounts.asked(seen, f"evaluations {name}/clean", 1, count, "harmful", tokens))
        key, units = f"evaluations {name}/finetune", runs * evaluated
        works.append(Work(key, units, amounts.times(trained, runs)))
        works.append(amounts.asked(seen, key, units, units * count, "harmful", tokens))
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
    prepared = jobs.prepare(config, workdir, prospect, record=record)
    exported = prospect.names[0] if config.finetune.export else ""
    job = training.Attack(**vars(prepared), settings=settings, rows=rows, exported=exported)
    if benign is not None and job.shard != shards.READ:
        answered = _own_answers(job, config, benign)
        rows = {name: _encode(prospect.chat, pairs, settings, answered) for name, pairs in corpora.items()}
        job = dataclasses.replace(job, rows=rows)
    trained = len(corpora) * settings.seeds * (len(settings.evaluated) - 1)
    with progress.of(len(job.names) * (1 + trained), "evaluations") as meter:
        units = [unit for name in job.names for unit in _attack_variant(job, name, meter)]
    if not shards.is_complete(job.shard, meter, workdir):
        return
    curves = finetune_report.write(job, units)
    if config.finetune.export and job.shard != shards.READ:
        path = pathlib.Path(config.finetune.export).expanduser()
        finetune_export.export_best(job, curves, path, base=config.model.path, corpora=corpora)
    files.remove_tree(workdir / "checkpoints")


def attacked(names: tuple[str, ...], wanted: str) -> tuple[str, ...]:
    """The variants to train: those named, or all but the harmful pole, which has nothing left to lose."""
    if wanted.strip():
        return fields.names("finetune.variants", wanted, names)
    return tuple(name for name in names if name != kinds.HARMFUL)


def _own_answers(job: training.Attack, config: ConfigDict, benign: prompt_files.PromptSet) -> list[tuple[str, str]]:
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


def _attack_variant(job: training.Attack, name: str, meter) -> list[pd.DataFrame]:
    """All curves of one variant, read back or computed; its weights are loaded only if something is missing."""
    key = f"{name}/clean"
    clean = runlog.unit(
        job.workdir,
        key,
        lambda: training.evaluate(job, job.load(name), job.load(name).params),
        meter.advance,
        mine=shards.computes(job.shard, key),
    )
    rows = []
    for corpus in job.rows:
        for seed in range(job.settings.seeds):
            units = {0: clean} | _attack(job, training.Run(name, corpus, seed), meter)
            rows += [
                pd.DataFrame(columns or {}).assign(variant=name, corpus=corpus, seed=seed, step=step)
                for step, columns in units.items()
            ]
    return rows


def _attack(job: training.Attack, one: training.Run, meter) -> dict[int, dict]:
    """Step -> the panel's columns of one run, for every evaluated step but 0."""
    directory = job.workdir / "checkpoints" / one.key

    def compute(missing):
        loaded = job.load(one.variant)
        for step in training.train(job, one, loaded, first=missing[0], until=missing[-1], directory=directory):
            if step.number in missing:
                columns = training.evaluate(job, loaded, training.deployed(loaded, step.params, job.settings))
                finetune_export.keep_best(job, one, step, columns)
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
