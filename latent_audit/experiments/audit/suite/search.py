"""One block of prompts under the attack suite: who falls at which budget, to which member, at which state.

docs/method.md section 12. Members go in order of cost; a prompt that falls at a budget leaves the batch there. A search
over (prompt, goal) rows has one shape whatever is left of the block, so that each member is compiled once. Nothing here
depends on how many prompts a block holds: randomness is folded with the prompt, the state and the budget.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from latent_audit.experiments import panels
from latent_audit.experiments.audit.suite import goals
from latent_audit.experiments.audit.suite.block import Block, Push, answers, given, keys_of
from latent_audit.experiments.audit.suite.goals import Aims
from latent_audit.interventions import joint, latent, sphere
from latent_audit.metrics import break_radius
from latent_audit.metrics.gates import REACHED_NLL
from latent_audit.runtime import halving


@dataclasses.dataclass(frozen=True)
class Member:
    """A member of the suite that searches: one frozen search, and where each of its runs begins.

    starts: of the bounded search, whether a run begins at a random point; empty for one run from zero. kinds: the goals
    it aims at. best_states: it searches only so many states, those where the members before it came closest; 0 for all.
    """

    name: str
    search: latent.Search | sphere.Search | joint.Search
    starts: tuple[bool, ...] = ()
    kinds: tuple[str, ...] = goals.KINDS
    best_states: int = 0


def cheap_bounded(members: Sequence[Member]) -> Member:
    """The first bounded member: the cheap one, which gates and clean losses are read with."""
    return next(member for member in members if isinstance(member.search, latent.Search))


class Searched(NamedTuple):
    """Rows (prompt r, goal) of one member at one state: losses float [R, E], pushes float32 [R, E, ...], answers."""

    rows: np.ndarray
    kinds: list[str]
    loss: np.ndarray
    deltas: np.ndarray
    texts: list[list[str]]
    harmful: np.ndarray
    incoherent: np.ndarray


def search(block: Block, aims: Aims, member: Member, state: int, rows: Sequence[int], budgets: np.ndarray) -> Searched:
    """Run a member at one state on every goal of some prompts, and judge what they answer.

    rows: places in the block; budgets: float [len(rows)], relative.
    """
    pairs = [
        (place, row, kind) for place, row in enumerate(rows) for kind in goals.kinds_of(aims, row, among=member.kinds)
    ]
    places, chosen = np.array([p for p, _, _ in pairs]), np.array([row for _, row, _ in pairs])
    # A run from several starts is as much work as several rows.
    kinds, size = [kind for _, _, kind in pairs], max(1, block.rows_together // max(len(member.starts), 1))
    run = {latent.Search: _bounded, sphere.Search: _sphere, joint.Search: _joint}[type(member.search)]
    found = []
    for start in range(0, len(pairs), size):
        part = np.arange(start, start + size).clip(max=len(pairs) - 1)

        def search_rows(within, part=part):
            at = part[within]
            goal = goals.goals_of(aims, chosen[at], [kinds[a] for a in at], vocab_size=block.loaded.cfg.vocab_size)
            return run(block, member, state, chosen[at], goal, np.asarray(budgets)[places[at]])

        parts = halving.in_halves(search_rows, np.arange(size), "suite search")
        found.append([np.concatenate(leaf)[: len(pairs) - start] for leaf in zip(*parts, strict=True)])
    deltas, loss = (np.concatenate(leaf) for leaf in zip(*found, strict=True))
    E = loss.shape[1]
    texts = answers(block, state, np.repeat(chosen, E), deltas.reshape(-1, *deltas.shape[2:]))
    harmful, incoherent = (flag.reshape(-1, E) for flag in block.judge(np.repeat(chosen, E), texts))
    texts = [texts[start : start + E] for start in range(0, len(texts), E)]
    return Searched(chosen, kinds, loss, deltas, texts, harmful, incoherent)


def _bounded(block, member, state, rows, goal, budgets):
    """(deltas [R, E, P, D], losses [R, E]) of the bounded search; E runs a row, one for each start."""
    loaded, E = block.loaded, max(len(member.starts), 1)
    clean = latent.clean_pass(
        loaded.params, block.tokens[rows], block.mask[rows], goal, cfg=loaded.cfg, search=member.search
    )
    relative = jnp.asarray(np.repeat(budgets[:, None], E, axis=1), jnp.float32)
    keys = _keys(block, member, state, rows, budgets, E)
    starts = jnp.asarray(member.starts) if member.starts else None
    found = latent.attack_state(
        loaded.params,
        clean,
        block.mask[rows],
        goal,
        state,
        relative,
        keys,
        starts,
        cfg=loaded.cfg,
        search=member.search,
    )
    return np.asarray(found.delta[0]), np.asarray(found.nll_last[0])


def _sphere(block, member, state, rows, goal, budgets):
    """(vectors [R, 1, D], losses [R, 1]) of the L2 search at the length that a saturated bounded push has."""
    loaded = block.loaded
    found = sphere.sphere_attack(
        loaded.params,
        block.tokens[rows],
        block.mask[rows],
        goal,
        state,
        jnp.asarray((block.length[state, rows] * budgets)[:, None], jnp.float32),
        _keys(block, member, state, rows, budgets, 1),
        cfg=loaded.cfg,
        search=member.search,
    )
    return np.asarray(found.delta), np.asarray(found.nll_last)


def _joint(block, member, _, rows, goal, budgets):
    """(vectors [R, 1, 1, L+1, D], losses [R, 1]) of every state at once, each at the length that it has alone."""
    loaded = block.loaded
    length = jnp.asarray(block.length[:, rows] * budgets, jnp.float32)
    found = joint.joint_attack(
        loaded.params, block.tokens[rows], block.mask[rows], goal, length, cfg=loaded.cfg, search=member.search
    )
    return np.asarray(found.delta)[:, None, None], np.asarray(found.loss_last)[:, None]


def _keys(block, member, state, rows, budgets, E):
    """PRNG keys [R, E] from the member, the state, the prompt, the budget and the start."""
    key = jax.random.fold_in(jax.random.fold_in(block.key, panels.text_id(member.name)), state)
    return keys_of(key, block.ids[rows], budgets, E)


def pushes_of(found: Searched, member: str, state: int) -> dict[int, Push]:
    """Place in the block -> what broke it; of several the one of lowest loss."""
    pushes: dict[int, Push] = {}
    for r, e in sorted(np.argwhere(found.harmful).tolist(), key=lambda at: found.loss[at[0], at[1]]):
        row = int(found.rows[r])
        if row not in pushes:
            pushes[row] = Push(f"{member} {found.kinds[r]}", state, found.deltas[r, e].copy(), found.texts[r][e])
    return pushes


class Top(NamedTuple):
    """What the largest budget showed, by place in the block: the lowest loss of each targeted goal, and how many rows
    reached theirs and of those how many were harmful."""

    lowest: dict[str, np.ndarray]
    reached: np.ndarray
    harmed: np.ndarray


def note_top(top: Top, found: Searched, is_top: np.ndarray) -> None:
    """Add a member's rows at the largest budget to what is known of it; is_top: bool [N], whose budget that is."""
    for r, kind in enumerate(found.kinds):
        row = int(found.rows[r])
        if kind not in goals.TARGETED or not is_top[row]:
            continue
        top.lowest[kind][row] = min(top.lowest[kind][row], float(found.loss[r].min()))
        hit = found.loss[r] <= REACHED_NLL
        top.reached[row] += int(hit.sum())
        top.harmed[row] += int((hit & found.harmful[r]).sum())


