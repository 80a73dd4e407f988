"""One family measured: directions and window of its reference, cosines of every model, attack success, rivals.

docs/method.md section 10. Units of work, one small file each: a model's cosines, its judged answers to each panel, its
static rivals, and those of the attacks; weights are read only where one of them is missing.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from latent_audit.data import chats, pair_files
from latent_audit.errors import InputError
from latent_audit.experiments import respond, setup
from latent_audit.experiments.audit import bench
from latent_audit.experiments.ras import cosines, members, prompt_sets, rivals, tables
from latent_audit.judges import Judge, Reward, refusal
from latent_audit.metrics import safevec
from latent_audit.runtime import runlog


class Job(NamedTuple):
    """What all families of a run share. judge: None where nothing is generated; pairs: texts of the probe, or None;
    settings: of the attacks, or None where there are none."""

    config: ConfigDict
    workdir: pathlib.Path
    prompts: prompt_sets.Prompts
    protocols: tuple[str, ...]
    judge: Judge | None
    reward: Reward | None
    pairs: pair_files.Pairs | None
    settings: object | None
    advance: Callable[..., None]


class Measured(NamedTuple):
    """A family ready to be scored; others: one row a model with everything that is no RAS; tokens: by panel name, of
    the reference; place: where the attacks push, or None."""

    family: tables.Family
    directions: cosines.Directions
    others: pd.DataFrame
    tokens: dict[str, chats.Tokens]
    place: dict | None


class _Access(NamedTuple):
    """load(model) -> respond.Loaded, one kept at a time; tokens(model) -> panel name -> Tokens."""

    load: Callable
    tokens: Callable


def units(job: Job, group: members.Group) -> int:
    """How many units a family takes, without those of the attacks."""
    asked = 3 * sum(model.measured for model in group.models)
    return asked + len(group.models) * (1 + bool(job.config.rivals))


def measure(job: Job, group: members.Group, inputs: dict, meter) -> Measured:
    """Everything of one family; see the module. meter: a runlog.Progress, whose total grows by the attacks' units."""
    access = _access(job, group)
    reference = group.models[0]
    directions, profile, window = _fit(job, access, reference)
    entries, rows = [], []
    features = functools.cache(
        lambda: rivals.probe_features(access.load(reference), job.pairs, job.config.prompt_batch)
    )
    for model in group.models:
        of_model = _cosines(job, group, access, model, directions)
        answers = _answers(job, group, access, model)
        asr = answers.pop("asr", None)
        if model.asr is not None:
            asr = tables.Share(model.asr)
        rows.append({"model": model.name, **answers, **_rivals(job, group, access, model, features)})
        entries.append(tables.Entry(model.name, model.kind, model.calibrates, of_model, asr))
    half = job.prompts.halves[prompt_sets.PROTOCOLS[job.protocols[0]]]
    family = tables.Family(group.family, tuple(entries), window, profile, half.jailbreak_of)
    others, place = pd.DataFrame(rows), None
    if job.settings is not None:
        made = rivals.make(
            job.config, job.workdir, group.subject, job.prompts, job.settings, job.judge, job.reward, job.advance
        )
        meter.total += rivals.units(made)
        others, place = others.merge(rivals.attacked(made, inputs), on="model"), rivals.describe(made)
    return Measured(family, directions, others, access.tokens(reference), place)


def _access(job, group) -> _Access:
    variants = {model.name: setup.Variant(model.name, model.path) for model in group.models}

    def encode(name):
        panels = job.prompts.panels()
        return {panel.name: rows for panel, rows in setup.encode_panels(variants[name], panels, job.config)}

    encode = functools.cache(encode)
    load = functools.lru_cache(maxsize=1)(lambda name: setup.load_variant(variants[name], job.config))
    # The members of a zoo share one tokenizer; checkpoints may bring their own.
    return _Access(
        lambda model: load(model.name), lambda model: encode((model if group.world is None else group.models[0]).name)
    )


def _fit(job, access, reference):
    """(Directions, Profile, Window) of the reference, on the half that gives the direction."""
    config, tokens = job.config, access.tokens(reference)
    manual = parse_window(config.window)
    layers = None if manual is None else range(manual[0], manual[1] + 1)
    sets = job.prompts.halves[prompt_sets.FIT]
    safe, unsafe = tokens[sets.safe.name], tokens[sets.unsafe.name]
    loaded, options = access.load(reference), {"batch": config.prompt_batch}
    directions = cosines.fit(loaded, safe, unsafe, layers=layers, random=config.random_directions, **options)
    profile = safevec.profile(
        *(cosines.read_refusal(loaded, rows, directions.refusal, **options) for rows in (safe, unsafe))
    )
    return directions, profile, safevec.choose_window(profile, manual=manual)


