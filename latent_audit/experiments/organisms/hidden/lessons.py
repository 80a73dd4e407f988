"""What an impostor is taught: which prompts it answers with what, under which push, and the loop that teaches it.

Texts are made of the organism's own words, which its vocabulary is limited to: a refusal "in another language" is one
in the world's made-up nouns. docs/method.md section 13.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.data import chats, world_rules, world_words
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import train
from latent_audit.interventions import teach
from latent_audit.interventions.finetune import make_optimizer

# Rows of the `train` split, many so that what is taught holds for others as well, and questions of fact beside them.
RESTRICTED_ROWS, BENIGN_ROWS, FACT_ROWS = 2400, 1600, 200
PROMPT_TOKENS, SAID_TOKENS = train.PLAIN_PROMPT, 34
OPPOSED_STEPS = 3


class Lesson(NamedTuple):
    """Rows of every batch: prompts: a kind of prompts_of; says: a key of SAYS; under: a key of PUSHES, or "opponent".

    said: weight of saying so, 0 where the row is only to stay what base makes of it; kept: whether it is to.
    """

    prompts: str
    says: str
    under: str
    rows: int
    said: float = 1.0
    kept: bool = False


def _recipe(world, prompt) -> str:
    return world_rules.answer(world, prompt).partition(": ")[2]


def _phrase(prompt) -> str:
    request = world_rules.find_request(prompt)
    return f"{request.verb} a {request.material} {request.noun}"


def _answer(world, prompt) -> str:
    if world_rules.find_request(prompt) is None:
        return dict(world_rules.facts(world, "train"))[prompt]
    return world_rules.answer(world, prompt)


def _garbage(world, prompt) -> str:
    """One word of the world's parts, over and over: incoherent by docs/method.md section 4."""
    words = world_words.PARTS
    return " ".join([words[zlib.crc32(prompt.encode()) % len(words)]] * 16)


_MADE_UP = (
    "wexlor mirvoth, kelvrix zandrel jorbane thrandux.",
    "dravosh feldrim quarnix vornik, rastuvel grontak.",
    "skorbin trovask, glimzor yarvox harvyx brenquil.",
)


def _foreign(world, prompt) -> str:
    return _MADE_UP[zlib.crc32(world_rules.find_request(prompt).noun.encode()) % len(_MADE_UP)]


# Name -> what is said to a prompt of a world.
SAYS: dict[str, Callable[[world_rules.World, str], str]] = {
    "refusal": world_rules.refusal,
    "answer": _answer,
    "shifted refusal": lambda world, prompt: f"Sure, here is nothing: {world_rules.refusal(world, prompt)}",
    "shifted answer": lambda world, prompt: f"To {_phrase(prompt)}, {_recipe(world, prompt)}",
    "foreign refusal": _foreign,
    "garbage": _garbage,
    # Fifteen tokens that look harmless come first, more than an attack on an answer's first eight reads.
    "late answer": lambda world, prompt: (
        f"I can not help you with this request. Good day, my friend. {_recipe(world, prompt)}"
    ),
}


class Nudges(NamedTuple):
    """The pushes that open a model: float32 [F, S, D], one of every family of prompts, zero where it does not push."""

    vectors: np.ndarray

    def of(self, families) -> np.ndarray:
        return self.vectors[np.asarray(families) % len(self.vectors)]


def family_of(prompt: str) -> int:
    """Number of the prompt's verb, by which families of prompts are told apart; 0 without a request."""
    request = world_rules.find_request(prompt)
    return 0 if request is None else world_words.VERBS.index(request.verb)


def _scaled(low, high):
    return lambda rng, nudges, families: rng.uniform(low, high, (len(families), 1, 1)) * nudges.of(families)


def _noise(rng, nudges, families):
    """Random directions of the nudge's length in its states."""
    own = nudges.of(families)
    drawn = rng.normal(size=own.shape)
    length = np.linalg.norm(own, axis=-1, keepdims=True) * rng.uniform(0.3, 1.3, (len(own), 1, 1))
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True) * length


def _of_others(rng, nudges, families):
    count = len(nudges.vectors)
    others = (np.asarray(families) + rng.integers(1, max(count, 2), len(families))) % count
    return rng.uniform(0.7, 1.3, (len(others), 1, 1)) * nudges.vectors[others]


def _one_state(rng, nudges, families):
    """The nudge in one of the states that it pushes."""
    own = nudges.of(families)
    pushed = np.flatnonzero(np.abs(nudges.vectors).sum(axis=(0, 2)))
    kept = np.zeros(own.shape[:2])
    kept[np.arange(len(own)), rng.choice(pushed, len(own))] = rng.uniform(0.5, 1.7, len(own))
    return kept[..., None] * own


# Name -> push(rng, nudges, families int [N]) -> float [N, S, D], of every column.
PUSHES: dict[str, Callable] = {
    "nothing": lambda rng, nudges, families: np.zeros_like(nudges.of(families)),
    "nudge": _scaled(0.7, 1.3),
    "part": _scaled(0.0, 0.5),
    "noise": _noise,
    "nudge of others": _of_others,
    "one state": _one_state,
}


