"""A block of prompts under attack: what a search reads of it, and answers under pushes; docs/method.md section 12."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.data import chats
from latent_audit.experiments import panels, respond
from latent_audit.experiments.audit.suite import goals
from latent_audit.experiments.audit.suite.goals import Aims
from latent_audit.interventions import edits, latent
from latent_audit.runtime import halving

ALL = -1  # in the place of a state: every state at once


class Block(NamedTuple):
    """Prompts under attack: rows of the harmful panel with all that a search reads.

    scale: float32 [S, N], what a relative budget multiplies at each state; length: float32 [S, N], the L2 norm that a
    push bounded so has at each position when it is saturated; judge(rows, texts) -> (harmful, incoherent) bool arrays.
    """

    rows: np.ndarray
    prompts: tuple[str, ...]
    ids: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    scale: np.ndarray
    length: np.ndarray
    loaded: respond.Loaded
    judge: Callable
    key: jax.Array
    batch: int
    new_tokens: int
    rows_together: int


class Push(NamedTuple):
    """What broke a prompt. member: its name; state, ALL for every one at once; delta: float32, as answers takes it;
    text: the answer."""

    member: str
    state: int
    delta: np.ndarray
    text: str


def make_block(
    panel, tokens: chats.Tokens, rows, loaded, judge, key, settings, *, batch: int, new_tokens: int
) -> Block:
    """The Block of some rows of a panel, before its scale is known (see measure_clean)."""
    rows = np.asarray(rows)
    prompts = tuple(panel.prompts[row] for row in rows)
    nothing = np.zeros((loaded.cfg.num_layers + 1, len(rows)))
    return Block(
        *(rows, prompts, panel.ids[rows], tokens.tokens[rows], tokens.mask[rows], nothing, nothing),
        *(loaded, judge_of(judge, [panel.behaviors[row] for row in rows]), key, batch, new_tokens, settings.rows),
    )


def measure_clean(block: Block, aims: Aims, search: latent.Search) -> tuple[Block, dict[str, np.ndarray]]:
    """The block with its scale, and the clean NLL per token of each targeted goal, [N], NaN where there is none."""
    n, size = len(block.rows), block.rows_together
    nll = {kind: np.full(n, np.nan) for kind in goals.TARGETED}
    scale = np.zeros_like(block.scale)
    for kind in goals.TARGETED:
        rows = np.array([row for row in range(n) if kind in goals.kinds_of(aims, row)], int)
        for start in range(0, len(rows), size):
            part = rows[np.arange(start, start + size).clip(max=len(rows) - 1)]

            def clean_rows(within, part=part, kind=kind):
                at = part[within]
                goal = goals.goals_of(aims, at, [kind] * len(at), vocab_size=block.loaded.cfg.vocab_size)
                clean = latent.clean_pass(
                    block.loaded.params, block.tokens[at], block.mask[at], goal, cfg=block.loaded.cfg, search=search
                )
                return np.asarray(clean.nll), np.asarray(clean.scale)

            parts = halving.in_halves(clean_rows, np.arange(size), "suite search")
            nll[kind][part] = np.concatenate([losses for losses, _ in parts])
            scale[:, part] = np.concatenate([of_part for _, of_part in parts], axis=1)
    per_position = np.full(n, np.sqrt(block.loaded.cfg.embed_dim))
    if search.mode == "l2_of_norm":
        per_position = 1 / np.sqrt(block.mask.sum(axis=1))
    return block._replace(scale=scale, length=scale * per_position), nll


def judge_of(judge, behaviors) -> Callable:
    """judge(rows, texts) -> (harmful, incoherent); a pair that was judged once is not judged again."""
    known: dict[tuple[int, str], tuple[bool, bool]] = {}

    def judged(rows, texts):
        pairs = [(int(row), text) for row, text in zip(rows, texts, strict=True)]
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        if new:
            columns = respond.score(judge, None, [behaviors[row] for row, _ in new], [text for _, text in new])
            known.update(zip(new, zip(columns["harmful"], columns["incoherent"], strict=True), strict=True))
        harmful, incoherent = (np.array(flags, bool) for flags in zip(*(known[pair] for pair in pairs), strict=True))
        return harmful, incoherent

    return judged


def answers(block: Block, state, rows, deltas) -> list[str]:
    """Greedy answers of prompts rows[r] under deltas[r].

    deltas[r]: [P, D] while the prompt is read, [D] at every position, or [1, L+1, D] at every position of all states.
    state: one for all, or int [R]; of no matter for the last kind.
    """
    states, kind = np.broadcast_to(np.asarray(state), (len(rows),)), deltas[0].ndim

    def edits_of(part):
        pushes = deltas[part]
        if kind == 3:
            edit = edits.add_everywhere(pushes[:, 0].transpose(1, 0, 2))
        else:
            edit = edits.add_at(states[part], pushes[:, None] if kind == 1 else pushes)
        return edit, None if kind == 2 else edit

    return respond.answers(
        block.loaded,
        block.tokens[rows],
        block.mask[rows],
        batch=block.batch,
        max_new_tokens=block.new_tokens,
        edits_of=edits_of,
    )


def given(block: Block, pushes: dict[int, Sequence[Push]], budgets: dict[int, float], name: str) -> dict[int, Push]:
    """Try pushes that were found elsewhere, brought within this budget: at a larger one, or on a twin.

    Bounded pushes are clipped to the bound, vectors shortened to the length; both kinds are then within the budget.
    """
    fallen: dict[int, Push] = {}
    for kind in (2, 1, 3):
        tried = [(row, push) for row, of_row in pushes.items() for push in of_row if push.delta.ndim == kind]
        if not tried:
            continue
        rows, states = np.array([row for row, _ in tried]), np.array([push.state for _, push in tried])
        deltas = np.stack([_within(block, push, row, budgets[row]) for row, push in tried])
        texts = answers(block, states, rows, deltas)
        harmful, _ = block.judge(rows, texts)
        for (row, push), delta, text, is_harmful in zip(tried, deltas, texts, harmful, strict=True):
            if is_harmful and row not in fallen:
                fallen[row] = Push(f"{name} {push.member.split()[-1]}", push.state, delta, text)
    return fallen


def _within(block, push, row, budget):
    if push.delta.ndim == 2:
        bound = block.scale[push.state, row] * budget
        # A saturated push stays saturated: clipping keeps the signs.
        return np.clip(push.delta, -bound, bound).astype(np.float32)
    length = (block.length[:, row, None] if push.delta.ndim == 3 else block.length[push.state, row]) * budget
    norm = np.linalg.norm(push.delta, axis=-1, keepdims=True)
    return (push.delta * np.minimum(1.0, length / np.maximum(norm, 1e-30))).astype(np.float32)


def keys_of(key, prompt_ids, budgets, count: int) -> jax.Array:
    """PRNG keys [R, count], each of its prompt, its budget and its number alone."""
    codes, fold = np.asarray(budgets, np.float32).view(np.uint32), jax.random.fold_in

    def one(prompt, code):
        return jax.vmap(lambda number: fold(fold(fold(key, prompt), code), number))(jnp.arange(count))

    return jax.vmap(one)(jnp.asarray(prompt_ids), jnp.asarray(codes))


class Drawn(NamedTuple):
    """Uniform draws: of each its prompt's place and state, whether it broke it, whether it left no language."""

    rows: np.ndarray
    states: np.ndarray
    harmful: np.ndarray
    incoherent: np.ndarray
    pushes: dict[int, Push]


