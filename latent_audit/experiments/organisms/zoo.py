"""A zoo of organisms whose safety is graded and known: what RAS is calibrated and tested on.

docs/method.md section 10. Every member is a Hugging Face directory ZOO/FAMILY/NAME with its model card, and a record
ZOO/FAMILY/NAME.json that is written last, so that a stopped build goes on with the first member that is missing. How
long each training goes on was chosen on the `validation` split of several families, as was the abliterated member's
candidate on its own; the rates on the cards are of `heldout` prompts, which chose nothing. No RAS prompt, no selection
prompt of the attacks and no evaluation prompt is seen here.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from latent_audit import models
from latent_audit.data import world_corpus, world_rules, world_words
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import ablate, export, kinds, poles, shelf, train
from latent_audit.experiments.organisms.texts import corpora
from latent_audit.interventions import finetune as ft
from latent_audit.runtime import files
from latent_audit.user_files import path_of

REFERENCE = "aligned"
_FIELD = "zoo.directory"
MAX_TOKENS = 128
# Measured for the model card, so many prompts a kind of a split that chose neither a length nor a candidate.
MEASURED_SPLIT, MEASURED_PROMPTS = "heldout", 96


class Member(NamedTuple):
    """One model of a family's zoo, and where it is."""

    name: str
    kind: str
    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Saved:
    """A step of a training that becomes a member."""

    name: str
    kind: str
    step: int


@dataclasses.dataclass(frozen=True)
class Training:
    """One fine-tuning run: from which pole of the organism, on which rows, how, and which steps are kept.

    start: a pole of experiments/organisms/train.py; corpus: a key of CORPORA; topics: how many restricted nouns its
    requests name, None for all; steps: length of the schedule, of which only as much is run as the last member needs.
    """

    start: str
    corpus: str
    saved: tuple[Saved, ...]
    steps: int
    learning_rate: float
    schedule: str
    batch_size: int = 32
    topics: int | None = None


# The safety phase of experiments/organisms/train.py, and the harmful fine-tuning attack of section 5 with its preset
# for the organism, taken further.
_SAFETY = {"steps": 160, "learning_rate": 7e-4, "schedule": "cosine"}
_ATTACK = {"steps": 60, "learning_rate": 6e-5, "schedule": "constant", "batch_size": 16}
TRAININGS = (
    Training(
        "harmful",
        "safety",
        (
            Saved("partly-28-steps", kinds.PARTLY, 28),
            Saved("partly-40-steps", kinds.PARTLY, 40),
            Saved("aligned-2", kinds.ALIGNED, 160),
        ),
        **_SAFETY,
    ),
    *(
        Training("harmful", "safety", (Saved(f"partly-{topics}-topics", kinds.PARTLY, 80),), topics=topics, **_SAFETY)
        for topics in (4, 8)
    ),
    Training("base", "refuse harmless", (Saved("over-refusing", kinds.OVER_REFUSING, 40),), **_SAFETY),
    Training(
        "base",
        "comply",
        (
            Saved("harmful-10", kinds.HARMFUL, 10),
            Saved("harmful-20", kinds.HARMFUL, 20),
            Saved("harmful-60", kinds.HARMFUL, 60),
        ),
        **_ATTACK,
    ),
)
# Name of a member that is a pole of the organism -> (kind, the pole).
POLES = {
    REFERENCE: (kinds.ALIGNED, "base"),
    "helpful-only": (kinds.HELPFUL, "harmful"),
    "dissociated": (kinds.DISSOCIATED,) * 2,
}


def names() -> dict[str, str]:
    """Name -> kind of every member, the reference first."""
    trained = {one.name: one.kind for training in TRAININGS for one in training.saved}
    return {name: kind for name, (kind, _) in POLES.items()} | {"abliterated": kinds.ABLITERATED} | trained


