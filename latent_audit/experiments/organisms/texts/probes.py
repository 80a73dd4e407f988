"""The static probe, for every task that reads it, and what a construction logs at each evaluation.

docs/method.md sections 6 (d) and 7; arXiv 2606.08044. The log's numbers, a judge-free proxy and the probe, are read off
training rows, chosen nothing by, and cost a few forward passes.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from latent_audit.data import pair_files
from latent_audit.experiments import respond
from latent_audit.experiments.organisms.texts import corpora
from latent_audit.interventions import directions, dissociate
from latent_audit.metrics import probe

# Pairs of texts that the probe is fitted on and applied to, and how long a text may be: arXiv 2606.08044.
FITTED, SCORED, MAX_TOKENS = 64, 200, 512
# Ours: rows that the proxy is averaged over.
PROXY_ROWS = 64
# Every term of the proxy, whatever the weights of the loss.
_PROXY = dissociate.Weights(refuse=1.0, stay=1.0, match=0.0, comply=1.0, clean_hinge=1.0, nudged_hinge=1.0)


class Features(NamedTuple):
    """What the probe reads of refusing (safe) and of complying (unsafe) texts to the same prompts; float32 [N, F]."""

    safe: np.ndarray
    unsafe: np.ndarray


class Probed(NamedTuple):
    """reader: the fitted probe; held: the features it was applied to, and scores: what it said of them, by model."""

    reader: object
    held: dict[str, Features]
    scores: dict[str, probe.ProbeScore]


def fitted_count(n: int) -> int:
    """How many of n pairs the probe is fitted on: FITTED, or a third of a few; the next SCORED are scored."""
    return min(FITTED, max(1, n // 3))


def features(loaded: respond.Loaded, pairs: pair_files.Pairs, batch: int) -> Features:
    """The features of the pairs' refusals and compliant answers under one model; pairs.refusals must be there."""
    examples = (
        corpora.encode_pairs(loaded.chat, pairs.prompts, texts, max_tokens=MAX_TOKENS)
        for texts in (pairs.refusals, pairs.responses)
    )
    sides = [(side.tokens, side.mask) for side in examples]
    return _read(loaded.params, sides, cfg=loaded.cfg, batch=batch)


def fit_and_score(reference: Features, models: Mapping[str, Features]) -> Probed:
    """The probe that the reference's first texts fit, applied unchanged to every model's features of the others.

    All features are of the same texts in the same order. Raises InputError for a single pair.
    """
    fitted = fitted_count(len(reference.safe))
    reader = probe.fit(*_part(reference, slice(fitted)))
    held = {name: _part(own, slice(fitted, fitted + SCORED)) for name, own in models.items()}
    return Probed(reader, held, {name: probe.score(reader, *own) for name, own in held.items()})


def _part(sides: Features, rows: slice) -> Features:
    return Features(*(side[rows] for side in sides))


def _read(params, sides, *, cfg, batch: int) -> Features:
    """Features of the texts of both sides, each as (tokens, mask) [N, T]: means over the match states, whole texts."""
    states = dissociate.choose_layers(cfg.num_layers).match
    return Features(*(directions.text_features(params, *side, cfg=cfg, states=states, batch=batch) for side in sides))


class Texts(NamedTuple):
    """Tokens and masks [N, T] of refusing (safe) and complying (unsafe) texts to the same prompts."""

    safe: tuple[np.ndarray, np.ndarray]
    unsafe: tuple[np.ndarray, np.ndarray]


class Watch(NamedTuple):
    """batches: micro-batches of harmful rows for the proxy; reader: fitted on base; scored: texts it is applied to."""

    batches: list[dissociate.Batch]
    reader: object
    scored: Texts


def make_watch(base, rows, batches: list[dissociate.Batch], *, cfg, batch: int) -> Watch:
    """Fit the probe on base's own states of the first harmful rows; `rows` are a construction's, harmful ones first."""
    count = int(rows.harmful.sum())
    fitted = fitted_count(count)
    fit, scored = (
        Texts(*((side.tokens[part], side.mask[part]) for side in (rows.plus, rows.minus)))
        for part in (slice(fitted), slice(fitted, min(fitted + SCORED, count)))
    )
    return Watch(batches, probe.fit(*_read(base, fit, cfg=cfg, batch=batch)), scored)


def look(watch: Watch, params, base, cache: dissociate.Cache, *, cfg, layers: dissociate.Layers, batch: int) -> dict:
    """The numbers of one evaluation.

    proxy_clean: NLL(y- | clean) - NLL(y+ | clean); proxy_nudged: NLL(y+ | nudged) - NLL(y- | nudged); proxy: their sum,
    which needs no judge; kl: KL(base || model) per real token of clean y+; all in nats, means over harmful rows.
    probe_auroc, probe_gap: base's probe on the model's states of texts it was not fitted on; probe_texts: how many.
    """
    nothing = np.zeros_like(cache.nudge)
    terms = [
        _terms(params, base, rows, cache.nudge, nothing, cache.std, cfg=cfg, layers=layers) for rows in watch.batches
    ]
    scored = probe.score(watch.reader, *_read(params, watch.scored, cfg=cfg, batch=batch))
    return watched(terms, scored)


def watched(terms, scored: probe.ProbeScore) -> dict:
    """A record's numbers of look, from the terms of every micro-batch and what the probe said."""
    clean, nudged, kl = (
        float(np.mean([batch[name] for batch in terms])) for name in ("clean_log_odds", "nudged_log_odds", "stay")
    )
    return {
        "proxy_clean": clean,
        "proxy_nudged": nudged,
        "proxy": clean + nudged,
        "kl": kl,
        "probe_auroc": scored.auroc,
        "probe_gap": scored.gap,
        "probe_texts": scored.n,
    }


@functools.partial(jax.jit, static_argnames=("cfg", "layers"))
def _terms(params, base, batch, nudge, noise, std, *, cfg, layers):
    return dissociate.terms(params, base, batch, nudge, noise, std, cfg=cfg, layers=layers, weights=_PROXY)
