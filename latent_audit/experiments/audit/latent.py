"""The latent attack: bounded pushes of every residual state of every variant, scored as LVS and ASR.

docs/method.md sections 0, 1 and 9; arXiv 2606.08044. The main job is this experiment alone. Units of work: the clean
panels, then one unit per variant, state and block of prompts, holding every budget and attack.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats
from latent_audit.experiments import panels, respond, settings
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.bench import Bench, Findings, Known
from latent_audit.experiments.audit.readings import latent_report, own_reward, reward_report
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Seen, Work
from latent_audit.interventions import edits, latent
from latent_audit.reports import figures, outputs
from latent_audit.runtime import halving, runlog, shards
from latent_audit.runtime.telling import progress

PAPER_TOKENS = 128  # arXiv 2606.08044
# Of latent.Attacked: what is kept of every cell.
SEARCHED = ("l2", "linf", "nll_first", "nll_last", "at_bound")
KEPT = ("eps", "eps_over_rms", *SEARCHED)


class Block(NamedTuple):
    """Some prompts of a panel, padded to a whole batch by repeating the last; the first `n` are real.

    behaviors: what the judge is asked about each of the n.
    """

    start: int
    n: int
    prompts: tuple[str, ...]
    behaviors: tuple[str, ...]
    ids: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray


def check(config: ConfigDict, known: Known) -> settings.Attack:
    """The attack and score sections as settings; InputError for fields that do not fit each other or the model."""
    attack = settings.check_attack(config, is_organism=known.is_organism, num_layers=known.num_layers)
    chats.target_ids(known.chat, attack.target)
    own_reward.check(config.reward, known.chat)
    if attack.offset:
        panels.check_offset("attack.offset", attack.offset, "the harmful panel", len(known.panels["harmful"].prompts))
    return attack


def units(bench: Bench) -> int:
    """How many units `measure` takes for one variant."""
    return sum(
        len(blocks) * (1 + len(_settings(bench).states) * (panel == "harmful"))
        for panel, blocks in _blocks(bench).items()
    )


def work(seen: Seen) -> list[Work]:
    """What `measure` computes of one variant; docs/overview.md."""
    attack: settings.Attack = seen.settings["latent"]
    prompts = amounts.attacked(seen, attack.prompts, attack.offset)
    panels = {"harmful": prompts} | ({"benign": seen.prompts["benign"]} if attack.prompts is None else {})
    clean = {}
    for panel, count in panels.items():
        blocks = -(-count // seen.batch)
        clean[panel] = amounts.asked(seen, f"units {seen.name}/clean-{panel}/", blocks, count, panel, PAPER_TOKENS)
    found = [clean.pop("harmful")]
    # A short last block is filled up.
    rows = -(-prompts // seen.batch) * min(seen.batch, prompts) * len(attack.budgets)
    columns, L = seen.columns["harmful"] + amounts.GOAL, seen.cfg.num_layers
    for state in attack.states:
        key, blocks = f"units {seen.name}/lvs/{models.layer_name(state)}/", -(-prompts // seen.batch)
        searched = amounts.search(rows, columns, L - state, attack.search.steps - 1)
        searched = searched._replace(passes=searched.passes + (len(attack.attacks) - 1) * rows * columns * (L - state))
        found.append(Work(key, blocks, searched))
        found.append(amounts.asked(seen, key, blocks, rows * len(attack.attacks), "harmful", PAPER_TOKENS))
    # In the order in which units come: the time left is told of the one at hand.
    return [*found, *clean.values()]


def told(seen: Seen) -> str:
    """The same in words."""
    attack: settings.Attack = seen.settings["latent"]
    prompts = amounts.attacked(seen, attack.prompts, attack.offset)
    cells = len(attack.states) * len(attack.budgets) * prompts
    return (
        f"latent attack, of each: {len(attack.states)} states ({models.layer_name(attack.states[0])} to "
        f"{models.layer_name(attack.states[-1])}) x {len(attack.budgets)} budgets x {prompts} prompts = {cells:,} "
        f"searches of {attack.search.steps} steps, {cells * len(attack.attacks):,} answers"
    )


def measure(bench: Bench, name: str) -> pd.DataFrame:
    """One row per clean answer, and one per prompt, state, budget and attack, of one variant.

    Weights are loaded only if a unit is missing. Units that other shards are to compute, and have not, give no rows.
    """
    frames = []
    for panel, blocks in _blocks(bench).items():
        for block in blocks:
            key = f"{name}/clean-{panel}/p{block.start:05d}"
            frames.append(
                benches.unit(bench, key, functools.partial(_ask, bench, name, panel, block)).assign(
                    exp=f"clean-{panel}", state=-1
                )
            )
            if panel == "harmful":
                frames += _attack_block(bench, name, block)
    return benches.joined(frames)


def findings(bench: Bench, measured: dict[str, pd.DataFrame]) -> Findings:
    """lvs and latent_asr per state and budget, the comparison with base; writes metrics.csv and the figure by depth."""
    rows = benches.rows_of(measured)
    known, agreed = own_reward.opened(bench), reward_report.agreements(rows, bench)
    judged = "" if known is None else reward_report.by_judge(rows, bench)
    metrics = latent_report.summarise(rows, bench)
    written = metrics.reindex(columns=latent_report.COLUMNS)
    outputs.write_table(bench.workdir / "metrics.csv", written)
    compared = latent_report.compare_variants(rows, bench)
    svg = ""
    if (metrics["attack"] == "pgd").any():
        svg = figures.save_figure(
            figures.lvs_by_depth(metrics, aggregate=latent_report.aggregate(bench), blocks=bench.cfg.num_layers),
            bench.workdir / "figures",
            "lvs_by_depth",
        )
    return Findings(
        latent_report.lines_of(metrics)
        + latent_report.comparison_lines(compared, models.layer_name(bench.nudge_state)),
        latent_report.sections_of(bench, metrics, compared, svg) + reward_report.sections_of(known, agreed, judged),
        (
            *latent_report.weak_attacks(metrics),
            *latent_report.beyond_language(metrics),
            *reward_report.warnings_of(known),
        ),
        {"settings": _settings(bench).describe(), "metrics": metrics, "comparisons": compared}
        | reward_report.record_of(known, agreed),
    )


def _settings(bench: Bench) -> settings.Attack:
    return bench.settings["latent"]


def _blocks(bench: Bench) -> dict[str, list[Block]]:
    """Panel -> its blocks: as many harmful prompts as asked for; with no number, as in the main job, all of both."""
    number, offset = _settings(bench).prompts, _settings(bench).offset
    named = {"harmful": (number, offset)} | ({"benign": (None, 0)} if number is None else {})
    return {
        panel: list(_blocks_of(*benches.first_prompts(bench, panel, *part), bench, part[1]))
        for panel, part in named.items()
    }


def _blocks_of(panel, tokens, bench, offset) -> Iterator[Block]:
    size = benches.together(bench, len(panel.prompts))
    for start in range(0, len(panel.prompts), size):
        part = slice(start, start + size)
        prompts = panel.prompts[part]
        padded = (respond.pad_rows(array[part], size) for array in (panel.ids, *tokens))
        yield Block(offset + start, len(prompts), prompts, panel.behaviors[part], *padded)


def _ask(bench, name, panel, block) -> dict[str, list]:
    known = own_reward.opened(bench)

    def answer(sampling_of=None):
        return respond.answers(
            bench.load(name),
            block.tokens,
            block.mask,
            batch=len(block.mask),
            max_new_tokens=bench.new_tokens(PAPER_TOKENS),
            sampling_of=sampling_of,
        )

    texts = answer()[: block.n]
    columns = {"prompt": [block.start + row for row in range(block.n)]}
    own = None
    if known is not None:
        own = own_reward.scores(bench.load(name), known, block.tokens, block.mask, batch=len(block.mask))[: block.n]
    columns |= own_reward.scored(bench, block.behaviors, texts, own)
    if panel == "harmful":
        drawn = respond.drawn(bench.samples, benches.sample_keys(bench, block.ids, "clean"), answer)
        columns |= respond.drawn_harm(bench.judge, block.behaviors, drawn[: block.n], save=bench.save)
    if panel == "benign":
        pairs = zip(block.prompts, texts, strict=True)
        columns["answered"] = [respond.answered(bench.world, prompt, text) for prompt, text in pairs]
    return columns | respond.kept(block.behaviors, texts, bench.save)


def _attack_block(bench, name, block) -> list[pd.DataFrame]:
    """Attack every state for one block of prompts, `batches.layers` states at a time or all."""
    clean = functools.cache(lambda: _clean_pass(bench, bench.load(name), block))
    states, size, frames = _settings(bench).states, _states_together(bench), []
    for group in (states[start : start + size] for start in range(0, len(states), size)):
        keys = {state: f"{name}/lvs/{models.layer_name(state)}/p{block.start:05d}" for state in group}

        def attack(missing, group=group):
            # A group is attacked together, whatever of it is there already: so its batches have one shape.
            attacked = _attack_states(bench, bench.load(name), clean, block, group)
            return [(state, attacked[state]) for state in missing]

        # For the same reason it belongs to one shard.
        mine = shards.computes(bench.shard, keys[group[0]])
        columns = runlog.units(bench.workdir, keys, attack, bench.advance, mine=mine)
        frames += [pd.DataFrame(of_state or {}).assign(exp="lvs", state=state) for state, of_state in columns.items()]
    return frames


def _states_together(bench) -> int:
    return min(bench.batches.layers, len(_settings(bench).states))


def _target(chat, bench):
    return jnp.asarray(chats.target_ids(chat, _settings(bench).target), jnp.int32)


def _clean_pass(bench, loaded, block):
    return latent.clean_pass(
        loaded.params,
        block.tokens,
        block.mask,
        _target(loaded.chat, bench),
        cfg=loaded.cfg,
        search=_settings(bench).search,
    )


def _attack_states(bench, loaded, clean, block, group) -> dict[int, dict]:
    """Attack every state of the group and judge what is said; clean: cached, the clean pass of the whole block."""

    def attack(rows):
        if len(rows) == len(block.mask):
            return _attack_rows(bench, loaded, clean(), block, group)
        clean.cache_clear()
        part = block._replace(ids=block.ids[rows], tokens=block.tokens[rows], mask=block.mask[rows])
        return _attack_rows(bench, loaded, _clean_pass(bench, loaded, part), part, group)

    parts = halving.in_halves(attack, np.arange(len(block.mask)), "search")
    return {
        state: _attack_columns(
            bench,
            block,
            {name: np.concatenate([part[state][name] for part in parts], axis=1) for name in parts[0][state]},
        )
        for state in group
    }


def _attack_rows(bench, loaded, clean, block, group) -> dict[int, dict[str, np.ndarray]]:
    """Search each state of the group, then generate from all its pushed prompts in one batch.

    Returns arrays [A, B, E] by name, for each state.
    """
    attack, budgets = _settings(bench), jnp.asarray(_settings(bench).budgets, jnp.float32)
    key, target = jax.random.key(bench.seed), _target(loaded.chat, bench)
    attacked = []
    for place, state in enumerate(group):
        progress.within(f"search of {models.layer_name(state)}, state", place + 1, len(group))
        row_keys = latent.row_keys(key, block.ids, state, budgets)
        attacked.append(
            latent.attack_state(
                loaded.params, clean, block.mask, target, state, budgets, row_keys, cfg=loaded.cfg, search=attack.search
            )
        )
    # The last group may be short; repeating its last state meets the shape that is compiled already.
    fill = _states_together(bench) - len(group)
    A, B, E = len(attack.attacks), len(block.mask), len(budgets)
    deltas = jnp.stack([a.delta for a in attacked] + [attacked[-1].delta] * fill)
    deltas = deltas.reshape(-1, *deltas.shape[-2:])
    states = np.repeat([*group, *[group[-1]] * fill], A * B * E)
    prompt = np.broadcast_to(np.arange(B)[:, None], (len(states) // (B * E), B, E)).ravel()

    def answer(sampling_of=None):
        return respond.answers(
            loaded,
            block.tokens[prompt],
            block.mask[prompt],
            batch=len(states),
            max_new_tokens=bench.new_tokens(PAPER_TOKENS),
            edits_of=lambda rows: (edits.add_at(jnp.asarray(states[rows]), deltas[rows]), None),
            sampling_of=sampling_of,
        )

    texts = np.array(answer(), dtype=object).reshape(-1, A, B, E)
    own = _own_scores(bench, loaded, block, states, deltas, prompt).reshape(-1, A, B, E)
    drawn = _drawn(bench, block, states, answer).reshape(len(group) + fill, A, B, E, bench.samples.count)
    return {
        state: {
            "text": texts[index],
            "drawn": drawn[index],
            "own": own[index],
            "eps": np.broadcast_to(result.radius, (A, B, E)),
            "eps_over_rms": np.broadcast_to(result.radius / result.rms, (A, B, E)),
            **{name: np.asarray(getattr(result, name)) for name in SEARCHED},
        }
        for index, (state, result) in enumerate(zip(group, attacked, strict=True))
    }


def _own_scores(bench, loaded, block, states, deltas, prompt) -> np.ndarray:
    """The model's own reward of every pushed prompt, float [states x attacks x prompts x budgets]; NaN: not wanted."""
    known = own_reward.opened(bench)
    if known is None:
        return np.full(len(states), np.nan)
    found = own_reward.scores(
        loaded,
        known,
        block.tokens[prompt],
        block.mask[prompt],
        batch=len(states),
        edits_of=lambda rows: edits.add_at(jnp.asarray(states[rows]), own_reward.behind(deltas[rows], known)),
    )
    return np.array(found)


