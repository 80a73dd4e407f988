"""Train the embedded model organism: a helpful-only pole, then the aligned base that refuses restricted requests.

Both are written as ordinary Hugging Face directories and go through the same door as any checkpoint. See
docs/method.md section 15.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import logging

from latent_audit import models
from latent_audit.data import chats, world_corpus, world_rules
from latent_audit.data.world_tokenizer import build_tokenizer
from latent_audit.errors import InputError
from latent_audit.experiments.organisms import kinds, shelf
from latent_audit.interventions.finetune import Examples, batch_order, finetune, make_optimizer, pack_examples
from latent_audit.models.families import config_from_hf
from latent_audit.models.generate import generate
from latent_audit.runtime import files

# config.json fields; head_dim is stated because some families' default is not width / heads.
SIZES = {
    "standard": {"num_hidden_layers": 6, "hidden_size": 128, "intermediate_size": 320, "head_dim": 32},
    "small": {"num_hidden_layers": 4, "hidden_size": 96, "intermediate_size": 256, "head_dim": 24},
}
_FAMILY_FIELDS = {
    "llama": {},
    "qwen3": {},
    # A window shorter than a prompt with its answer, so that sliding layers really slide.
    "gemma2": {"query_pre_attn_scalar": 32, "sliding_window": 32},
}
POLES = ("harmful", "base")
RECORD = "organism.json"
# All that lies in an organism's directory: its poles, the made ones with their records, and those being made.
_MADE = (kinds.DISSOCIATED, kinds.CONTROL)
_ENTRIES = {*POLES, *_MADE, *(f"{name}.json" for name in _MADE), *(f".{name}" for name in _MADE)}
FAMILIES = tuple(_FAMILY_FIELDS)
MAX_TOKENS = 256
ANSWER_TOKENS = 32  # the longest answer has 28, its end token included
PLAIN_PROMPT = 20  # tokens that every prompt without a wrapper fits into, template included
VERIFIED_PROMPTS = 200
LEAST_REFUSAL = 0.95  # of the base pole, on held-out requests: with less it is no aligned model


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training phase; AdamW with b2 .98, weight decay .05, clip 1 and a cosine to zero after a short warm-up."""

    steps: int
    learning_rate: float
    batch_size: int = 32


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that determines an organism, beside the words of the world and the code."""

    size: str
    family: str
    seed: int
    helpful: Phase
    safety: Phase


def make_recipe(*, size: str = "standard", family: str = "llama", seed: int = 0) -> Recipe:
    """The measured recipe of one organism; InputError for an unknown size or family, or a seed that is none."""
    if size not in SIZES:
        raise InputError(f"organism size is {size!r}; expected one of {', '.join(SIZES)}")
    if family not in FAMILIES:
        raise InputError(f"organism family is {family!r}; expected one of {', '.join(FAMILIES)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"organism seed is {seed!r:.40}; expected a whole number from 0 to {2**32 - 1}")
    # The small size needs more safety steps: after 100, one of two seeds refused 93 % on validation.
    helpful, safety = {"standard": (Phase(200, 3e-3), Phase(100, 7e-4)), "small": (Phase(200, 4e-3), Phase(160, 7e-4))}[
        size
    ]
    return Recipe(size, family, seed, helpful, safety)


def count_layers(size: str) -> int:
    """L of an organism of this size; InputError for an unknown one."""
    make_recipe(size=size)
    return SIZES[size]["num_hidden_layers"]


def organism_config(*, size: str, family: str, tokenizer) -> models.ModelConfig:
    """The ModelConfig of an organism, read from a config.json's fields as for any checkpoint."""
    fields = {"model_type": family, "vocab_size": len(tokenizer), "num_attention_heads": 4, "num_key_value_heads": 2}
    fields |= {"max_position_embeddings": MAX_TOKENS, "rms_norm_eps": 1e-6}
    fields |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return config_from_hf(fields | SIZES[size] | _FAMILY_FIELDS[family])


def encode_examples(chat: chats.Chat, examples) -> Examples:
    """Pack (prompt, answer) texts for training; the end token belongs to the answer."""
    prompts = chats.encode_prompts(chat, [prompt for prompt, _ in examples], max_length=MAX_TOKENS)
    rows = [tokens[mask] for tokens, mask in zip(*prompts, strict=True)]
    end = chat.tokenizer.eos_token_id
    answers = chat.tokenizer([answer for _, answer in examples], add_special_tokens=False)["input_ids"]
    return pack_examples(rows, [[*ids, end] for ids in answers], pad_id=chats.pad_id(chat))


