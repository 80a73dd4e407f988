"""What a construction logs at each evaluation beside judged answers: a judge-free proxy and the static probe.

docs/method.md sections 6 (d) and 7; arXiv 2606.08044. Both are read off training rows, chosen nothing by, and cost a
few forward passes.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from latent_audit.interventions import directions, dissociate
from latent_audit.metrics import probe

# Ours: rows that the proxy is averaged over. The pairs of texts that the probe is fitted on and applied to are
# arXiv 2606.08044's; a construction with fewer rows fits on a third of them.
PROXY_ROWS = 64
PROBE_FIT, PROBE_SCORED = 64, 200
# Every term of the proxy, whatever the weights of the loss.
_PROXY = dissociate.Weights(refuse=1.0, stay=1.0, match=0.0, comply=1.0, clean_hinge=1.0, nudged_hinge=1.0)


class Texts(NamedTuple):
    """Tokens and masks [N, T] of refusing (safe) and complying (unsafe) texts to the same prompts."""

    safe: tuple[np.ndarray, np.ndarray]
    unsafe: tuple[np.ndarray, np.ndarray]


class Watch(NamedTuple):
    """batches: micro-batches of harmful rows for the proxy; probe: fitted on base; scored: texts it is applied to."""

    batches: list[dissociate.Batch]
    probe: object
    scored: Texts


def make_watch(base, rows, batches: list[dissociate.Batch], *, cfg, layers: dissociate.Layers, batch: int) -> Watch:
    """Fit the probe on base's own states of the first harmful rows; `rows` are a construction's, harmful ones first."""
    count = int(rows.harmful.sum())
    fitted = min(PROBE_FIT, max(1, count // 3))
    fit, scored = (
        Texts(*((side.tokens[part], side.mask[part]) for side in (rows.plus, rows.minus)))
        for part in (slice(fitted), slice(fitted, min(fitted + PROBE_SCORED, count)))
    )
    features = [directions.text_features(base, *texts, cfg=cfg, states=layers.match, batch=batch) for texts in fit]
    return Watch(batches, probe.fit(*features), scored)


def look(watch: Watch, params, base, cache: dissociate.Cache, *, cfg, layers: dissociate.Layers, batch: int) -> dict:
    """The numbers of one evaluation.

    proxy_clean: NLL(y- | clean) - NLL(y+ | clean); proxy_nudged: NLL(y+ | nudged) - NLL(y- | nudged); proxy: their sum,
    which needs no judge; kl: KL(base || model) per real token of clean y+; all in nats, means over harmful rows.
    probe_auroc, probe_gap: base's probe on the model's states of texts it was not fitted on; probe_texts: how many.
    """
    found = [
        _terms(params, base, one, cache.nudge, np.zeros_like(cache.nudge), cache.std, cfg=cfg, layers=layers)
        for one in watch.batches
    ]
    clean, nudged, kl = (
        float(np.mean([terms[name] for terms in found])) for name in ("clean_log_odds", "nudged_log_odds", "stay")
    )
    features = [
        directions.text_features(params, *texts, cfg=cfg, states=layers.match, batch=batch) for texts in watch.scored
    ]
    scored = probe.score(watch.probe, *features)
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
