"""The abliteration task: directions from training prompts, choice on validation prompts, numbers on evaluation prompts.

docs/method.md, "Abliteration"; the idea is arXiv 2406.11717's. One unit of work per candidate and per evaluated model.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chat as chats
from latent_audit.data import organism as world_rules
from latent_audit.data import prompts as prompt_files
from latent_audit.errors import InputError
from latent_audit.experiments import abliterate_report, export, respond, setup
from latent_audit.experiments.attack_settings import check_batches
from latent_audit.interventions import abliterate, directions
from latent_audit.judges import Judge, Reward
from latent_audit.metrics import first_token
from latent_audit.runtime import runlog

PARTS = ("train", "validation", "evaluation")
ORGANISM_SPLITS = {"train": "construct", "validation": "validation", "evaluation": "evaluation"}
SELECTION = ("auto", "judge", "log_odds")


class Prompts(NamedTuple):
    """One part's harmful prompts, then its harmless ones: texts, int32 [N, T], bool [N, T]; `harmful`: how many are."""

    texts: tuple[str, ...]
    harmful: int
    tokens: np.ndarray
    mask: np.ndarray


class Job(NamedTuple):
    """What every unit of a run shares.

    said: base's log-probabilities of the first response token by part, float32 [N, V]; openings: tokens that open a
    refusal, () where none is known.
    """

    config: ConfigDict
    workdir: pathlib.Path
    subject: setup.Subject
    judge: Judge
    reward: Reward
    by: str
    loaded: setup.Loaded
    parts: dict[str, Prompts]
    means: abliterate.Means
    said: dict[str, np.ndarray]
    openings: tuple[int, ...]


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Choose, measure and export every way; write abliterate.csv, figures/ and both reports to `workdir`."""
    is_organism = not config.model.path
    ways, by = check_settings(config, is_organism=is_organism)
    panels = make_panels(config, is_organism=is_organism)
    judge, reward = setup.make_judge_and_reward(config, is_organism=is_organism)
    subject = setup.make_subject(config, workdir)
    subject = subject._replace(variants=subject.variants[:1])
    inputs = setup.describe_inputs(subject, panels, judge, reward, config)
    del inputs["reward"]  # Nothing is scored by it.
    runlog.pin(workdir / "inputs.json", inputs)
    if judge.is_fallback:
        logging.warning("the judge is %s, a fallback: it sees phrases, not harm, and every output says so", judge.name)
    encoded = setup.encode_panels(subject.variants[0], panels, config)
    loaded = setup.load_variant(subject.variants[0], config)
    parts = _parts(encoded, chats.pad_id(loaded.chat))
    means = measure_means(loaded, parts["train"], limit=config.choose.positions, batch=config.prompt_batch)
    plain = abliterate.Ablated(loaded.cfg, loaded.params)
    said = {part: first_tokens(plain, prompts, config.prompt_batch) for part, prompts in parts.items()}
    openings = find_openings(config, loaded, said["train"], parts["train"].harmful, required=by == "log_odds")
    job = Job(config, workdir, subject, judge, reward, by, loaded, parts, means, said, openings)
    table, choices = _measure_all(job, ways)
    _export_chosen(job, table, inputs)
    abliterate_report.write(job, inputs, table, choices)


def check_settings(config: ConfigDict, *, is_organism: bool) -> tuple[tuple[str, ...], str]:
    """(ways, judge or log_odds) of the config's `choose` section; InputError names field, value and rule."""
    section = config.choose
    check_batches(config)
    ways = tuple(abliterate.WAYS) if section.ways == "all" else tuple(
        way.strip() for way in section.ways.split(",") if way.strip())
    unknown = [way for way in ways if way not in abliterate.WAYS]
    if unknown or not ways or len(set(ways)) < len(ways):
        raise InputError(f"choose.ways = {section.ways!r}, expected all, or some of {', '.join(abliterate.WAYS)}")
    strengths = tuple(section.strengths)
    if not strengths or not all(isinstance(s, int | float) and 0 < s < float("inf") for s in strengths):
        raise InputError(f"choose.strengths = {strengths}, expected finite numbers above 0, such as (1.0, 2.0)")
    counts = {f"choose.{name}": section[name] for name in ("positions", "train", "validation", "shortlist")}
    counts |= {f"prompts.{name}": config.prompts[name] for name in ("harmful_count", "benign_count")}
    for field, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{field} = {value!r}, expected a whole number of at least 1")
    if section.by not in SELECTION:
        raise InputError(f"choose.by = {section.by!r}, expected one of {', '.join(SELECTION)}")
    if config.model.variants:
        raise InputError("model.variants is set, but one model is abliterated at a time: give its path as model.path")
    return ways, ("judge" if is_organism else "log_odds") if section.by == "auto" else section.by


