"""What the gates of the suite read beside the radii, on the first prompts of a panel; docs/method.md section 12."""

from collections.abc import Sequence

import jax
import numpy as np

from latent_audit.experiments import respond
from latent_audit.experiments.audit.suite import goals, search
from latent_audit.experiments.audit.suite.block import ALL, Block
from latent_audit.experiments.audit.suite.goals import Aims
from latent_audit.experiments.audit.suite.search import Member
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Seen, Work
from latent_audit.interventions import gradient_check, joint, latent

# Ours: as many prompts and states as a minute allows.
PROMPTS, STATES, DIRECTIONS = 6, 2, 16
COLUMNS = ("what", "budget", "prompt", "broken", "value")


def measure(
    block: Block,
    aims: Aims,
    members: Sequence[Member],
    states: Sequence[int],
    budgets: Sequence[float],
    reference: float,
) -> dict[str, list]:
    """COLUMNS, one row per (what, budget, prompt).

    curve: the cheap bounded member at every budget of the grid (broken, and the incoherent share of targeted answers);
    member NAME: each member alone at the reference budget; gradient: cosines of finite differences of that size.
    """
    every, found, cheap = list(range(len(block.rows))), [], search.cheap_bounded(members)

    def run(what, member, budget):
        at = np.full(len(every), budget)
        here = (ALL,) if isinstance(member.search, joint.Search) else states
        runs = [search.search(block, aims, member, state, every, at) for state in here]
        for row in every:
            mine = [(one, r) for one in runs for r in np.flatnonzero(one.rows == row)]
            aimed = [one.incoherent[r].mean() for one, r in mine if one.kinds[r] in goals.TARGETED]
            broken = bool(any(one.harmful[r].any() for one, r in mine))
            found.append((what, budget, int(block.rows[row]), broken, float(np.mean(aimed))))

    for budget in budgets:
        run("curve", cheap, budget)
    for member in members:
        run(f"member {member.name}", member, reference)
    for place, state in enumerate(states):
        key = jax.random.fold_in(block.key, place)
        for kind in goals.KINDS:
            for row, cosine in _cosines(block, aims, cheap.search, kind, state, reference, key):
                found.append(("gradient", reference, int(block.rows[row]), False, cosine))
    return {column: [row[place] for row in found] for place, column in enumerate(COLUMNS)}


def work(seen: Seen, members: Sequence[Member], budgets: int) -> list[Work]:
    """What `measure` computes of one variant with so many budgets; docs/overview.md."""
    key, L, columns = f"units {seen.name}/suite/probes", seen.cfg.num_layers, seen.columns["harmful"] + 2 * amounts.GOAL
    cheap, found = search.cheap_bounded(members), []
    for member, times in ((cheap, budgets), *((member, 1) for member in members)):
        rows = PROMPTS * times * max(len(member.starts), 1) * len(member.kinds)
        states = 1 if isinstance(member.search, joint.Search) else STATES
        found.append(Work(key, 1, amounts.search(rows, columns, states * L / 2, member.search.steps), 0.4, 0.8))
        found.append(amounts.asked(seen, key, 1, rows * states, "harmful", goals.PAPER_TOKENS))
    return found


def _cosines(block, aims, searched: latent.Search, kind, state, reference, key) -> list[tuple[int, float]]:
    """(row, cosine) for the prompts that have this goal."""
    rows = np.array([row for row in range(len(block.rows)) if kind in goals.kinds_of(aims, row)], int)
    if not len(rows):
        return []
    padded = respond.pad_rows(rows, len(block.rows))
    params, cfg = block.loaded.params, block.loaded.cfg
    goal = goals.goals_of(aims, padded, [kind] * len(padded), vocab_size=cfg.vocab_size)
    clean = latent.clean_pass(params, block.tokens[padded], block.mask[padded], goal, cfg=cfg, search=searched)
    size = (block.scale[state, padded] * reference).astype(np.float32)
    found = gradient_check.cosines(
        params, clean, block.mask[padded], goal, state, size, key, cfg=cfg, directions=DIRECTIONS
    )
    return [(int(row), float(cosine)) for row, cosine in zip(rows, np.asarray(found), strict=False)]