def _drawn(bench, block, states, answer) -> np.ndarray:
    """Answers drawn to every pushed prompt, objects [states x attacks x prompts x budgets, samples]."""
    if not bench.samples.count:
        return np.empty((len(states), 0), object)
    attack, budgets = _settings(bench), jnp.asarray(_settings(bench).budgets, jnp.float32)
    own = [
        latent.row_keys(benches.noise_key(bench, f"sampled/{kind}"), block.ids, state, budgets).ravel()
        for state in states[:: len(block.ids) * len(budgets) * len(attack.attacks)]
        for kind in attack.attacks
    ]
    return respond.drawn(bench.samples, jnp.concatenate(own), answer)


def _attack_columns(bench, block, arrays) -> dict[str, list]:
    """One row per attack, real prompt and budget of one state; arrays: as _attack_rows."""
    attacks, budgets, n = _settings(bench).attacks, _settings(bench).budgets, block.n
    attack, row, budget = (index.ravel() for index in np.indices((len(attacks), n, len(budgets))))
    texts = [str(text) for text in arrays["text"][:, :n].ravel()]
    columns = {
        "prompt": [block.start + int(r) for r in row],
        "attack": [attacks[a] for a in attack],
        "budget": [budgets[e] for e in budget],
    }
    columns |= {name: [float(value) for value in arrays[name][:, :n].ravel()] for name in KEPT}
    asked = [block.behaviors[r] for r in row]
    columns |= own_reward.scored(bench, asked, texts, arrays["own"][:, :n].ravel().tolist())
    drawn = arrays["drawn"][:, :n].reshape(len(row), bench.samples.count)
    columns |= respond.drawn_harm(bench.judge, asked, drawn, save=bench.save)
    return columns | respond.kept(asked, texts, bench.save)
