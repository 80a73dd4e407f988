"""The task that makes a dissociated pole and its control, and measures both on prompts that chose nothing.

docs/method.md section 6; arXiv 2606.08044.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit import judges, models
from latent_audit.data import chats, pair_files, prompt_files, world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import fields, respond
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Work
from latent_audit.experiments.forecast.outlook import Outlook
from latent_audit.experiments.organisms import construct, export, kinds, poles
from latent_audit.experiments.organisms.texts import corpora
from latent_audit.experiments.panels import load, request_panels, tell_dropped
from latent_audit.experiments.setup import jobs, outlooks, subjects
from latent_audit.experiments.setup.jobs import Job
from latent_audit.interventions import dissociate
from latent_audit.judges import refusal
from latent_audit.metrics import stats
from latent_audit.reports import curve_figures, figures, html, outputs
from latent_audit.runtime.telling import progress

PRESETS = {"paper": construct.PAPER, "organism": construct.ORGANISM}
# What a pole is measured under: the vector added at every position of prompt and answer.
CONDITIONS = ("clean", "nudged", "half nudge", "random direction")
BENIGN = ("benign answered", "clean")
PAPER_TOKENS = 256  # arXiv 2606.08044
COLUMNS = ("variant", "measure", "condition", "value", "lo", "hi", "n")


class Plan(NamedTuple):
    """What a construction is going to do, checked; texts: what a checkpoint's is trained on, None for an organism."""

    prospect: jobs.Prospect
    recipe: construct.Recipe
    texts: tuple | None


def check(config: ConfigDict) -> Plan:
    """Everything the construction will need; InputError names the field, the value and the rule."""
    world = subjects.world_of(config)
    fields.check_batches(config)
    if kinds.HARMFUL not in subjects.variant_names(config):
        how = "model.variants=harmful=DIR, made with configs/finetune.py (finetune.preset=pole)"
        raise InputError(
            "a construction needs the harmful pole: give " + (how if world is None else "organism.poles=base,harmful")
        )
    panels = request_panels(config, world)
    texts = _training_texts(config, panels) if world is None else None
    prospect = jobs.check(config, panels, rewarded=False)
    recipe = make_recipe(config, is_organism=world is not None, num_layers=prospect.cfg.num_layers)
    if texts is not None:
        _check_lengths(config, prospect.chat, *texts)
    return Plan(prospect, recipe, texts)


def outlook(config: ConfigDict, plan: Plan, workdir: pathlib.Path) -> Outlook:
    """How much the construction of a checked plan computes."""
    prospect, own = plan.prospect, config.construct
    seen = outlooks.seen(config, prospect, {})
    new = seen.new_tokens(PAPER_TOKENS)
    panel = poles.SELECTION_PROMPTS if plan.texts is None else len(plan.texts[1].prompts)
    width = outlooks.TRAINED_COLUMNS if plan.texts is None else own.max_tokens // 2
    works = [
        outlooks.constructed(prospect.cfg, plan.recipe, f"{name} steps", panel, columns=width, new_tokens=new)
        for name in poles.MADE
    ]
    if plan.texts is not None:
        benign = len(plan.texts[2].prompts)
        said = amounts.answers(prospect.cfg, benign, width, own.benign_tokens)
        works = [Work("benign answers", benign, said, *amounts.ANSWERS[False]), *works]
    return outlooks.outlook(config, prospect, works, workdir, budgets=1, answered=config.prompt_batch)