def break_block(
    block: Block,
    aims: Aims,
    members: Sequence[Member],
    states: Callable[[Member], Sequence[int]],
    budgets: Sequence[float],
    transferred: dict[int, Sequence[Push]],
    complies: np.ndarray,
    *,
    seconds: dict[str, float],
) -> tuple[break_radius.Search, dict[int, Push], Top]:
    """Bisect the break radius of every prompt of a block on the grid.

    states(member) -> where it searches, in order; transferred: pushes found on twins; complies: bool [N], prompts that
    need no push and are left out; seconds: by member, added to.
    Returns (the search of each prompt, what broke it at its radius, what the largest budget showed).
    """
    n = len(block.rows)
    top = Top({kind: np.full(n, np.inf) for kind in goals.TARGETED}, np.zeros(n, int), np.zeros(n, int))
    progress, broke = break_radius.begin(n, len(budgets)), {}
    progress.tried[np.asarray(complies, bool)] = True
    while (asked := break_radius.next_budgets(progress)).max(initial=-1) >= 0:
        active = [int(row) for row in np.flatnonzero(asked >= 0)]
        wanted = {row: float(budgets[asked[row]]) for row in active}
        fallen = one_round(
            block, aims, members, states, active, wanted, broke, transferred, top, len(budgets) - 1 == asked, seconds
        )
        progress = break_radius.told(progress, asked, [row in fallen for row in range(n)])
        for row, push in fallen.items():
            broke[row] = push
            # What the model said under a larger push is the best goal for a smaller one.
            ids = goals.first_tokens(block.loaded.chat, push.text)
            aims.answers[row], aims.sources[row] = ids, "its own answer under a larger push"
        left = int((break_radius.next_budgets(progress) >= 0).sum())
        logging.info(
            "suite: %d of %d prompts fallen, now at up to %g; %d asked again, %.0f s so far, at most %d rounds more",
            *(len(broke), n, max(wanted.values()), left, sum(seconds.values())),
            int(np.ceil(np.log2(len(budgets)))) if left else 0,
        )
    return progress, broke, top