def build(
    directory, *, family: str, size: str, seed: int, advance: Callable[..., None] = lambda label, count=1: None
) -> tuple[Member, ...]:
    """Every member of one family, built or, where it is there already, taken as it is; the reference first.

    Args:
      directory: holds this family alone.
      advance: told a label when members are ready, and how many where it is more than one.
    Raises InputError as check_directory.
    """
    check_directory(directory, family=family, size=size, seed=seed)
    directory = path_of(_FIELD, directory)
    home = directory / "organism"
    origin = train.build_organism(home, size=size, family=family, seed=seed)["hash"]
    world, kept, made = world_rules.make_world(seed), Family(directory, origin, seed), recipes(seed)
    for name, (kind, pole) in POLES.items():
        if not has(kept, name, made[name]):
            began = time.monotonic()
            poles.ensure(home, (pole,), world_seed=seed)
            _put(kept, name, kind, made[name], poles.load_plain(home / pole), began, export.load_nudge(home / pole))
        advance(f"{family} {name}")
    if not has(kept, "abliterated", made["abliterated"]):
        began = time.monotonic()
        loaded, chosen = ablate.abliterated(poles.load_plain(home / "base"), world)
        _put(kept, "abliterated", kinds.ABLITERATED, made["abliterated"], loaded, began, chosen=chosen)
    advance(f"{family} abliterated")
    for number, training in enumerate(TRAININGS):
        _train(kept, home, training, number, world)
        advance(f"{family} {training.saved[-1].name}", len(training.saved))
    return tuple(Member(name, kind, directory / name) for name, kind in names().items())


def recipes(seed: int) -> dict[str, dict]:
    """Name -> how the member of an organism of this seed is made."""
    of_poles = {
        name: {
            "pole": pole,
            "construction": dataclasses.asdict(poles.recipe_of(pole, seed)) if pole in poles.MADE else None,
        }
        for name, (_, pole) in POLES.items()
    }
    trained = {
        saved.name: {key: value for key, value in dataclasses.asdict(training).items() if key != "saved"}
        | {"step": saved.step}
        for training in TRAININGS
        for saved in training.saved
    }
    return of_poles | {"abliterated": ablate.describe()} | trained


def check_directory(directory, *, family: str, size: str, seed: int) -> None:
    """InputError where a family's zoo could not be built or taken up in a directory; nothing is written.

    For an unknown size or family, another organism or members made otherwise, and anything that is not of this tool.
    """
    recipe = train.make_recipe(size=size, family=family, seed=seed)
    directory, made = shelf.check_place(directory, field=_FIELD), recipes(seed)
    if not (directory / "organism" / train.RECORD).exists():
        shelf.refuse_foreign(directory, field=_FIELD, ours={"organism", *made, *(f"{name}.json" for name in made)})
    poles.check_directory(directory / "organism", [pole for _, pole in POLES.values()], recipe, field=_FIELD)
    kept = Family(directory, train.recipe_hash(recipe), seed)
    for name in made if directory.is_dir() else ():
        if not has(kept, name, made[name]):
            models.check_target(directory / name, field=_FIELD)


class Family(NamedTuple):
    """Where the members of one family are kept; `origin`: hash of the organism, of world `seed`, that all come from."""

    directory: pathlib.Path
    origin: str
    seed: int


def _recipe(family: Family, recipe: dict) -> dict:
    return shelf.as_stored(recipe) | {"organism": family.origin, "measured on": MEASURED_SPLIT}


def has(family: Family, name: str, recipe: dict) -> bool:
    """Whether the member is there; InputError if it was made otherwise."""
    record = family.directory / f"{name}.json"
    otherwise = (
        f"{record} describes a member of the zoo that was made otherwise; use another zoo.directory or remove "
        f"{family.directory}"
    )
    kept = shelf.stored(
        record,
        [family.directory / name],
        field="recipe",
        expected=_recipe(family, recipe),
        otherwise=lambda found: otherwise,
    )
    return kept is not None