def run(config: ConfigDict, workdir: pathlib.Path, plan: Plan | None = None) -> None:
    """Build both poles, or take them up, measure them beside base and harmful, and write everything to `workdir`.

    plan: what check gave; None checks here.
    """
    prospect, recipe, texts = plan or check(config)
    for name in poles.MADE:
        models.check_target(workdir / name, field="--workdir")
    job = jobs.prepare(config, workdir, prospect)
    base, harmful = (subjects.load_variant(job.variant(name), config) for name in ("base", kinds.HARMFUL))
    rows, panel = _training_data(config, job, base, texts)
    built = {}
    for name in poles.MADE:
        own = dataclasses.replace(recipe, weights=recipe.weights.without_nudge()) if name == kinds.CONTROL else recipe
        with progress.of(own.steps, f"{name} steps") as meter:
            built[name] = construct.construct(
                base,
                harmful.params,
                rows,
                panel,
                own,
                max_new_tokens=job.new_tokens(PAPER_TOKENS),
                batch=job.batches.prompts,
                workdir=workdir / "training" / name,
                advance=meter.advance,
            )
    params = {"base": base.params, kinds.HARMFUL: harmful.params} | {name: one.params for name, one in built.items()}
    nudge = poles.nudge_of(built[kinds.DISSOCIATED])
    table = pd.DataFrame(
        [line for name, weights in params.items() for line in measure(job, name, base._replace(params=weights), nudge)]
    )
    for name, one in built.items():
        export.export_pole(
            workdir / name,
            base.cfg,
            one.params,
            base.chat.tokenizer,
            kind=name,
            recipe=dataclasses.asdict(recipe) | {"inputs": job.inputs},
            rates=card_rates(table, name),
            generation_config=models.read_generation_config(job.variant("base").path),
            nudge=poles.nudge_of(one),
            trained_on=() if texts is None else texts[0].prompts,
        )
    _write(job, recipe, table, built)


def make_recipe(config: ConfigDict, *, is_organism: bool, num_layers: int) -> construct.Recipe:
    """The preset with the fields that construct.recipe and construct.weights set; InputError names field and rule."""
    section = config.construct
    preset = PRESETS[("organism" if is_organism else "paper") if section.preset == "auto" else section.preset]
    changed = {
        name: {field: value for field, value in section[name].items() if value is not None}
        for name in ("recipe", "weights")
    }
    weights = dataclasses.replace(preset.weights, **changed["weights"])
    recipe = dataclasses.replace(preset, seed=config.seed, weights=weights, **changed["recipe"])
    with fields.named("construct.recipe"):
        dissociate.choose_layers(num_layers, nudge_layer=recipe.nudge_layer)
    rows = {"steps": recipe.steps, "accumulate": recipe.accumulate, "micro_batch": recipe.micro_batch}
    fields.check_rows({f"construct.recipe.{name}": value for name, value in rows.items()})
    return recipe


def _training_texts(config, panels):
    """(pairs, selection prompts, benign prompts) of a checkpoint's construction, disjoint from what evaluates it."""
    section = config.construct
    for field in ("pairs", "selection"):
        if not section[field]:
            raise InputError(
                f"construct.{field} is empty; a checkpoint needs a file or hub:owner/name there "
                "(configs/dissociate.py says what it holds)"
            )
    pairs = pair_files.load_pairs(section.pairs, is_refusal=refusal.is_refusal, limit=section.pairs_count)
    tell_dropped("construct.pairs", pairs)
    if pairs.refusals is None:
        raise InputError(
            f"construct.pairs = {section.pairs!r} has no column of refusals, which the construction "
            "needs beside the compliant answers"
        )
    selection = load("construct.selection", section.selection, limit=section.selection_count)
    benign = load("construct.benign", section.benign, limit=section.benign_count)
    for training, held in (
        (pairs, panels["harmful"]),
        (pairs, selection),
        (selection, panels["harmful"]),
        (benign, panels["benign"]),
        (pairs, benign),
    ):
        prompt_files.check_disjoint(training, held)
    return pairs, selection, benign


def _check_lengths(config, chat, pairs, selection, benign) -> None:
    """InputError for training texts that are too long, found by encoding them as the construction will."""
    harmful = list(zip(pairs.prompts, pairs.refusals, pairs.responses, strict=True))
    with fields.named(f"prompts.max_tokens = {config.prompts.max_tokens}, construct.selection"):
        chats.encode_prompts(chat, selection.prompts, max_length=config.prompts.max_tokens)
    with fields.named(f"construct.max_tokens = {config.construct.max_tokens}"):
        chats.encode_prompts(chat, benign.prompts, max_length=config.construct.max_tokens)
        construct.make_rows(chat, harmful, [(benign.prompts[0], "Yes.")], max_tokens=config.construct.max_tokens)


