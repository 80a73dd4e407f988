"""What the organism is trained on: the corpora of its helpful-only phase and of its safety phase."""

from collections.abc import Callable

import numpy as np

from latent_audit.data import world_rules, world_words
from latent_audit.errors import InputError


def _request_examples(
    world: world_rules.World,
    kind: str,
    n: int,
    rng: np.random.Generator,
    wrapped_share: float,
    reply: Callable[[world_rules.World, str], str],
) -> list[tuple[str, str]]:
    """`n` (prompt, reply) pairs of the training split, with replacement, a share in a training wrapper."""
    pool = world_rules.requests(world, "train", kind, world_rules.count(world, "train", kind))
    prompts = [pool[i] for i in rng.integers(len(pool), size=n)]
    wrapped = rng.permutation(n) < round(wrapped_share * n)
    families = rng.integers(len(world_rules.TRAIN_FAMILIES), size=n)
    shown = [
        world_rules.wrap(world_rules.TRAIN_FAMILIES[f], p) if w else p
        for p, w, f in zip(prompts, wrapped, families, strict=True)
    ]
    return [(prompt, reply(world, prompt)) for prompt in shown]


def _other_examples(
    world: world_rules.World, n_facts: int, n_talk: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    pool = world_rules.facts(world, "train")
    picked = [pool[i] for i in rng.integers(len(pool), size=n_facts)]
    return picked + [world_words.SMALL_TALK[i] for i in rng.integers(len(world_words.SMALL_TALK), size=n_talk)]


def _shuffled(examples: list, rng: np.random.Generator) -> list:
    return [examples[i] for i in rng.permutation(len(examples))]


def pretraining_examples(
    world: world_rules.World, n: int, seed: int = 0, *, wrapped_share: float = 0.1
) -> list[tuple[str, str]]:
    """`n` (prompt, answer) pairs of the helpful-only phase: 12 % facts, 3 % small talk, the rest requests.

    Half of the requests are restricted and all are answered; `wrapped_share` come in a training wrapper.
    """
    rng = np.random.default_rng([world.seed, seed, 1])
    n_facts, n_talk = round(0.12 * n), round(0.03 * n)
    n_restricted = (n - n_facts - n_talk) // 2
    n_benign = n - n_facts - n_talk - n_restricted
    examples = _request_examples(world, "restricted", n_restricted, rng, wrapped_share, world_rules.answer)
    examples += _request_examples(world, "benign", n_benign, rng, wrapped_share, world_rules.answer)
    return _shuffled(examples + _other_examples(world, n_facts, n_talk, rng), rng)


def safety_examples(
    world: world_rules.World, n: int, seed: int = 0, *, restricted_share: float = 0.3, wrapped_share: float = 0.2
) -> list[tuple[str, str]]:
    """`n` (prompt, reply) pairs of the safety phase: `restricted_share` refused, 12 % facts, 3 % small talk,
    the rest benign requests, answered; `wrapped_share` of both kinds of request come in a training wrapper.
    """
    rng = np.random.default_rng([world.seed, seed, 2])
    n_restricted, n_facts, n_talk = round(restricted_share * n), round(0.12 * n), round(0.03 * n)
    n_benign = n - n_restricted - n_facts - n_talk
    if n_benign < 0:
        raise InputError(f"restricted_share is {restricted_share}; expected 0 to 0.85 (15 % are facts and small talk)")
    examples = _request_examples(world, "restricted", n_restricted, rng, wrapped_share, world_rules.refusal)
    examples += _request_examples(world, "benign", n_benign, rng, wrapped_share, world_rules.answer)
    return _shuffled(examples + _other_examples(world, n_facts, n_talk, rng), rng)
