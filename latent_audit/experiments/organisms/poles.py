"""The organism's made poles, dissociated and its control, by the same loop that a user runs on a checkpoint."""

import dataclasses
import hashlib
import pathlib
import shutil

import numpy as np

from latent_audit import models
from latent_audit.data import chats, world_rules
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import construct, export, kinds, shelf
from latent_audit.runtime import files, runlog

MADE = (kinds.DISSOCIATED, kinds.CONTROL)
NAMES = ("base", "dissociated", "control", "harmful")
# Restricted and benign requests of the `construct` split that the construction trains on, and its selection panel.
HARMFUL_ROWS, BENIGN_ROWS, SELECTION_PROMPTS = 640, 320, 96
MAX_TOKENS = 128
ANSWER_TOKENS = 32


def ensure(directory: pathlib.Path, names, *, world_seed: int) -> None:
    """Build those of `names` in MADE that are missing in an organism's directory."""
    for name in names:
        if name in MADE:
            _ensure_one(directory, name, world_seed)


def _ensure_one(directory, name, world_seed):
    recipe = recipe_of(name, world_seed)
    record_path = directory / f"{name}.json"
    made_from = {pole: _weights_hash(directory / pole) for pole in ("base", "harmful")}
    recipe_record = shelf.as_stored(dataclasses.asdict(recipe)) | {"made_from": made_from}
    otherwise = (
        f"{record_path} describes a pole made otherwise; use another organism.directory, or remove it and "
        f"{directory / name}"
    )
    kept = shelf.stored(
        record_path, [directory / name], field="recipe", expected=recipe_record, otherwise=lambda found: otherwise
    )
    if kept is not None:
        return
    loaded, (_, harmful) = load_plain(directory / "base"), models.load(directory / "harmful")
    world = world_rules.make_world(world_seed)
    working = directory / f".{name}"
    working.mkdir(exist_ok=True)
    runlog.pin(working / "recipe.json", recipe_record)
    with runlog.progress(recipe.steps, f"{name} steps") as meter:
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
    files.write_json(record_path, {"recipe": recipe_record, "chosen_step": chosen["step"], "records": built.records})
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
    chat = chats.make_chat(chats.load_tokenizer(directory), family=cfg.family)
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
