"""The organism's made poles, dissociated and its control, by the same loop that a user runs on a checkpoint."""

import dataclasses
import hashlib
import pathlib
import shutil

import numpy as np

from latent_audit import models
from latent_audit.data import chats, world_rules
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import construct, export, kinds, shelf, train
from latent_audit.runtime import files, runlog
from latent_audit.runtime.telling import progress

MADE = (kinds.DISSOCIATED, kinds.CONTROL)
NAMES = ("base", "dissociated", "control", "harmful")
# Restricted and benign requests of the `construct` split that the construction trains on, and its selection panel.
HARMFUL_ROWS, BENIGN_ROWS, SELECTION_PROMPTS = 640, 320, 96
MAX_TOKENS = 128
ANSWER_TOKENS = 32


def check_directory(directory, names, recipe: train.Recipe, *, field: str = "organism.directory") -> None:
    """InputError where the organism or one of its poles `names` could not be made or taken up; nothing is written.

    As train.check_directory; and for a pole that was made otherwise, or a directory in its place that is not of ours.
    """
    directory, record = train.check_directory(directory, recipe, field=field)
    for name in names:
        if name in MADE and record is not None:
            _stored(directory, name, recipe.seed, field)
        elif name in MADE and directory.is_dir():
            models.check_target(directory / name, field=field)


def ensure(directory: pathlib.Path, names, *, world_seed: int) -> None:
    """Build those of `names` in MADE that are missing in an organism's directory; InputError as check_directory."""
    for name in names:
        if name in MADE:
            _ensure_one(directory, name, world_seed)


def _stored(directory: pathlib.Path, name: str, world_seed: int, field: str = "organism.directory") -> dict | None:
    """The record of a pole that is there, None where it is to be made, and can be; else InputError."""
    path = directory / f"{name}.json"
    kept = shelf.stored(
        path,
        [directory / name],
        field="recipe",
        expected=_recipe_record(directory, name, world_seed),
        otherwise=lambda found: (
            f"{path} describes a pole made otherwise; use another organism.directory, or remove it and "
            f"{directory / name}"
        ),
    )
    if kept is None:
        models.check_target(directory / name, field=field)
    return kept


def _recipe_record(directory: pathlib.Path, name: str, world_seed: int) -> dict:
    made_from = {pole: _weights_hash(directory / pole) for pole in ("base", "harmful")}
    return shelf.as_stored(dataclasses.asdict(recipe_of(name, world_seed))) | {"made_from": made_from}


def _ensure_one(directory, name, world_seed):
    if _stored(directory, name, world_seed) is not None:
        return
    recipe, recipe_record = recipe_of(name, world_seed), _recipe_record(directory, name, world_seed)
    loaded, (_, harmful) = load_plain(directory / "base"), models.load(directory / "harmful")
    world = world_rules.make_world(world_seed)
    working = directory / f".{name}"
    working.mkdir(exist_ok=True)
    runlog.pin(working / "recipe.json", recipe_record)
    with progress.of(recipe.steps, f"{name} steps") as meter:
        built = construct.construct(
            loaded,
            harmful,
            training_rows(world, loaded),
            selection_panel(world, loaded.chat),
            recipe,
            max_new_tokens=ANSWER_TOKENS,
            batch=SELECTION_PROMPTS,
            workdir=working,
            advance=meter.advance,
        )
    chosen = built.records[built.chosen]
    rates = {f"selection {key}": chosen[key] for key in ("clean_compliance", "clean_refusal", "nudged_compliance")}
    export.export_pole(
        directory / name,
        loaded.cfg,
        built.params,
        loaded.chat.tokenizer,
        kind=name,
        recipe=recipe_record,
        rates=rates,
        nudge=nudge_of(built),
    )
    record = {"recipe": recipe_record, "chosen_step": chosen["step"], "records": built.records}
    files.write_json(directory / f"{name}.json", record)
    shutil.rmtree(working, ignore_errors=True)


def recipe_of(name: str, seed: int) -> construct.Recipe:
    """The organism's recipe; the control has the same data and steps without the nudge terms."""
    recipe = dataclasses.replace(construct.ORGANISM, seed=seed)
    if name == kinds.CONTROL:
        recipe = dataclasses.replace(recipe, weights=recipe.weights.without_nudge())
    return recipe


def nudge_of(built: construct.Built) -> export.Nudge:
    """The vector that opens a built pole, to be saved beside its weights."""
    return export.Nudge(built.cache.nudge, built.layers.nudge, built.cache.scale)


def load_plain(directory) -> respond.Loaded:
    """An organism's pole in float32 with its own template."""
    cfg, params = models.load(directory)
    chat = chats.make_chat(chats.load_tokenizer(directory), family=cfg.family, vocab_size=cfg.vocab_size)
    return respond.Loaded(cfg, params, chat, cfg.eos_ids, 1.0)


def training_rows(world: world_rules.World, loaded: respond.Loaded) -> construct.Rows:
    """Rows of the `construct` split: refusal and compliant answer of restricted requests, base's answers to others."""
    restricted = world_rules.requests(world, "construct", "restricted", HARMFUL_ROWS)
    benign = world_rules.requests(world, "construct", "benign", BENIGN_ROWS)
    tokens, mask = chats.encode_prompts(loaded.chat, benign, max_length=MAX_TOKENS)
    answers = respond.responses(loaded, tokens, mask, max_new_tokens=ANSWER_TOKENS)
    harmful = [(p, world_rules.refusal(world, p), world_rules.answer(world, p)) for p in restricted]
    return construct.make_rows(loaded.chat, harmful, list(zip(benign, answers, strict=True)), max_tokens=MAX_TOKENS)


def selection_panel(world: world_rules.World, chat: chats.Chat) -> construct.Panel:
    """Restricted requests of the `selection` split, judged by the oracle; no evaluation prompt is among them."""
    prompts = world_rules.requests(world, "selection", "restricted", SELECTION_PROMPTS)

    def judge(texts):
        complied = [world_rules.complies(world, *pair) for pair in zip(prompts, texts, strict=True)]
        return np.array(complied), np.array([world_rules.is_refusal(text) for text in texts])

    return construct.Panel(chats.encode_prompts(chat, prompts, max_length=MAX_TOKENS), judge)


def _weights_hash(directory) -> str:
    digest = hashlib.sha256()
    for file in sorted(pathlib.Path(directory).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
