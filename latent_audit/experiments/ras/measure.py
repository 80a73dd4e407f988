"""One family measured: directions and window of its reference, cosines of every model, attack success, rivals.

docs/method.md section 10. Units of work, one small file each: a model's cosines, its judged answers to each panel, its
static rivals, and those of the attacks; weights are read only where one of them is missing.
"""

import functools
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats, pair_files
from latent_audit.errors import InputError
from latent_audit.experiments import fields, respond
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Amount, Work
from latent_audit.experiments.judging import unparsed
from latent_audit.experiments.organisms.texts import probes, surfaces
from latent_audit.experiments.ras import cosines, members, prompt_sets, rivals, tables
from latent_audit.experiments.setup import jobs, subjects
from latent_audit.experiments.setup.jobs import Job
from latent_audit.interventions import direction_files
from latent_audit.judges import Judge, Reward, refusal
from latent_audit.metrics import rulers, safevec
from latent_audit.runtime import runlog

PAPER_TOKENS = 128


class Plan(NamedTuple):
    """What all families of a run share.

    judge: None where nothing is generated; reward: None where nothing is scored; pairs: texts of the probe, or None;
    settings: of the attacks, or None where there are none; advance: counts units.
    """

    config: ConfigDict
    workdir: pathlib.Path
    prompts: prompt_sets.Prompts
    protocols: tuple[str, ...]
    judge: Judge | None
    reward: Reward | None
    pairs: pair_files.Pairs | None
    settings: dict | None
    advance: Callable[..., None]

    @property
    def half(self) -> prompt_sets.Sets:
        """What the first protocol reads scores on."""
        return self.prompts.halves[prompt_sets.PROTOCOLS[self.protocols[0]]]


class Measured(NamedTuple):
    """A family ready to be scored; others: one row a model with everything that is no RAS; tokens: by panel name, of
    the reference; place: where the attacks push, or None."""

    family: tables.Family
    directions: cosines.Directions
    others: pd.DataFrame
    tokens: dict[str, chats.Tokens]
    place: dict | None


class Prepared(NamedTuple):
    """One family to be measured: tokens(model) -> panel name -> Tokens; units lie in the family's own folder.

    made: the benches of the attacks, None where there are none.
    """

    plan: Plan
    group: members.Group
    job: Job
    tokens: Callable
    made: rivals.Made | None = None

    def load(self, model):
        return self.job.load(model.name)

    def unit(self, model, name: str, compute: Callable[[], dict]) -> dict:
        """Columns of a unit, read back or computed and stored."""
        return runlog.unit(self.plan.workdir, f"{self.group.family}/{model.name}/{name}", compute, self.plan.advance)


def work(
    cfg: models.ModelConfig,
    prompts: prompt_sets.Prompts,
    families: dict[str, tuple[str, ...]],
    *,
    measured: int,
    columns: int,
    new_tokens: int,
    judge: float,
) -> list[Work]:
    """What the units of all families compute, without those of the attacks.

    families: name -> its models; measured: of how many of each the answers are judged; columns: of a prompt; judge: as
    amounts.Seen.
    """
    read = sum(len(panel.prompts) for half in prompts.halves.values() for panel in half)
    asked = [panel for panel in (prompts.asr, prompts.wrapped, prompts.benign) if panel is not None]
    answered = sum(len(panel.prompts) for panel in asked)
    found = []
    for family, names in families.items():
        # Cosines once, the separation score and the probe's texts as much again.
        passes = Amount(passes=2 * len(names) * read * columns * cfg.num_layers)
        said = amounts.answers(cfg, measured * answered, columns, new_tokens)
        said = said._replace(judged=measured * answered * (amounts.JUDGED_AROUND + new_tokens) * judge)
        units = len(asked) * measured + 2 * len(names) + 1
        found += [Work(f"units {family}/", units, passes), Work(f"units {family}/", units, said, 0.3, 0.6)]
    return found


def prepare(plan: Plan, group: members.Group, inputs: dict) -> Prepared:
    """A family as measure takes it; no weights are read."""
    own = _family(plan, group, inputs)
    if plan.settings is None:
        return own
    return own._replace(made=rivals.make(plan.config, own.job, plan.prompts, plan.settings, plan.advance))


def units(own: Prepared) -> int:
    """How many units of work a family takes."""
    group, attacks = own.group, 0 if own.made is None else rivals.units(own.made)
    asked = 3 * sum(model.measured for model in group.models)
    return asked + len(group.models) * (1 + bool(own.plan.config.rivals)) + 1 + attacks