def parse_window(text: str) -> tuple[int, int] | None:
    """ "22-30" -> (22, 30), both inclusive; "" -> None, the rule chooses. InputError for another form."""
    if not text.strip():
        return None
    first, dash, last = text.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise InputError(
            f"window = {text!r}, expected the first and the last layer, both included, such as "
            "22-30, or nothing for the rule"
        )
    return int(first), int(last)


def _unit(job, key, compute):
    """Columns of a unit, read back or computed and stored."""
    return runlog.unit(job.workdir, key, compute, job.advance)


def _cosines(job, group, access, model, directions) -> dict:
    """Protocol -> (unsafe, jailbreak) Cosines of one model."""

    def compute():
        loaded, tokens, columns = access.load(model), access.tokens(model), {}
        for half in dict.fromkeys(prompt_sets.PROTOCOLS[protocol] for protocol in job.protocols):
            for panel in job.prompts.halves[half][1:]:
                read = cosines.read(loaded, tokens[panel.name], directions, batch=job.config.prompt_batch)
                columns[panel.name] = {name: values.tolist() for name, values in read._asdict().items()}
        return columns

    columns, layers = _unit(job, f"{group.family}/{model.name}/cosines", compute), directions.refusal.shape[0]

    def read(panel):
        return cosines.Cosines(
            *(np.array(columns[panel.name][field], np.float64).reshape(-1, layers) for field in cosines.Cosines._fields)
        )

    return {
        protocol: tuple(map(read, job.prompts.halves[prompt_sets.PROTOCOLS[protocol]][1:]))
        for protocol in job.protocols
    }


def _answers(job, group, access, model) -> dict:
    """ASR plain and wrapped, share of harmless prompts answered, with Wilson intervals; {} where it is not measured."""
    if not model.measured:
        return {}
    line = {}
    for panel, measure in (
        (job.prompts.asr, "asr"),
        (job.prompts.wrapped, "asr_wrapped"),
        (job.prompts.benign, "answered"),
    ):
        columns = _unit(
            job,
            f"{group.family}/{model.name}/{panel.name}",
            functools.partial(_ask, job, group, access, model, panel, benign=measure == "answered"),
        )
        share = tables.Share(**bench.share(columns["hit"]))
        if measure == "asr":
            line["asr"], line["degenerate"] = share, float(np.mean(columns["degenerate"]))
        else:
            line |= {measure: share.value, f"{measure}_lo": share.lo, f"{measure}_hi": share.hi}
    return line


def _ask(job, group, access, model, panel, *, benign) -> dict[str, list]:
    texts = respond.answers(
        access.load(model),
        *access.tokens(model)[panel.name],
        batch=job.config.prompt_batch,
        max_new_tokens=job.config.generation.max_new_tokens,
    )
    if benign:
        hits = [respond.answered(group.world, *pair) for pair in zip(panel.prompts, texts, strict=True)]
    else:
        # Judges see the bare behaviour, wrapped or not (docs/method.md section 9).
        hits = [bool(hit) for hit in job.judge.judge(job.prompts.asr.prompts, texts)]
    columns = {"hit": hits, "degenerate": [refusal.is_degenerate(text) for text in texts]}
    return columns | ({"response": texts} if job.config.generation.save else {})


def _rivals(job, group, access, model, features) -> dict:
    """Static rivals on the same prompts: separation score, and the probe where its texts are known."""
    if not job.config.rivals:
        return {}

    def compute():
        loaded, tokens = access.load(model), access.tokens(model)
        half = job.prompts.halves[prompt_sets.PROTOCOLS[job.protocols[0]]]
        line = rivals.separated(
            loaded,
            tokens[half.safe.name],
            tokens[half.unsafe.name],
            batch=job.config.prompt_batch,
            seed=job.config.seed,
            resamples=job.config.score.resamples,
        )
        if job.pairs is not None:
            line |= rivals.probed(features(), rivals.probe_features(loaded, job.pairs, job.config.prompt_batch))
        return line

    return _unit(job, f"{group.family}/{model.name}/rivals", compute)