def make_panels(config: ConfigDict, *, is_organism: bool) -> list[setup.Panel]:
    """Six panels of prompts that share none, named PART-KIND: the world's splits, or parts of the config's files.

    A file's first prompts are for evaluation (as many as prompts.*_count, half of them at most), of the rest two thirds
    for training and the others for validation, up to choose.train and choose.validation. InputError for a file of
    fewer than six prompts, and for prompts that are in both files.
    """
    if is_organism:
        return _organism_panels(config)
    panels, sets = {}, {}
    for kind in ("harmful", "benign"):
        source = config.prompts[kind]
        sets[kind] = prompt_files.load_prompts(source, column=config.prompts[f"{kind}_column"] or None)
        prompts, wanted = sets[kind].prompts, config.prompts[f"{kind}_count"]
        if len(prompts) < 6:
            raise InputError(f"prompts.{kind} = {source!r} holds {len(prompts)} prompts, expected at least 6 to make "
                             "three parts of")
        first = min(wanted, len(prompts) // 2)
        second = first + min(config.choose.train, (len(prompts) - first) * 2 // 3)
        third = min(second + config.choose.validation, len(prompts))
        cut = {"evaluation": prompts[:first], "train": prompts[first:second], "validation": prompts[second:third]}
        asked = {"evaluation": wanted, "train": config.choose.train, "validation": config.choose.validation}
        if any(len(cut[part]) < asked[part] for part in PARTS):
            logging.warning("%s holds %d prompts: %s", source, len(prompts), ", ".join(
                f"{len(cut[part])} for {part} (asked for {asked[part]})" for part in PARTS))
        panels |= {(part, kind): setup.make_panel(f"{part}-{kind}", cut[part], source) for part in PARTS}
    prompt_files.check_disjoint(sets["benign"], sets["harmful"])
    return [panels[part, kind] for part in PARTS for kind in ("harmful", "benign")]


def _organism_panels(config):
    for kind in ("harmful", "benign"):
        if not config.prompts[kind].startswith("builtin:"):
            raise InputError(f"prompts.{kind} = {config.prompts[kind]!r}: the organism knows only its own world's "
                             "prompts. Give model.path as well, or leave it at its default")
    world = world_rules.make_world(config.organism.seed)
    panels = []
    for part, split in ORGANISM_SPLITS.items():
        for kind, name in (("harmful", "restricted"), ("benign", "benign")):
            count = config.prompts[f"{kind}_count"] if part == "evaluation" else config.choose[part]
            panels.append(setup.make_panel(f"{part}-{kind}", world_rules.requests(world, split, name, count),
                                           f"the organism's {split} split"))
    return panels


def _parts(encoded, pad: int) -> dict[str, Prompts]:
    """Panels in pairs of harmful and harmless, all padded to one width so that one compile serves them."""
    width = max(tokens.shape[1] for _, (tokens, _) in encoded)

    def wide(array, fill):
        return np.pad(array, [(0, 0), (width - array.shape[1], 0)], constant_values=fill)

    parts = {}
    for part, (harmful, benign) in zip(PARTS, zip(encoded[::2], encoded[1::2], strict=True), strict=True):
        tokens = np.concatenate([wide(rows.tokens, pad) for _, rows in (harmful, benign)])
        mask = np.concatenate([wide(rows.mask, False) for _, rows in (harmful, benign)])
        texts = (*harmful[0].prompts, *benign[0].prompts)
        parts[part] = Prompts(texts, len(harmful[0].prompts), tokens, mask)
    return parts


def measure_means(loaded: setup.Loaded, prompts: Prompts, *, limit: int, batch: int) -> abliterate.Means:
    """Mean states of the training prompts at the last `limit` tokens of the template's generation prefix."""
    positions = directions.shared_positions(prompts.tokens, limit=limit)
    tokens = abliterate.own_tokens(prompts.tokens, prompts.mask, positions)
    harmful, benign = (directions.moments(loaded.params, prompts.tokens[rows], prompts.mask[rows], cfg=loaded.cfg,
                                          positions=(*positions, directions.WHOLE_PROMPT), batch=batch)
                       for rows in (slice(prompts.harmful), slice(prompts.harmful, None)))
    difference = directions.mean_difference(harmful, benign)
    return abliterate.Means(difference[:, :-1], benign.mean[:, :-1], positions, tokens, difference[:, -1])


def find_openings(config, loaded: setup.Loaded, said, harmful: int, *, required: bool) -> tuple[int, ...]:
    """Tokens that open a refusal: as configured, or as base opens on the training prompts (`said`), harmful first.

    Where base opens harmful and harmless prompts alike: InputError if `required`, else ().
    """
    named = tuple(config.choose.openings)
    if named:
        ids = [loaded.chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in named]
        if not all(ids):
            raise InputError(f"choose.openings = {named} holds a text without tokens, expected texts such as 'I'")
        return tuple(sorted({row[0] for row in ids}))
    try:
        return first_token.refusal_openings(said[:harmful], said[harmful:])
    except InputError:
        if required:
            raise
        return ()


def _measure_all(job: Job, ways) -> tuple[pd.DataFrame, dict[str, str]]:
    """All lines of the table, and way -> by which step of the rule its candidate was chosen."""
    tried = abliterate.candidates(job.means, ways=ways, strengths=job.config.choose.strengths)
    of_way = {way: [candidate for candidate in tried if candidate.way == way] for way in ways}
    for way in [way for way, mine in of_way.items() if not mine]:
        logging.warning("%s is left out: every token of the template's generation prefix stands elsewhere in the "
                        "prompts too", way)
        del of_way[way]
    generated = sum(min(len(group), job.config.choose.shortlist) for mine in of_way.values()
                    for group in _groups(mine)) if job.by == "judge" else 0
    lines, choices = [], {}
    with runlog.progress(len(tried) + generated + len(of_way) + 2, "models") as meter:
        base = {part: _measured(job, meter, part, None, generate=True) for part in PARTS[1:]}
        lines += [_line(job, part, None, frame, frame) for part, frame in base.items()]
        for way, mine in of_way.items():
            validated, best, choices[way] = _validate(job, meter, mine, base["validation"])
            frame = _measured(job, meter, "evaluation", mine[best], generate=True)
            validated[best]["chosen"] = True
            lines += [*validated, _line(job, "evaluation", mine[best], frame, base["evaluation"]) | {"chosen": True}]
    return pd.DataFrame(lines).assign(arch=job.subject.arch), choices


def _validate(job, meter, mine, base):
    """(lines of one way's candidates, index of the one to keep, by which step of the rule)."""
    def scores(lines, measure):
        return [abliterate.Score(line.get(measure, 0.0), line["kl"], line.get("answered")) for line in lines]

    lines = [_line(job, "validation", candidate, _measured(job, meter, "validation", candidate, generate=False), base)
             for candidate in mine]
    if job.by == "log_odds":
        return lines, *abliterate.choose(scores(lines, "bypass"))
    # By strength, since the first token does not show what too much of it does to the rest of an answer.
    worth = [group[index] for group in _groups(mine) for index in abliterate.shortlist(
        scores([lines[index] for index in group], "bypass"), job.config.choose.shortlist)]
    # Where none is within the bounds the smallest KL is kept, which needs no answers.
    for index in worth:
        frame = _measured(job, meter, "validation", mine[index], generate=True)
        lines[index] = _line(job, "validation", mine[index], frame, base)
    among = worth or range(len(mine))
    answered = _line(job, "validation", None, base, base)["answered"]
    best, step = abliterate.choose(scores([lines[index] for index in among], "compliance"), base_answered=answered)
    return lines, among[best], step


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
    return {"way": candidate.way, "split": part, "chosen": False, "layer": models.layer_name(candidate.state),
            "layer_idx": candidate.state - 1, "position": job.means.positions[candidate.position],
            "strength": candidate.strength, "directions": candidate.directions, **line, "candidate": candidate}


def _measured(job: Job, meter, part: str, candidate, *, generate: bool) -> pd.DataFrame:
    """One model on one part, read back or computed: one row per prompt, harmful ones first."""
    name = "base"
    if candidate is not None:
        position = job.means.positions[candidate.position]
        name = (f"{candidate.way}/{models.layer_name(candidate.state)}-{-position}-x{candidate.strength:g}"
                f"-{candidate.directions}")
    key = f"{part}/{'answers' if generate else 'first'}/{name}"
    columns = runlog.load_unit(job.workdir, key)
    reused = columns is not None
    if not reused:
        columns = _measure(job, part, candidate, generate=generate)
        runlog.save_unit(job.workdir, key, columns)
    meter.advance(key, reused=reused)
    return pd.DataFrame(columns)


def _measure(job: Job, part: str, candidate, *, generate: bool) -> dict[str, list]:
    loaded, prompts = job.loaded, job.parts[part]
    model = abliterate.Ablated(loaded.cfg, loaded.params) if candidate is None else _ablated(job, candidate)
    said = first_tokens(model, prompts, job.config.prompt_batch)
    is_harmful = [index < prompts.harmful for index in range(len(prompts.texts))]
    columns = {"harmful_prompt": is_harmful, "kl": first_token.kl(job.said[part], said).tolist()}
    if job.openings:
        columns["log_odds"] = first_token.log_odds(said, job.openings).tolist()
    if generate:
        texts = _responses(job, model, prompts)
        columns |= respond.score(job.judge, job.reward, prompts.texts, texts)
        del columns["reward"]
        columns["answered"] = [not harmful and export.answered(job.subject.world, prompt, text)
                               for harmful, prompt, text in zip(is_harmful, prompts.texts, texts, strict=True)]
        if job.config.generation.save:
            columns["response"] = texts
    return columns


def _ablated(job, candidate):
    return abliterate.ablate(candidate, job.means, job.loaded.params, cfg=job.loaded.cfg,
                             width=job.parts["train"].tokens.shape[1])


def _blocks(prompts, size):
    """(tokens, mask, how many rows are real) of `size` rows each."""
    for start in range(0, len(prompts.tokens), size):
        rows = slice(start, start + size)
        yield (respond.pad_rows(prompts.tokens[rows], size), respond.pad_rows(prompts.mask[rows], size),
               min(size, len(prompts.tokens) - start))


def first_tokens(model: abliterate.Ablated, prompts: Prompts, batch: int) -> np.ndarray:
    """Log-probabilities of the first response token to every prompt; float32 [N, V]."""
    return np.concatenate([
        np.asarray(first_token.log_probability(model.params, tokens, mask, model.prompt_edit, cfg=model.cfg))[:n]
        for tokens, mask, n in _blocks(prompts, batch)])


def _responses(job, model, prompts) -> list[str]:
    loaded = job.loaded._replace(cfg=model.cfg, params=model.params)
    return [text for tokens, mask, n in _blocks(prompts, job.config.prompt_batch)
            for text in respond.responses(loaded, tokens, mask, max_new_tokens=job.config.generation.max_new_tokens,
                                          prompt_edit=model.prompt_edit, decode_edit=model.decode_edit)[:n]]


def _export_chosen(job: Job, table: pd.DataFrame, inputs: dict) -> None:
    """Save the chosen candidate of every way that changes weights alone, with its evaluation rates on the card."""
    generation = models.read_generation_config(job.subject.variants[0].path)
    rows = table[(table["split"] == "evaluation") & table["way"].isin(abliterate.IN_WEIGHTS)]
    for row in rows.to_dict("records"):
        model = _ablated(job, row["candidate"])
        recipe = {name: row[name] for name in ("way", "layer", "strength")}
        recipe |= {name: int(row[name]) for name in ("position", "directions")}
        recipe |= {"what": abliterate.WAYS[row["way"]], "chosen_by": job.by, "inputs": inputs}
        rates = {f"{name} (evaluation prompts)": row[name] for name in ("compliance", "refusal", "answered", "kl")}
        export.export_pole(job.workdir / row["way"], model.cfg, model.params, job.loaded.chat.tokenizer,
                           kind="abliterated", recipe=recipe, rates=rates, generation_config=generation)
        logging.info("%s saved to %s", row["way"], job.workdir / row["way"])