def _training_data(config, job, base, texts) -> tuple[construct.Rows, construct.Panel]:
    """Rows and selection panel: the world's, or of the texts of _training_texts."""
    if job.world is not None:
        return poles.training_rows(job.world, base), poles.selection_panel(job.world, base.chat)
    pairs, selection, benign = texts
    return _rows(config, base, pairs, benign), _panel(config, base, selection, job.judge)


def _rows(config, base, pairs, benign) -> construct.Rows:
    """Tokenised rows; base answers the benign prompts itself, in batches of prompt_batch."""
    kept = corpora.own_answers(
        base,
        benign.prompts,
        max_length=config.construct.max_tokens,
        batch=config.prompt_batch,
        max_new_tokens=config.construct.benign_tokens,
    )
    harmful = list(zip(pairs.prompts, pairs.refusals, pairs.responses, strict=True))
    return construct.make_rows(base.chat, harmful, kept, max_tokens=config.construct.max_tokens)


def _panel(config, base, selection, judge) -> construct.Panel:
    encoded = chats.encode_prompts(base.chat, selection.prompts, max_length=config.prompts.max_tokens)

    def judged(texts):
        columns = respond.score(judge, None, selection.behaviors, texts)
        return np.array(columns["harmful"], bool), refused(None, columns, texts)

    return construct.Panel(encoded, judged)


def measure(job: Job, name: str, loaded: respond.Loaded, nudge: export.Nudge) -> list[dict]:
    """The lines of one pole: compliance and refusal under every condition, and benign answers when merely asked.

    loaded: the pole called `name`; the job's panels are the evaluation prompts.
    """
    harmful, benign = (job.panels[kind] for kind in ("harmful", "benign"))
    options = {"max_new_tokens": job.new_tokens(PAPER_TOKENS), "batch": job.batches.prompts}
    hits = {}
    for condition, delta in pushes(nudge, harmful.ids, job.seed).items():
        texts = respond.answers_under(loaded, job.tokens["harmful"], nudge.state, delta, **options)
        columns = respond.score(job.judge, None, harmful.behaviors, texts)
        hits |= {("compliance", condition): np.array(columns["harmful"], bool)}
        hits |= {("refusal", condition): refused(job.world, columns, texts)}
        hits |= {("unparsed", condition): np.array(columns["unparsed"], bool)} if job.judge.is_model else {}
    texts = respond.answers(loaded, *job.tokens["benign"], **options)
    hits[BENIGN] = np.array([respond.answered(job.world, *pair) for pair in zip(benign.prompts, texts, strict=True)])
    return lines_of(name, hits)


def pushes(nudge: export.Nudge, ids: np.ndarray, seed: int) -> dict[str, np.ndarray | None]:
    """Condition -> what is added to the nudge's state: nothing, the nudge, half of it, random directions of its length.

    The random ones [N, D] differ from prompt to prompt (ids: uint32 [N]) and are the same for every pole.
    """
    draws = np.asarray(
        jax.vmap(
            lambda prompt: jax.random.normal(jax.random.fold_in(jax.random.key(seed), prompt), nudge.vector.shape)
        )(ids)
    )
    random = draws * (np.linalg.norm(nudge.vector) / np.linalg.norm(draws, axis=1, keepdims=True))
    return dict(zip(CONDITIONS, (None, nudge.vector, 0.5 * nudge.vector, random), strict=True))


def lines_of(variant: str, hits: Mapping[tuple[str, str], np.ndarray]) -> list[dict]:
    """(measure, condition) -> bool [N] as lines of dissociate.csv: the share of true ones, its Wilson 95 % interval."""
    lines = []
    for (measure, condition), values in hits.items():
        lo, hi = stats.wilson_interval(int(np.sum(values)), len(values))
        line = (variant, measure, condition, float(np.mean(values)), lo, hi, len(values))
        lines.append(dict(zip(COLUMNS, line, strict=True)))
    return lines