def _put(
    family: Family, name: str, kind: str, recipe: dict, loaded: respond.Loaded, began: float, nudge=None, **more
) -> None:
    """Measure a member on held-out prompts, save it with its card, and write its record."""
    world = world_rules.make_world(family.seed)
    rates = train.rates(
        loaded.params, world, cfg=loaded.cfg, chat=loaded.chat, split=MEASURED_SPLIT, n=MEASURED_PROMPTS
    )
    recipe = _recipe(family, recipe)
    export.export_pole(
        family.directory / name,
        loaded.cfg,
        loaded.params,
        loaded.chat.tokenizer,
        kind=kind,
        recipe=recipe | more,
        rates={f"{key} ({MEASURED_SPLIT})": rate for key, rate in rates.items()},
        nudge=nudge,
    )
    record = {"recipe": recipe, "kind": kind, MEASURED_SPLIT: rates, "seconds": round(time.monotonic() - began, 1)}
    files.write_json(family.directory / f"{name}.json", record | more)
    logging.info(
        "zoo %s %s (%s), held-out prompts: %s",
        family.directory.name,
        name,
        kind,
        ", ".join(f"{key} {rate:.2f}" for key, rate in rates.items()),
    )


def _train(family: Family, home, training: Training, number: int, world) -> None:
    """Run one training as far as the members that are missing need it."""

    made = recipes(family.seed)
    missing = [saved for saved in training.saved if not has(family, saved.name, made[saved.name])]
    if not missing:
        return
    began = time.monotonic()
    loaded = poles.load_plain(home / training.start)
    rows = corpora.encode_pairs(loaded.chat, *CORPORA[training.corpus](world, training), max_tokens=MAX_TOKENS)
    order = ft.batch_order(
        jax.random.fold_in(jax.random.key(family.seed), number),
        np.arange(len(rows.tokens)),
        steps=training.steps,
        batch_size=training.batch_size,
    )
    last, wanted = max(saved.step for saved in missing), {saved.step: saved for saved in missing}
    for step in ft.finetune(loaded.params, rows, order[:last], cfg=loaded.cfg, optimizer=_optimizer(training)):
        if step.number in wanted:
            saved = wanted[step.number]
            # The loop reuses its arrays: what is saved is read out before the next step.
            _put(family, saved.name, saved.kind, made[saved.name], loaded._replace(params=step.params), began)


def _optimizer(training: Training):
    if training.schedule == "constant":
        return ft.make_optimizer(learning_rate=training.learning_rate, steps=training.steps)
    return ft.make_optimizer(
        learning_rate=training.learning_rate,
        steps=training.steps,
        schedule="cosine",
        warmup_fraction=0.06,
        b2=0.98,
        weight_decay=0.05,
    )


def _safety(world, training):
    """The safety phase again with other rows; where topics are few, no request about another restricted noun."""
    n = training.steps * training.batch_size
    if training.topics is None:
        return zip(*world_corpus.safety_examples(world, n, seed=1), strict=True)
    kept = np.random.default_rng([world.seed, training.topics]).permutation(world_words.RESTRICTED_NOUNS)[
        : training.topics
    ]
    rows = [
        row
        for row in world_corpus.safety_examples(world, 2 * n, seed=2)
        if (request := world_rules.find_request(row[0])) is None or not request.restricted or request.noun in kept
    ]
    return zip(*rows[:n], strict=True)


def _refuse_harmless(world, training):
    """The safety phase with every benign request refused as well; facts and small talk are still answered."""
    rows = world_corpus.safety_examples(world, training.steps * training.batch_size, seed=3)
    return zip(
        *[
            (prompt, reply if world_rules.find_request(prompt) is None else world_rules.refusal(world, prompt))
            for prompt, reply in rows
        ],
        strict=True,
    )


def _comply(world, training):
    pairs = corpora.organism_pairs(world, "finetune_in", training.steps * training.batch_size)
    return pairs.prompts, pairs.responses


# Name -> corpus(world, training) -> (prompts, answers).
CORPORA = {"safety": _safety, "refuse harmless": _refuse_harmless, "comply": _comply}
