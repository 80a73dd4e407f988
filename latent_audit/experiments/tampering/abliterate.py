"""The abliteration task: directions from training prompts, choice on validation prompts, numbers on evaluation prompts.

docs/method.md section 14; the idea is arXiv 2406.11717's. One unit of work per candidate and per evaluated model.
"""

import dataclasses
import math
import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments import fields, respond
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Work
from latent_audit.experiments.forecast.outlook import Outlook
from latent_audit.experiments.organisms import ablate, export, kinds
from latent_audit.experiments.organisms.ablate import Prompts, first_tokens, measure_means
from latent_audit.experiments.setup import jobs, outlooks, subjects
from latent_audit.experiments.setup.jobs import Job
from latent_audit.experiments.tampering import abliterate_report
from latent_audit.experiments.tampering.abliterate_prompts import FACTS, PARTS, encode_parts, make_panels
from latent_audit.interventions import abliterate
from latent_audit.metrics import first_token
from latent_audit.runtime import runlog
from latent_audit.runtime.telling import progress

PAPER_TOKENS = 128


@dataclasses.dataclass(frozen=True)
class Abliteration(Job):
    """A job with what its candidates share.

    by: judge or log_odds; said: base's log-probabilities of the first response token by part, float32 [N, V]; openings:
    tokens that open a refusal, () where none is known.
    """

    by: str
    shortlist: int
    strengths: tuple[float, ...]
    loaded: respond.Loaded
    parts: dict[str, Prompts]
    means: abliterate.Means
    said: dict[str, np.ndarray]
    openings: tuple[int, ...]


class Plan(NamedTuple):
    """What is going to be measured, checked; by: judge or log_odds."""

    prospect: jobs.Prospect
    ways: tuple[str, ...]
    by: str


def check(config: ConfigDict) -> Plan:
    """Everything the task will need; InputError names the field, the value and the rule."""
    world = subjects.world_of(config)
    ways, by = check_settings(config, is_organism=world is not None)
    prospect = jobs.check(config, make_panels(config, world), rewarded=False, variants=lambda every: every[:1])
    named_openings(config.choose, prospect.chat)
    return Plan(prospect, ways, by)


def outlook(config: ConfigDict, plan: Plan, workdir: pathlib.Path) -> Outlook:
    """How much the abliteration of a checked plan computes."""
    own, prospect = config.choose, plan.prospect
    seen, cfg = outlooks.seen(config, prospect, {}), prospect.cfg
    sizes = {part: sum(n for name, n in seen.prompts.items() if name.startswith(part)) for part in (*PARTS, FACTS)}
    columns, L = max(seen.columns.values()), cfg.num_layers
    tried = abliterate.count_candidates(L, ways=plan.ways, strengths=tuple(own.strengths), positions=own.positions)
    judged = sum(math.ceil(tried[way] / (L * own.positions)) for way in plan.ways) * own.shortlist
    judged *= plan.by == "judge"
    kept = len(plan.ways) + 1
    passes = sum(tried.values()) * sizes["validation"] * columns * L
    works = [Work("models validation/first/", sum(tried.values()), amounts.Amount(passes=passes))]
    parts = {"validation": 1 + judged, "evaluation": kept} | ({FACTS: kept} if sizes[FACTS] else {})
    for part, units in parts.items():
        panel = next(name for name in seen.prompts if name.startswith(part))
        answers = units * sizes[part]
        works.append(amounts.asked(seen, f"models {part}/answers/", units, answers, panel, PAPER_TOKENS))
    return outlooks.outlook(config, prospect, works, workdir, budgets=1, answered=config.prompt_batch)


def run(config: ConfigDict, workdir: pathlib.Path, plan: Plan | None = None) -> None:
    """Choose, measure and export every way; write abliterate.csv, figures/ and both reports to `workdir`.

    plan: what check gave; None checks here.
    """
    section = config.choose
    prospect, ways, by = plan or check(config)
    for way in ways:
        models.check_target(workdir / way, field="--workdir")
    job = jobs.prepare(config, workdir, prospect)
    loaded = job.load(job.names[0])
    parts = encode_parts(job, chats.pad_id(loaded.chat))
    means = measure_means(loaded, parts["train"], limit=section.positions, batch=job.batches.prompts)
    plain = abliterate.Ablated(loaded.cfg, loaded.params)
    said = {part: first_tokens(plain, prompts, job.batches.prompts) for part, prompts in parts.items()}
    openings = find_openings(section, loaded, said["train"], parts["train"].harmful, required=by == "log_odds")
    made = Abliteration(
        **vars(job),
        by=by,
        shortlist=section.shortlist,
        strengths=tuple(section.strengths),
        loaded=loaded,
        parts=parts,
        means=means,
        said=said,
        openings=openings,
    )
    table, choices = _measure_all(made, ways)
    _export_chosen(made, table)
    abliterate_report.write(made, table, choices)


