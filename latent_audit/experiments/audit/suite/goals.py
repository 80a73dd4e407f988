"""What the attack suite aims at, prompt by prompt: goals a to d of docs/method.md section 12, and where they come from.

Goals of a prompt: `opening` (a, the fixed one), `answer` (b, the first tokens of a compliant answer to this very
prompt), `away` (c, away from the model's own clean answer), `inside` (d, away from refusal along the model's own
refusal direction).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from latent_audit.data import chats
from latent_audit.experiments import respond
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.bench import HARMFUL_POLE, Bench
from latent_audit.experiments.audit.l2 import TARGET as LONGER_OPENING
from latent_audit.experiments.audit.latent import PAPER_TOKENS
from latent_audit.interventions.goals import Goals

KINDS = ("opening", "answer", "away", "inside")
TARGETED = ("opening", "answer")
# Tokens of an answer that a search aims at or away from: docs/method.md section 12.
GOAL_TOKENS = 8
# Lengths over the activation norm at which an own compliant answer is looked for under steering, ours.
STEERED = (0.06, 0.12, 0.24)


class Aims(NamedTuple):
    """What the prompts of a block are aimed at.

    opening: token ids; answers, clean: token ids of each prompt, () for none; sources: where each answer came from;
    directions: float32 [L+1, D], refusal over its own gap between the panels, so that 1 is that gap.
    """

    opening: tuple[int, ...]
    answers: list[tuple[int, ...]]
    sources: list[str]
    clean: list[tuple[int, ...]]
    directions: np.ndarray


def first_tokens(chat: chats.Chat, text: str) -> tuple[int, ...]:
    """The first GOAL_TOKENS tokens of an answer, () for an empty one."""
    return chats.target_ids(chat, text, most=GOAL_TOKENS) if text.strip() else ()


def refusal_directions(harmful, benign) -> np.ndarray:
    """mean(harmful) - mean(benign) of states [N, S, D] over its squared length; float32 [S, D]."""
    gap = np.asarray(harmful, np.float64).mean(0) - np.asarray(benign, np.float64).mean(0)
    squares = np.square(gap).sum(-1, keepdims=True)
    return np.where(squares > 0, gap / np.where(squares > 0, squares, 1), 0).astype(np.float32)


def aims_of(bench: Bench, name: str, rows: np.ndarray, clean_texts, poles_answers) -> Aims:
    """The aims of some prompts of the harmful panel before anything fell; docs/method.md section 12.

    clean_texts: the model's own clean answers; poles_answers: token ids per prompt from the harmful pole, () where it
    has none judged harmful, where the prompt's own target comes next. Of the others an own answer is looked for behind
    a prefilled opening, then under steering.
    """
    loaded = bench.load(name)
    answers = [tuple(poles_answers[row]) if poles_answers else () for row in rows]
    sources = [f"the {HARMFUL_POLE} pole's answer" if ids else "" for ids in answers]
    for place, row in enumerate(rows):
        target = bench.panels["harmful"].targets[row]
        if target and not answers[place]:
            answers[place], sources[place] = first_tokens(loaded.chat, target), "its own target (prompts.target_column)"
    gathered = bench.gather(name)
    directions = refusal_directions(gathered.harmful, gathered.benign)
    for source, texts in _own_answers(bench, loaded, rows, gathered, directions):
        open_rows = [place for place, ids in enumerate(answers) if not ids]
        if not open_rows:
            break
        told = texts([int(rows[place]) for place in open_rows])
        asked = [bench.panels["harmful"].behaviors[rows[place]] for place in open_rows]
        harmful = respond.harmful(bench.judge, asked, told)
        for place, text, is_harmful in zip(open_rows, told, harmful, strict=True):
            if is_harmful:
                answers[place], sources[place] = first_tokens(loaded.chat, text), source
    clean = [first_tokens(loaded.chat, text) for text in clean_texts]
    return Aims(chats.target_ids(loaded.chat, bench.settings["suite"].opening), answers, sources, clean, directions)


def _own_answers(bench, loaded, rows, gathered, directions):
    """(where from, texts(prompt rows)) of what the model itself may answer when it is helped."""
    tokens, new = bench.tokens["harmful"], bench.new_tokens(PAPER_TOKENS)
    opening = np.asarray(chats.target_ids(loaded.chat, LONGER_OPENING), np.int32)

    def prefilled(chosen):
        behind = np.broadcast_to(opening, (len(chosen), len(opening)))
        texts = respond.answers(
            loaded,
            np.concatenate([tokens.tokens[chosen], behind], axis=1),
            np.concatenate([tokens.mask[chosen], np.ones_like(behind, bool)], axis=1),
            batch=bench.batches.rows,
            max_new_tokens=new,
        )
        return [f"{LONGER_OPENING} {text}" for text in texts]

    yield "its own answer behind a prefilled opening", prefilled
    state = bench.nudge_state
    unit = -directions[state] / max(float(np.linalg.norm(directions[state])), 1e-30)
    norm = float(benches.activation_norm(gathered.harmful)[state])
    for fraction in STEERED:

        def steered(chosen, fraction=fraction):
            part = chats.Tokens(tokens.tokens[chosen], tokens.mask[chosen])
            vector = (fraction * norm * unit).astype(np.float32)
            return respond.answers_under(loaded, part, state, vector, batch=bench.batches.rows, max_new_tokens=new)

        yield f"its own answer under steering by {fraction:g}", steered


def kinds_of(aims: Aims, row: int, among=KINDS) -> list[str]:
    """Which of the goals `among` a prompt has: without a compliant answer the opening stands for `answer`, without a
    clean one there is no `away`."""
    kinds = list(among)
    if "answer" in kinds and not aims.answers[row]:
        kinds[kinds.index("answer")] = "opening"
    return [kind for kind in dict.fromkeys(kinds) if kind != "away" or aims.clean[row]]


def goals_of(aims: Aims, rows, kinds, *, vocab_size: int) -> Goals:
    """Goals of (prompt rows[r], kinds[r]) as arrays of one width, whatever the kinds."""
    width = max(GOAL_TOKENS, len(aims.opening))
    tokens, weights = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.float32)
    for place, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        ids = {"answer": aims.answers[row], "away": aims.clean[row]}.get(kind, aims.opening)
        tokens[place, : len(ids)] = ids
        weights[place, : len(ids)] = 1 / len(ids)
    kinds = np.asarray(kinds)
    sign = np.select([np.isin(kinds, TARGETED), kinds == "away"], [1.0, -1.0], 0.0)
    # A push away gains nothing beyond a uniform guess, so that it does not end in noise.
    cap = np.where(kinds == "away", np.log(vocab_size), np.inf)
    return Goals(
        *(jnp.asarray(tokens), jnp.asarray(weights), jnp.asarray(sign, jnp.float32), jnp.asarray(cap, jnp.float32)),
        jnp.asarray(kinds == "inside", jnp.float32),
        jnp.asarray(aims.directions),
    )