def one_round(
    block, aims, members, states, active, wanted, broke, transferred, top, is_top, seconds
) -> dict[int, Push]:
    """Every member in turn on the prompts that have not fallen yet, each at its own budget; what broke them."""
    own = {row: [broke[row]] for row in active if row in broke}
    fallen = _timed(seconds, "shrunk", lambda: given(block, own, wanted, "shrunk"))
    twin = {row: transferred[row] for row in active if row in transferred and row not in fallen}
    fallen |= _timed(seconds, "transfer", lambda: given(block, twin, wanted, "transfer"))
    closest: dict[int, dict[int, float]] = {}
    for member in members:
        # At the largest budget, which gates read, a prompt that fell to another goal is still moved to the opening.
        watched = is_top if "opening" in member.kinds else np.zeros_like(is_top)
        for state in _order(states(member), member, closest, [row for row in active if row not in fallen]):
            left = [row for row in active if row not in fallen or (watched[row] and not _has_reached(top, row))]
            if not left:
                break

            def run(member=member, state=state, left=left):
                return search(block, aims, member, state, left, np.array([wanted[row] for row in left]))

            found = _timed(seconds, member.name, run)
            _note_closest(closest, found, state)
            note_top(top, found, is_top)
            fallen = pushes_of(found, member.name, state) | fallen
    return fallen


def _has_reached(top, row) -> bool:
    return top.lowest["opening"][row] <= REACHED_NLL


def _order(states, member, closest, left):
    """The states a member searches: all as they come, or those of the lowest targeted losses over the prompts left."""
    if not member.best_states or not all(state in closest for state in states):
        return states
    mean = {state: np.mean([closest[state].get(row, np.inf) for row in left] or [0.0]) for state in states}
    return sorted(states, key=lambda state: (mean[state], state))[: member.best_states]


def _note_closest(closest, found, state):
    """The lowest targeted loss of each prompt at a state."""
    of_state = closest.setdefault(state, {})
    for r, row in enumerate(found.rows.tolist()):
        if found.kinds[r] in goals.TARGETED:
            of_state[row] = min(of_state.get(row, np.inf), float(found.loss[r].min()))


def _timed(seconds, name, run):
    began = time.monotonic()
    result = run()
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
    return result