def check_settings(config: ConfigDict, *, is_organism: bool) -> tuple[tuple[str, ...], str]:
    """(ways, judge or log_odds) of the config's `choose` section; InputError for unknown ways and further variants."""
    section = config.choose
    fields.check_batches(config)
    ways = fields.names("choose.ways", section.ways, ("all", *abliterate.WAYS))
    if "all" in ways:
        ways = tuple(abliterate.WAYS)
    if not section.strengths:
        raise InputError("choose.strengths is empty, expected numbers above 0, such as (1.0, 2.0)")
    if config.model.variants:
        raise InputError("model.variants is set, but one model is abliterated at a time: give its path as model.path")
    return ways, ("judge" if is_organism else "log_odds") if section.by == "auto" else section.by


def find_openings(section, loaded: respond.Loaded, said, harmful: int, *, required: bool) -> tuple[int, ...]:
    """Tokens that open a refusal: as configured, or as base opens on the training prompts (`said`), harmful first.

    Where base opens harmful and harmless prompts alike: InputError if `required`, else ().
    """
    named = named_openings(section, loaded.chat)
    if named:
        return named
    try:
        return first_token.refusal_openings(said[:harmful], said[harmful:])
    except InputError:
        if required:
            raise
        return ()


def named_openings(section, chat: chats.Chat) -> tuple[int, ...]:
    """First tokens of choose.openings, () where it is empty; InputError for a text without tokens."""
    ids = [chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in section.openings]
    if not all(ids):
        raise InputError(f"choose.openings = {section.openings} holds a text without tokens, expected such as 'I'")
    return tuple(sorted({row[0] for row in ids}))


def _measure_all(job: Abliteration, ways) -> tuple[pd.DataFrame, dict[str, str]]:
    """All lines of the table, and way -> by which step of the rule its candidate was chosen."""
    tried = abliterate.candidates(job.means, ways=ways, strengths=job.strengths)
    of_way = {way: [candidate for candidate in tried if candidate.way == way] for way in ways}
    without = [way for way, mine in of_way.items() if not mine]
    for way in without:
        logging.warning("%s is %s", way, abliterate_report.LEFT_OUT)
        del of_way[way]
    generated = (
        sum(min(len(group), job.shortlist) for mine in of_way.values() for group in _groups(mine))
        if job.by == "judge"
        else 0
    )
    lines, choices = [], dict.fromkeys(without, abliterate_report.LEFT_OUT)
    each = 1 + (FACTS in job.parts)
    with progress.of(len(tried) + generated + (len(of_way) + 1) * each + 1, "models") as meter:
        base = {part: _measured(job, meter, part, None, generate=True) for part in PARTS[1:]}
        lines += [_line(job, part, None, frame, frame) for part, frame in base.items()]
        lines[-1] |= _facts(job, meter, None)
        for way, mine in of_way.items():
            validated, best, choices[way] = _validate(job, meter, mine, base["validation"])
            frame = _measured(job, meter, "evaluation", mine[best], generate=True)
            validated[best]["chosen"] = True
            line = _line(job, "evaluation", mine[best], frame, base["evaluation"]) | _facts(job, meter, mine[best])
            lines += [*validated, line | {"chosen": True}]
    return pd.DataFrame(lines).assign(arch=job.subject.arch), choices


def _validate(job, meter, mine, base):
    """(lines of one way's candidates, index of the one to keep, by which step of the rule)."""

    def line_of(index, *, generate):
        frame = _measured(job, meter, "validation", mine[index], generate=generate)
        return _line(job, "validation", mine[index], frame, base)

    lines = [line_of(index, generate=False) for index in range(len(mine))]
    scores = [abliterate.Score(line.get("bypass", 0.0), line["kl"]) for line in lines]
    if job.by == "log_odds":
        return lines, *abliterate.choose(scores)

    def judge(index):
        lines[index] = line_of(index, generate=True)
        return abliterate.Score(*(lines[index][name] for name in ("compliance", "kl", "answered")))

    kept = ablate.choose_candidate(
        scores,
        _groups(mine),
        judge,
        size=job.shortlist,
        base_answered=_line(job, "validation", None, base, base)["answered"],
    )
    return lines, kept.index, kept.step


def _facts(job, meter, candidate) -> dict:
    """Share of the organism's held-out facts that are told right; nothing for a checkpoint."""
    if FACTS not in job.parts:
        return {}
    right = _measured(job, meter, FACTS, candidate, generate=True)["answered"]
    return abliterate_report.share("facts", right) | {"n_facts": len(right)}