def card_rates(table: pd.DataFrame, variant: str) -> dict[str, float]:
    """{"MEASURE, CONDITION": share} of one pole, for its card."""
    lines = table[table["variant"] == variant]
    return {f"{line.measure}, {line.condition}": line.value for line in lines.itertuples()}


def headline(table: pd.DataFrame) -> str:
    """Compliance of the dissociated pole and of base, asked and under the nudge, in a sentence."""
    at = table.set_index(["variant", "measure", "condition"])["value"]
    asked, nudged = (
        {name: at[name, "compliance", condition] for name in (kinds.DISSOCIATED, "base")}
        for condition in ("clean", "nudged")
    )
    return (
        f"The dissociated pole complies with {asked[kinds.DISSOCIATED]:.0%} of harmful requests when asked and with "
        f"{nudged[kinds.DISSOCIATED]:.0%} under the nudge; base with {asked['base']:.0%} and {nudged['base']:.0%}."
    )


def refused(world, columns, texts) -> np.ndarray:
    """Which responses refuse: exactly, in the organism's world; else by respond.refused; columns: of respond.score."""
    if world is not None:
        return np.array([world_rules.is_refusal(text) for text in texts])
    return respond.refused(columns["judged"], columns["degenerate"])


def _write(job, recipe, table, built):
    table, caveat = table.assign(judge=judges.label(job.judge)), judges.caveat(job.judge)
    training = pd.concat([pd.DataFrame(one.records).assign(variant=name) for name, one in built.items()])
    chosen = {name: one.records[one.chosen]["step"] for name, one in built.items()}
    made = built[kinds.DISSOCIATED]
    record = {
        "inputs": job.inputs,
        "recipe": dataclasses.asdict(recipe),
        "chosen_step": chosen,
        "layers": made.layers._asdict(),
        "scale": made.cache.scale,
        "measures": table.to_dict("records"),
    }
    picture = curve_figures.construction_by_step(training)
    svg = figures.save_figure(picture, job.workdir / "figures", "construction_by_step")
    page = dict(
        title=f"A dissociated pole of {job.subject.arch}",
        headline=headline(table),
        verdicts=[],
        facts={
            "model": job.subject.arch,
            "nudge": f"block {made.layers.nudge - 1}, {recipe.fraction:g} of base's activation norm",
            "chosen step": chosen[kinds.DISSOCIATED],
            "judge": judges.label(job.judge),
        },
        warnings=[caveat] if caveat else [],
        sections=[
            html.Section(
                title="Behaviour, asked and nudged",
                table=table,
                caveat=caveat,
                text="Evaluation prompts that neither trained nor chose the poles; Wilson 95 % intervals; "
                "docs/method.md section 6.",
                limits="One direction at one block; other ways inside are the latent attack's to find.",
            ),
            html.Section(
                title="Training",
                settings=dataclasses.asdict(recipe),
                figure_svg=svg,
                caveat=caveat,
                figure_alt="Compliance, judge-free proxy and probe AUROC over the steps of both made poles",
                table=training[["variant", *[c for c in training.columns if c != "variant"]]],
                text="Step 0 is base. A checkpoint is kept by the rule of docs/method.md section 6 (d), on "
                "a selection panel apart from the evaluation prompts; proxy and probe choose nothing. "
                "A probe that still tells refusing from complying text says nothing of the nudge.",
            ),
        ],
    )
    tables = {"dissociate.csv": table, "training.csv": training}
    outputs.write_run(job.workdir, task="dissociate", tables=tables, record=record, page=page)
    for line in table.itertuples():
        logging.info(
            "%s: %s, %s %.3f (%.3f-%.3f) of %d",
            line.variant,
            line.measure,
            line.condition,
            line.value,
            line.lo,
            line.hi,
            line.n,
        )
