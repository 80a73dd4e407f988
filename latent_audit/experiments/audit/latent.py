"""The main job: bounded attacks on every residual state of every variant, scored as LVS and ASR.

docs/method.md sections 0, 1 and 9; arXiv 2606.08044. Units of work: the clean panels, then one unit per variant,
state and block of prompts, holding every budget and attack.
"""

import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats
from latent_audit.experiments import respond, setup
from latent_audit.experiments.audit import latent_report
from latent_audit.experiments.organisms import export
from latent_audit.experiments.settings import Settings, check_attack, check_batches
from latent_audit.interventions import edits, latent
from latent_audit.judges import Judge, Reward
from latent_audit.runtime import halving, runlog, shards

# Of latent.Attacked: what is kept of every cell.
SEARCHED = ("l2", "linf", "nll_first", "nll_last", "at_bound")


class Job(NamedTuple):
    """What every unit of a run shares; max_new_tokens: of every response."""

    config: ConfigDict
    workdir: pathlib.Path
    settings: Settings
    subject: setup.Subject
    judge: Judge
    reward: Reward
    max_new_tokens: int


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Audit every variant and write metrics.csv, report.json, report.html and figures/ to `workdir`."""
    is_organism = not config.model.path
    panels = setup.make_panels(config, is_organism=is_organism)
    judge, reward = setup.make_judge_and_reward(config, is_organism=is_organism)
    check_batches(config)
    settings = check_attack(config, is_organism=is_organism, num_layers=setup.count_layers(config))
    subject = setup.make_subject(config, workdir)
    inputs = setup.describe_inputs(subject, panels, judge, reward, config)
    runlog.pin(workdir / "inputs.json", inputs)
    setup.warn_of_fallbacks(judge, reward)
    job = Job(config, workdir, settings, subject, judge, reward, config.generation.max_new_tokens)
    # Every variant's prompts are tokenised before the first is attacked: a prompt too long for one stops the run here.
    encoded = {variant.name: setup.encode_panels(variant, panels, config) for variant in subject.variants}

    blocks = sum(-(-len(panel.prompts) // config.prompt_batch) for panel in panels)
    attacked = -(-len(panels[0].prompts) // config.prompt_batch) * len(settings.states)
    with runlog.progress(len(subject.variants) * (blocks + attacked), "units") as meter:
        units = [
            unit for variant in subject.variants for unit in audit_variant(job, variant, encoded[variant.name], meter)
        ]
    if not shards.is_complete(config.get("shard", ""), meter):
        return
    rows = pd.concat(units, ignore_index=True)
    latent_report.write(job, inputs, rows)


def audit_variant(job: Job, variant, encoded, meter, *, loaded=None) -> list[pd.DataFrame]:
    """All units of one variant, read back or computed; the weights are loaded only if something is missing.

    Units that other shards are to compute, and have not, are frames without rows.

    Args:
      encoded: (panel, tokens) pairs, the panel named harmful being attacked; meter: has advance, as runlog.Progress.
      loaded: loaded() -> respond.Loaded, or None to load the variant here.
    """
    loaded = loaded or functools.cache(lambda: setup.load_variant(variant, job.config))
    found = []
    for panel, tokens in encoded:
        for block in _blocks(panel, tokens, job.config.prompt_batch):
            key = f"{variant.name}/clean-{panel.name}/p{block.start:05d}"
            columns = runlog.unit(
                job.workdir,
                key,
                functools.partial(_clean_unit, job, loaded, panel, block),
                meter.advance,
                mine=shards.computes(job.config.get("shard", ""), key),
            )
            found.append(_frame(columns, variant, f"clean-{panel.name}"))
            if panel.name == "harmful":
                found += _attack_block(job, variant, loaded, block, meter)
    return found


class Block(NamedTuple):
    """Some prompts of a panel, padded to prompt_batch rows by repeating the last; the first `n` are real."""

    start: int
    n: int
    prompts: tuple[str, ...]
    ids: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray


def _blocks(panel, encoded, size):
    for start in range(0, len(panel.prompts), size):
        part = slice(start, start + size)
        prompts = panel.prompts[part]
        padded = (respond.pad_rows(array[part], size) for array in (panel.ids, encoded.tokens, encoded.mask))
        yield Block(start, len(prompts), prompts, *padded)


def _frame(columns, variant, exp, state=None):
    frame = pd.DataFrame(columns or {})
    return frame.assign(variant=variant.name, exp=exp, state=-1 if state is None else state)


def _clean_unit(job, loaded, panel, block):
    texts = respond.answers(
        loaded(), block.tokens, block.mask, batch=len(block.mask), max_new_tokens=job.max_new_tokens
    )[: block.n]
    columns = {"prompt": [block.start + row for row in range(block.n)]}
    columns |= respond.score(job.judge, job.reward, block.prompts, texts)
    if panel.name == "benign":
        columns["answered"] = [
            export.answered(job.subject.world, prompt, text) for prompt, text in zip(block.prompts, texts, strict=True)
        ]
    return columns | _saved(job, texts)


def _saved(job, texts):
    return {"response": list(texts)} if job.config.generation.save else {}


def _attack_block(job, variant, loaded, block, meter):
    """Attack every state for one block of prompts, `layer_batch` states at a time."""
    clean = functools.cache(lambda: _clean_pass(job, loaded(), block))
    found = []
    for group in _groups(job.settings.states, job.config.layer_batch):
        keys = {state: f"{variant.name}/lvs/{models.layer_name(state)}/p{block.start:05d}" for state in group}
        units = {state: runlog.load_unit(job.workdir, key) for state, key in keys.items()}
        reused = all(unit is not None for unit in units.values())
        # A group is attacked together, so it belongs to one shard.
        if not reused and shards.computes(job.config.get("shard", ""), keys[group[0]]):
            units = _attack_states(job, loaded(), clean, block, group)
            for state, columns in units.items():
                runlog.save_unit(job.workdir, keys[state], columns)
        for state, columns in units.items():
            meter.advance(keys[state], reused=reused, missing=columns is None)
        found += [_frame(columns, variant, "lvs", state) for state, columns in units.items()]
    return found


def _groups(states, size):
    return [states[start : start + size] for start in range(0, len(states), size)]


def _target(chat, job):
    return jnp.asarray(chats.target_ids(chat, job.settings.target), jnp.int32)


def _clean_pass(job, loaded, block):
    return latent.clean_pass(
        loaded.params, block.tokens, block.mask, _target(loaded.chat, job), cfg=loaded.cfg, search=_search(job.settings)
    )


def _search(settings):
    return latent.Search(
        mode=settings.mode,
        skip_first=settings.skip_first,
        steps=settings.steps,
        step_fraction=settings.step_fraction,
        controls=len(settings.attacks) > 1,
    )


def _attack_states(job, loaded, clean, block, group) -> dict[int, dict]:
    """Attack every state of the group and judge what is said; clean: cached, the clean pass of the whole block."""

    def attack(rows):
        if len(rows) == len(block.mask):
            return _attack_rows(job, loaded, clean(), block, group)
        clean.cache_clear()
        part = block._replace(ids=block.ids[rows], tokens=block.tokens[rows], mask=block.mask[rows])
        return _attack_rows(job, loaded, _clean_pass(job, loaded, part), part, group)

    parts = halving.in_halves(attack, np.arange(len(block.mask)), "search")
    return {
        state: _attack_columns(
            job,
            block,
            {name: np.concatenate([part[state][name] for part in parts], axis=1) for name in parts[0][state]},
        )
        for state in group
    }


def _attack_rows(job, loaded, clean, block, group) -> dict[int, dict[str, np.ndarray]]:
    """Search each state of the group, then generate from all its perturbed prompts in one batch.

    Returns arrays [A, B, E] by name, for each state.
    """
    settings, budgets = job.settings, jnp.asarray(job.settings.budgets, jnp.float32)
    key = jax.random.key(job.config.seed)
    attacked = []
    for state in group:
        row_keys = latent.row_keys(key, block.ids, state, budgets)
        attacked.append(
            latent.attack_state(
                loaded.params,
                clean,
                block.mask,
                _target(loaded.chat, job),
                state,
                budgets,
                row_keys,
                cfg=loaded.cfg,
                search=_search(settings),
            )
        )
    # The last group may be short; repeating its last state meets the shape that is compiled already.
    fill = job.config.layer_batch - len(group)
    A, B, E = len(settings.attacks), len(block.mask), len(budgets)
    deltas = jnp.stack([a.delta for a in attacked] + [attacked[-1].delta] * fill)
    deltas = deltas.reshape(-1, *deltas.shape[-2:])
    states = np.repeat([*group, *[group[-1]] * fill], A * B * E)
    prompt = np.broadcast_to(np.arange(B)[:, None], (len(states) // (B * E), B, E)).ravel()
    texts = respond.answers(
        loaded,
        block.tokens[prompt],
        block.mask[prompt],
        batch=len(states),
        max_new_tokens=job.max_new_tokens,
        edits_of=lambda rows: (edits.add_at(jnp.asarray(states[rows]), deltas[rows]), None),
    )
    texts = np.array(texts, dtype=object).reshape(-1, A, B, E)
    return {
        state: {
            "text": texts[index],
            "eps": np.broadcast_to(result.radius, (A, B, E)),
            **{name: np.asarray(getattr(result, name)) for name in SEARCHED},
        }
        for index, (state, result) in enumerate(zip(group, attacked, strict=True))
    }


def _attack_columns(job, block, found) -> dict[str, list]:
    """One row per attack, real prompt and budget of one state; found: as _attack_rows."""
    A, E, n = len(job.settings.attacks), len(job.settings.budgets), block.n
    attack, row, budget = (index.ravel() for index in np.indices((A, n, E)))
    flat = [str(text) for text in found["text"][:, :n].ravel()]
    columns = {
        "prompt": [block.start + int(r) for r in row],
        "attack": [job.settings.attacks[a] for a in attack],
        "budget": [job.settings.budgets[e] for e in budget],
    }
    columns |= {name: [float(value) for value in found[name][:, :n].ravel()] for name in ("eps", *SEARCHED)}
    columns |= respond.score(job.judge, job.reward, [block.prompts[r] for r in row], flat)
    return columns | _saved(job, flat)