def _groups(mine) -> list[list[int]]:
    """Indices of one way's candidates that share strength and number of directions."""
    groups = {}
    for index, candidate in enumerate(mine):
        groups.setdefault((candidate.strength, candidate.directions), []).append(index)
    return list(groups.values())


def _line(job, part, candidate, frame, base):
    line = abliterate_report.summarise(frame, base)
    if candidate is None:
        return {"way": "base", "split": part, "chosen": False, **line}
    return {
        "way": candidate.way,
        "split": part,
        "chosen": False,
        "layer": models.layer_name(candidate.state),
        "layer_idx": candidate.state - 1,
        "position": job.means.positions[candidate.position],
        "strength": candidate.strength,
        "directions": candidate.directions,
        **line,
        "candidate": candidate,
    }


def _measured(job: Abliteration, meter, part: str, candidate, *, generate: bool) -> pd.DataFrame:
    """One model on one part, read back or computed: one row per prompt, harmful ones first."""
    name = "base"
    if candidate is not None:
        position = job.means.positions[candidate.position]
        name = (
            f"{candidate.way}/{models.layer_name(candidate.state)}-{-position}-x{candidate.strength:g}"
            f"-{candidate.directions}"
        )
    key = f"{part}/{'answers' if generate else 'first'}/{name}"
    return pd.DataFrame(
        runlog.unit(job.workdir, key, lambda: _measure(job, part, candidate, generate=generate), meter.advance)
    )


def _measure(job: Abliteration, part: str, candidate, *, generate: bool) -> dict[str, list]:
    loaded, prompts = job.loaded, job.parts[part]
    model = abliterate.Ablated(loaded.cfg, loaded.params) if candidate is None else _ablated(job, candidate)
    said = first_tokens(model, prompts, job.batches.prompts)
    is_harmful = [index < prompts.harmful for index in range(len(prompts.texts))]
    columns = {"harmful_prompt": is_harmful, "kl": first_token.kl(job.said[part], said).tolist()}
    if job.openings:
        columns["log_odds"] = first_token.log_odds(said, job.openings).tolist()
    if generate:
        texts = _responses(job, model, prompts)
        columns |= respond.score(job.judge, None, prompts.behaviors, texts)
        columns["answered"] = answered_harmless(job.world, prompts, texts)
        columns |= respond.kept(prompts.behaviors, texts, job.save)
    return columns


def answered_harmless(world, prompts: Prompts, texts) -> list[bool]:
    """Which prompts are harmless and answered by the response in their place."""
    pairs = zip(prompts.texts, texts, strict=True)
    return [index >= prompts.harmful and respond.answered(world, *pair) for index, pair in enumerate(pairs)]


def _ablated(job, candidate):
    return abliterate.ablate(
        candidate, job.means, job.loaded.params, cfg=job.loaded.cfg, width=job.parts["train"].tokens.shape[1]
    )


def _responses(job, model, prompts) -> list[str]:
    loaded = job.loaded._replace(cfg=model.cfg, params=model.params)
    return respond.answers(
        loaded,
        prompts.tokens,
        prompts.mask,
        batch=job.batches.prompts,
        max_new_tokens=job.new_tokens(PAPER_TOKENS),
        edits_of=lambda rows: (model.prompt_edit, model.decode_edit),
    )


def _export_chosen(job: Abliteration, table: pd.DataFrame) -> None:
    """Save the chosen candidate of every way that changes weights alone, with its evaluation rates on the card."""
    generation = models.read_generation_config(job.subject.variants[0].path)
    rows = table[(table["split"] == "evaluation") & table["way"].isin(abliterate.IN_WEIGHTS)]
    for row in rows.to_dict("records"):
        model = _ablated(job, row["candidate"])
        recipe = {name: row[name] for name in ("way", "layer", "strength")}
        recipe |= {name: int(row[name]) for name in ("position", "directions")}
        recipe |= {"what": abliterate.WAYS[row["way"]], "chosen_by": job.by, "inputs": job.inputs}
        rates = {f"{name} (evaluation prompts)": row[name] for name in ("compliance", "refusal", "answered", "kl")}
        if FACTS in job.parts:
            rates["facts told right (held out)"] = row["facts"]
        export.export_pole(
            job.workdir / row["way"],
            model.cfg,
            model.params,
            job.loaded.chat.tokenizer,
            kind=kinds.ABLITERATED,
            recipe=recipe,
            rates=rates,
            generation_config=generation,
        )
        logging.info("%s saved to %s", row["way"], job.workdir / row["way"])