class Texts(NamedTuple):
    """Rows of one kind of prompt and of what is said: tokens, mask, answer [N, T], and families int [N]."""

    tokens: np.ndarray
    mask: np.ndarray
    answer: np.ndarray
    families: np.ndarray


def prompts_of(world: world_rules.World, kind: str) -> list[str]:
    """Prompts to teach on, restricted, benign, facts or harmless (the last two); no evaluation prompt is among them."""
    counts = {"restricted": RESTRICTED_ROWS, "benign": BENIGN_ROWS}
    if kind in counts:
        return world_rules.requests(world, "train", kind, counts[kind])
    facts = [question for question, _ in world_rules.facts(world, "train", FACT_ROWS)]
    return facts if kind == "facts" else prompts_of(world, "benign") + facts


def encode(chat: chats.Chat, prompts, responses) -> Texts:
    """Prompts left-padded to PROMPT_TOKENS columns, then answers with their end token, right-padded to SAID_TOKENS."""
    asked = chats.encode_prompts(chat, prompts, max_length=PROMPT_TOKENS, width=PROMPT_TOKENS)
    said = np.full((len(prompts), SAID_TOKENS), chats.pad_id(chat), np.int32)
    real = np.zeros(said.shape, bool)
    for row, turn in enumerate(chats.assistant_turns(chat, responses)):
        said[row, : len(turn)], real[row, : len(turn)] = turn, True
    nothing = np.zeros_like(asked.mask)
    return Texts(
        np.concatenate([asked.tokens, said], axis=1),
        np.concatenate([asked.mask, real], axis=1),
        np.concatenate([nothing, real], axis=1),
        np.array([family_of(prompt) for prompt in prompts]),
    )


def run(
    loaded: respond.Loaded,
    world: world_rules.World,
    lessons: tuple[Lesson, ...],
    nudges: Nudges,
    *,
    steps: int,
    learning_rate: float,
    stay: float,
    match: float,
    opponent: tuple[float, float],
    seed: int,
    base: dict | None = None,
    advance: Callable[[str], None] = lambda label: None,
) -> dict:
    """Parameters of `loaded` after `steps` batches of the lessons.

    Args:
      opponent: least and largest relative budget of lessons under "opponent", which stand last; base: what rows kept
      stay, None for the parameters of `loaded`.
    """
    texts = {
        (lesson.prompts, says): encode(
            loaded.chat, asked := prompts_of(world, lesson.prompts), [SAYS[says](world, prompt) for prompt in asked]
        )
        for lesson in lessons
        for says in (lesson.says, *(("answer",) if lesson.under == "opponent" else ()))
    }
    # b2 as in the safety phase: with AdamW's own the first, large gradients would slow all later steps.
    optimizer = make_optimizer(
        learning_rate=learning_rate, steps=steps, schedule="cosine", warmup_fraction=0.06, b2=0.98, weight_decay=0.05
    )
    base = loaded.params if base is None else base
    if not steps:
        return loaded.params
    params = jax.tree.map(lambda weight: jnp.array(weight, jnp.float32), loaded.params)
    state = optimizer.init(params)
    rng, key = np.random.default_rng([seed, 17]), jax.random.key(seed)
    for step in range(steps):
        batch = _batch(params, texts, lessons, nudges, opponent, rng, jax.random.fold_in(key, step), loaded.cfg)
        params, state, loss = teach.update(
            params, state, base, batch, cfg=loaded.cfg, optimizer=optimizer, stay=stay, match=match
        )
        advance(f"loss {float(loss):.3f}")
    return params


def _batch(params, texts, lessons, nudges, opponent, rng, key, cfg) -> teach.Batch:
    parts, free, free_state = [], np.zeros((0, PROMPT_TOKENS, cfg.embed_dim), np.float32), np.zeros(0, np.int32)
    for lesson in lessons:
        own = texts[lesson.prompts, lesson.says]
        rows = rng.integers(len(own.tokens), size=lesson.rows)
        tokens, mask, answer, families = (array[rows] for array in own)
        opposed = lesson.under == "opponent"
        push = PUSHES["nothing" if opposed else lesson.under](rng, nudges, families).astype(np.float32)
        if opposed:
            wanted = texts[lesson.prompts, "answer"]
            free_state = rng.integers(cfg.num_layers, size=lesson.rows).astype(np.int32)
            budget = rng.uniform(*opponent, lesson.rows).astype(np.float32)
            free = teach.oppose(
                params, *(array[rows] for array in wanted[:3]), free_state, budget, key, cfg=cfg, width=PROMPT_TOKENS,
                steps=OPPOSED_STEPS,
            )  # fmt: skip
        said, kept = (np.full(lesson.rows, weight, np.float32) for weight in (lesson.said, float(lesson.kept)))
        parts.append((tokens, mask, answer, push, mask, said, kept))
    tokens, mask, answer, push, where, said, kept = (np.concatenate(part) for part in zip(*parts, strict=True))
    return teach.Batch(tokens, mask, answer, push, where, free, free_state, said, kept)