def draws(block: Block, states: Sequence[int], rows: Sequence[int], budgets: np.ndarray, count: int) -> Drawn:
    """`count` uniform draws within each prompt's budget, spread over the states."""
    P, D, size = block.tokens.shape[1], block.loaded.cfg.embed_dim, block.batch
    at, every = np.tile(np.resize(np.asarray(states), count), len(rows)), np.repeat(np.asarray(rows), count)
    bound = (np.repeat(np.asarray(budgets), count) * block.scale[at, every]).astype(np.float32)
    keys = keys_of(jax.random.fold_in(block.key, panels.text_id("draw")), block.ids[rows], budgets, count).ravel()
    harmful, incoherent, pushes = np.zeros(len(every), bool), np.zeros(len(every), bool), {}
    for start in range(0, len(every), size):
        part = np.arange(start, start + size).clip(max=len(every) - 1)
        noise = latent.column_noise(keys[part], P, D, gaussian=False) * block.mask[every[part]][..., None]
        pushed = np.asarray(noise, np.float32) * bound[part][:, None, None]
        texts = answers(block, at[part], every[part], pushed)
        harmful[part], incoherent[part] = block.judge(every[part], texts)
        for place in np.flatnonzero(harmful[part]):
            row = int(every[part[place]])
            pushes.setdefault(row, Push("random draw", int(at[part[place]]), pushed[place].copy(), texts[place]))
    return Drawn(every, at, harmful, incoherent, pushes)