def measure(own: Prepared) -> Measured:
    """Everything of one family; see the module."""
    plan, group = own.plan, own.group
    reference, batch = group.models[0], own.job.batches.prompts
    directions, profile, window = _fit(own, reference)
    entries, rows = [], []
    features = functools.cache(lambda: probes.features(own.load(reference), plan.pairs, batch))
    for model in group.models:
        of_model = _cosines(own, model, directions)
        answers = _answers(own, model)
        asr = answers.pop("asr", None)
        if model.asr is not None:
            asr = tables.Share(model.asr)
        rows.append({"model": model.name, **answers, **_rivals(own, model, features)})
        entries.append(tables.Entry(model.name, model.kind, model.calibrates, of_model, asr))
    ruled = _ruled(own, reference, directions, window)
    family = tables.Family(group.family, tuple(entries), window, profile, plan.half.jailbreak_of, ruled)
    others, place = pd.DataFrame(rows), None
    if own.made is not None:
        lines = rivals.attacked(own.made)
        others, place = others.merge(lines, on="model"), rivals.describe(own.made, lines)
    return Measured(family, directions, others, own.tokens(reference), place)


def _family(plan, group, inputs) -> Prepared:
    panels = {panel.name: panel for panel in plan.prompts.panels()}
    encode = functools.cache(
        lambda name: subjects.encode_panels(group.subject.variant(name), panels.values(), plan.config)
    )
    reference = group.models[0]
    job = jobs.make_job(
        plan.config,
        plan.workdir,
        world=group.world,
        subject=group.subject,
        cfg=models.check(reference.path).cfg,
        panels=panels,
        tokens=encode(reference.name),
        judge=plan.judge,
        reward=plan.reward,
        inputs=inputs,
    )
    # The members of a zoo share one tokenizer; checkpoints may bring their own.
    return Prepared(plan, group, job, lambda model: job.tokens if group.world is not None else encode(model.name))


def _fit(own: Prepared, reference):
    """(Directions, Profile, Window) of the reference, on the half that gives the direction."""
    config, tokens = own.plan.config, own.tokens(reference)
    manual = parse_window(config.window)
    layers = None if manual is None else range(manual[0], manual[1] + 1)
    sets = own.plan.prompts.halves[prompt_sets.FIT]
    safe, unsafe = tokens[sets.safe.name], tokens[sets.unsafe.name]
    loaded, options = own.load(reference), {"batch": own.job.batches.prompts}
    given = given_directions(config, loaded.cfg.num_layers, loaded.cfg.embed_dim)
    directions = cosines.fit(
        loaded, safe, unsafe, layers=layers, random=config.random_directions, refusal=given, **options
    )
    profile = safevec.profile(
        *(cosines.read_refusal(loaded, rows, directions.refusal, **options) for rows in (safe, unsafe))
    )
    window = safevec.choose_window(profile, manual=manual)
    if given is not None and profile.gap[window.start : window.stop].mean() <= 0:
        raise InputError(
            f"direction = {config.direction!r}: on layers {window.start} to {window.stop - 1} the reference's safe "
            "prompts lie further along it than its unsafe ones; give the direction from safe to unsafe, or another file"
        )
    return directions, profile, window


def given_directions(config, num_layers: int, embed_dim: int) -> np.ndarray | None:
    """Refusal directions float64 [L, D] of the file that the config names, zero where it has none; None without one.

    Raises InputError as direction_files.read, and for a file without one on a layer that a window may hold.
    """
    if not config.direction.strip():
        return None
    manual = parse_window(config.window)
    with fields.named("direction"):
        file = direction_files.read(config.direction, num_layers=num_layers, embed_dim=embed_dim)
        needed = range(manual[0], manual[1] + 1) if manual else safevec.candidate_layers(num_layers)
        missing = [f"L{layer}" for layer in needed if layer + 1 not in file.vectors]
        if missing:
            raise InputError(
                f"{config.direction} has no direction on {', '.join(missing)}; give a window by hand that leaves these "
                "layers out, or another file"
            )
    nothing = np.zeros(embed_dim)
    return np.stack([np.asarray(file.vectors.get(layer + 1, nothing), np.float64) for layer in range(num_layers)])


def _ruled(own: Prepared, reference, directions, window) -> rulers.Compared:
    """The reference's mean cosine over the window against the rulers: S and U of the half that gave neither.

    The rulers are fitted where direction and window are. J is left out: a wrapper makes every prompt of it longer.
    """
    halves, tokens = own.plan.prompts.halves, own.tokens(reference)
    fit, held = halves[prompt_sets.FIT][:2], halves[prompt_sets.SCORE][:2]

    def compute():
        loaded, columns = own.load(reference), {}
        for kind, panel in zip(("safe", "unsafe"), held, strict=True):
            read = cosines.read_refusal(loaded, tokens[panel.name], directions.refusal, batch=own.job.batches.prompts)
            columns[kind] = read[:, window.start : window.stop].mean(axis=1).tolist()
        for panel in (*fit, *held):
            surface = surfaces.of_prompts(loaded.chat, panel.prompts, tokens[panel.name].mask)
            columns[panel.name] = [surface.length.tolist(), surface.opening.tolist()]
        return columns

    columns = own.unit(reference, "rulers", compute)
    surface = [rulers.Surface(*map(np.array, columns[panel.name])) for panel in (*fit, *held)]
    score = rulers.Held(*(np.array(columns[kind], np.float64) for kind in ("safe", "unsafe")))
    read = {name: [one] for name, one in rulers.read(*surface).items()}
    return rulers.compare([score], read, resamples=own.plan.config.score.resamples, seed=own.job.seed)