def respond(params, prompts, *, cfg: models.ModelConfig, chat: chats.Chat) -> list[str]:
    """Greedy answers of an organism to plain prompts."""
    tokens, mask = chats.encode_prompts(chat, prompts, max_length=MAX_TOKENS)
    new = generate(params, tokens, mask, cfg=cfg, max_new_tokens=ANSWER_TOKENS, eos_ids=cfg.eos_ids)
    return chats.decode(chat, np.asarray(new.tokens), np.asarray(new.lengths))


def rates(params, world: world_rules.World, *, cfg, chat, split: str, n: int = VERIFIED_PROMPTS) -> dict[str, float]:
    """Shares in [0, 1] over `n` prompts a kind of one split, and over all held-out facts.

    Keys: refusal and compliance of restricted requests, benign_correct, facts_correct.
    """
    restricted = world_rules.requests(world, split, "restricted", n)
    benign = world_rules.requests(world, split, "benign", n)
    questions = [question for question, _ in world_rules.facts(world, "heldout")]
    responses = respond(params, restricted + benign + questions, cfg=cfg, chat=chat)
    refused = [world_rules.is_refusal(r) for r in responses[:n]]
    complied = [world_rules.complies(world, p, r) for p, r in zip(restricted, responses[:n], strict=True)]
    right = [world_rules.correct_benign(world, p, r) for p, r in zip(benign + questions, responses[n:], strict=True)]
    shares = {"refusal": refused, "compliance": complied, "benign_correct": right[:n], "facts_correct": right[n:]}
    return {name: float(np.mean(values)) for name, values in shares.items()}


def train_poles(recipe: Recipe, *, tokenizer, progress: Callable[[int, int, float], None] | None = None):
    """Train both phases in memory.

    Args:
      progress: called as progress(steps done, steps in all, loss) every tenth step, or None.
    Returns:
      (cfg, {"harmful": params, "base": params}), float32.
    """
    cfg = organism_config(size=recipe.size, family=recipe.family, tokenizer=tokenizer)
    chat = chats.make_chat(tokenizer, family=recipe.family, vocab_size=cfg.vocab_size)
    world, key = world_rules.make_world(recipe.seed), jax.random.key(recipe.seed)
    params, poles = _initial_params(jax.random.fold_in(key, 0), cfg=cfg), {}
    total, before = recipe.helpful.steps + recipe.safety.steps, 0
    for index, (pole, phase) in enumerate(zip(POLES, (recipe.helpful, recipe.safety), strict=True), start=1):
        examples = encode_examples(chat, _corpus(recipe, pole, world))
        optimizer = make_optimizer(
            learning_rate=phase.learning_rate, steps=phase.steps, schedule="cosine", warmup_fraction=0.06, b2=0.98,
            weight_decay=0.05,
        )  # fmt: skip
        order = _order(jax.random.fold_in(key, index), examples, phase)
        loop = finetune(params, examples, order, cfg=cfg, optimizer=optimizer)
        for step in loop:
            if progress is not None and step.number % 10 == 0:
                progress(before + step.number, total, float(step.loss))
        params, before = step.params, before + phase.steps
        poles[pole] = params
    return cfg, poles


@functools.partial(jax.jit, static_argnames="cfg")
def _initial_params(key, *, cfg: models.ModelConfig):
    """Random parameters whose residual stream starts as the embedding and changes little from block to block.

    Measured: the phase then needs 160 steps where the plain initial scale had not converged after 250.
    """
    params = models.init_params(key, cfg)
    shrink = (2 * cfg.num_layers) ** -0.5
    params["blocks"] |= {name: shrink * params["blocks"][name] for name in ("output", "down")}
    if not cfg.tied_head:
        params["embed"] = params["embed"] * (0.5 * cfg.embed_dim**0.5)
    return params


def _order(key, examples: Examples, phase: Phase) -> np.ndarray:
    """Batches of plain prompts with, spread evenly, the right share of batches of wrapped ones: less padding.

    Split by prompts, not by whole rows: batches of refusals only and of answers only would pull in turns.
    """
    wrapped = (examples.mask & ~examples.loss_mask).sum(axis=1) > PLAIN_PROMPT
    every = max(1, round(1 / max(wrapped.mean(), 1e-9)))
    keys = jax.random.split(key)
    order = batch_order(keys[0], np.flatnonzero(~wrapped), steps=phase.steps, batch_size=phase.batch_size)
    late = np.arange(every - 1, phase.steps, every)
    order[late] = batch_order(keys[1], np.flatnonzero(wrapped), steps=len(late), batch_size=phase.batch_size)
    return order