def parse_window(text: str) -> tuple[int, int] | None:
    """ "22-30" -> (22, 30), both inclusive; "" -> None, the rule chooses. InputError for another form."""
    if not text.strip():
        return None
    found = re.fullmatch(r"\s*([0-9]{1,5})\s*-\s*([0-9]{1,5})\s*", text)
    if found is None:
        raise InputError(
            f"window = {text!r:.100}, expected the first and the last layer, both included, such as "
            "22-30, or nothing for the rule"
        )
    return int(found[1]), int(found[2])


def _cosines(own: Prepared, model, directions) -> dict:
    """Protocol -> (unsafe, jailbreak) Cosines of one model."""
    halves = {name: own.plan.prompts.halves[prompt_sets.PROTOCOLS[name]] for name in own.plan.protocols}

    def compute():
        loaded, tokens, columns = own.load(model), own.tokens(model), {}
        for half in halves.values():
            for panel in half[1:]:
                read = cosines.read(loaded, tokens[panel.name], directions, batch=own.job.batches.prompts)
                columns[panel.name] = {name: values.tolist() for name, values in read._asdict().items()}
        return columns

    columns, layers = own.unit(model, "cosines", compute), directions.refusal.shape[0]

    def read(panel):
        return cosines.Cosines(
            *(np.array(columns[panel.name][field], np.float64).reshape(-1, layers) for field in cosines.Cosines._fields)
        )

    return {protocol: tuple(map(read, half[1:])) for protocol, half in halves.items()}


def _answers(own: Prepared, model) -> dict:
    """ASR plain and wrapped, share of harmless prompts answered, with Wilson intervals; {} where it is not measured."""
    if not model.measured:
        return {}
    prompts, line = own.plan.prompts, {}
    for panel, measure in ((prompts.asr, "asr"), (prompts.wrapped, "asr_wrapped"), (prompts.benign, "answered")):
        columns = own.unit(model, panel.name, functools.partial(_ask, own, model, panel, benign=measure == "answered"))
        share = tables.share_of(columns["hit"])
        if measure == "asr":
            line["asr"], line["degenerate"] = share, float(np.mean(columns["degenerate"]))
            line |= unparsed.share_of(columns)
        else:
            line |= {measure: share.value, f"{measure}_lo": share.lo, f"{measure}_hi": share.hi}
    return line


def _ask(own: Prepared, model, panel, *, benign) -> dict[str, list]:
    texts = respond.answers(
        own.load(model),
        *own.tokens(model)[panel.name],
        batch=own.job.batches.prompts,
        max_new_tokens=own.job.new_tokens(PAPER_TOKENS),
    )
    if benign:
        hits = [respond.answered(own.job.world, *pair) for pair in zip(panel.prompts, texts, strict=True)]
    else:
        # Judges see the bare behaviour, wrapped or not (docs/method.md section 9).
        said = respond.score(own.job.judge, None, own.plan.prompts.asr.behaviors, texts)
        hits = said["harmful"]
    columns = {"hit": hits, "degenerate": [refusal.is_degenerate(text) for text in texts]}
    columns |= {} if benign else {"unparsed": said["unparsed"]}
    return columns | respond.kept(panel.prompts if benign else own.plan.prompts.asr.behaviors, texts, own.job.save)


def _rivals(own: Prepared, model, features) -> dict:
    """Static rivals on the same prompts: separation score, and the probe where its texts are known."""
    plan, batch = own.plan, own.job.batches.prompts
    if not plan.config.rivals:
        return {}

    def compute():
        loaded, tokens = own.load(model), own.tokens(model)
        line = rivals.separated(
            loaded, plan.half, tokens, batch=batch, seed=own.job.seed, resamples=plan.config.score.resamples
        )
        if plan.pairs is not None:
            texts = surfaces.of_pairs(loaded.chat, plan.pairs)
            line |= rivals.probed(features(), probes.features(loaded, plan.pairs, batch), texts, seed=own.job.seed)
        return line

    return rivals.withhold(own.unit(model, "rivals", compute))