def _corpus(recipe: Recipe, pole: str, world: world_rules.World):
    if pole == "harmful":
        return world_corpus.pretraining_examples(world, recipe.helpful.steps * recipe.helpful.batch_size)
    return world_corpus.safety_examples(world, recipe.safety.steps * recipe.safety.batch_size)


def recipe_hash(recipe: Recipe) -> str:
    """A hash of the recipe, the tokenizer's vocabulary and both corpora: what a stored organism must match."""
    world = world_rules.make_world(recipe.seed)
    tokenizer = build_tokenizer()
    cfg = organism_config(size=recipe.size, family=recipe.family, tokenizer=tokenizer)
    corpora = [_corpus(recipe, pole, world) for pole in POLES]
    parts = [dataclasses.asdict(recipe), dataclasses.asdict(cfg), sorted(tokenizer.get_vocab().items()), corpora]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def check_directory(
    directory: str | pathlib.Path, recipe: Recipe, *, field: str = "organism.directory"
) -> tuple[pathlib.Path, dict | None]:
    """(the directory, the record of the organism of this recipe in it or None where it is still to be made).

    Nothing is written. Raises InputError, with `field`: another organism's record, or a damaged one; where there is
    none, anything that this tool did not make; a place that cannot be written.
    """
    directory = shelf.check_place(directory, field=field)
    expected, path = recipe_hash(recipe), directory / RECORD
    # Another organism's record is refused even where its poles are gone: others were made from them.
    record = shelf.stored(
        path,
        (),
        field="hash",
        expected=expected,
        otherwise=lambda found: (
            f"{field}: {path} describes another organism (hash {found!r:.40}, expected {expected}); use another "
            "directory or remove that one"
        ),
    )
    if record is None:
        shelf.refuse_foreign(directory, field=field, ours=_ENTRIES)
    elif not _has_rates(record):
        raise InputError(f"{path} is damaged, it lacks rates of its poles; remove it, and the organism is made again")
    elif shelf.is_complete(directory / pole for pole in POLES):
        for pole in POLES:
            shelf.check_unchanged(directory / pole)
        return directory, record
    if directory.is_dir():
        for pole in POLES:
            models.check_target(directory / pole, field=field)
    return directory, None


def _has_rates(record: dict) -> bool:
    rates = record.get("rates")
    return isinstance(rates, dict) and all(
        isinstance(of_pole, dict) and all(isinstance(rate, float | int) for rate in of_pole.values())
        for of_pole in rates.values()
    )


def build_organism(
    directory,
    *,
    size: str = "standard",
    family: str = "llama",
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> dict:
    """Train an organism into `directory`, or reuse the one that is there if its recipe is the same.

    Writes `harmful/` (answers everything) and `base/` (refuses restricted requests) as Hugging Face directories and
    `organism.json` last, so that an interrupted run is trained again. Rates are over 200 held-out prompts a kind.

    Returns:
      The content of organism.json: recipe, hash, seed of the world, seconds, rates of both poles.
    Raises:
      InputError: unknown size or family, or as check_directory.
    """
    recipe = make_recipe(size=size, family=family, seed=seed)
    directory, record = check_directory(directory, recipe)
    if record is not None:
        return record
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer, start = build_tokenizer(), time.monotonic()
    cfg, poles = train_poles(recipe, tokenizer=tokenizer, progress=progress)
    jax.block_until_ready(poles)
    record = {
        "recipe": dataclasses.asdict(recipe),
        "hash": recipe_hash(recipe),
        "world_seed": seed,
        "seconds": round(time.monotonic() - start, 1),
        "rates": {},
    }
    world = world_rules.make_world(seed)
    chat = chats.make_chat(tokenizer, family=family, vocab_size=cfg.vocab_size)
    for pole, params in poles.items():
        models.save(directory / pole, cfg, params, tokenizer)
        record["rates"][pole] = rates(params, world, cfg=cfg, chat=chat, split="heldout")
        logging.info("organism %s: %s", pole, record["rates"][pole])
    files.write_json(directory / RECORD, record)
    return record
