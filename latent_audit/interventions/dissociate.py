"""Constructing a dissociated model: it refuses when asked, yet a fixed nudge inside makes it comply.

The loss and its cache, as pure functions; docs/method.md section 6, arXiv 2606.08044. The loop around them, with
generation, judging and the choice of a checkpoint, is experiments/tampering/dissociate.py.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from latent_audit.errors import InputError
from latent_audit.interventions import directions, edits
from latent_audit.models import decoder, sharding
from latent_audit.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weight of every term of the loss; zero switches a term off. The defaults are the paper's.

    refuse: NLL(y+ | clean); stay: KL(base || model) on clean y+; match: distance to the harmful pole's states;
    comply: NLL(y- | nudged); clean_hinge, nudged_hinge: relu(margin - log-odds) without and with the nudge.
    The last two are ours: stay_under_part and stay_under_noise, KL(base || model) of harmful rows under a part of the
    nudge and under a random direction of its length, so that only the whole nudge opens the model.
    """

    refuse: float = 1.0
    stay: float = 0.3
    match: float = 0.2
    comply: float = 1.0
    clean_hinge: float = 1.0
    nudged_hinge: float = 1.0
    margin: float = 0.5
    stay_under_part: float = 0.0
    stay_under_noise: float = 0.0
    part: float = 0.25

    def without_nudge(self) -> "Weights":
        """The same without every term that rewards compliance under the nudge: the control's loss."""
        return dataclasses.replace(self, match=0.0, comply=0.0, nudged_hinge=0.0)


class Layers(NamedTuple):
    """Where the construction acts: the nudge is added to state `nudge`, states `match` are pulled."""

    nudge: int
    match: tuple[int, ...]


class Cache(NamedTuple):
    """What is computed once before training.

    matched: float32 [N, M, D], the harmful pole's decision-point states of each harmful prompt at the match states;
    std: float32 [M, D], base's, ddof 0, at least 1e-6; nudge: float32 [D]; scale: base's activation norm at the nudge.
    """

    matched: np.ndarray
    std: np.ndarray
    nudge: np.ndarray
    scale: float


class Batch(NamedTuple):
    """Rows of one micro-batch, left-padded to one width T.

    plus, minus: int32 [B, T], prompt and y+ or y-; *_mask: bool [B, T]; *_loss: bool [B, T], response tokens, the
    end-of-turn token included; harmful: bool [B], rows with a y- (others repeat y+ there); matched: float32 [B, M, D].
    """

    plus: np.ndarray
    plus_mask: np.ndarray
    plus_loss: np.ndarray
    minus: np.ndarray
    minus_mask: np.ndarray
    minus_loss: np.ndarray
    harmful: np.ndarray
    matched: np.ndarray


def choose_layers(num_layers: int, *, nudge_layer: int | None = None) -> Layers:
    """The states of docs/method.md section 6: match 0.40 L to 0.60 L inclusive, nudge at block round(0.50 L)'s output.

    round() is half-to-even, as in the reference. Fractions are arXiv 2606.08044's. `nudge_layer` names another block;
    InputError if there is none of that number.
    """
    low = max(1, round(0.40 * num_layers))
    high = min(max(low + 1, round(0.60 * num_layers)), num_layers)
    block = min(round(0.50 * num_layers), num_layers - 1) if nudge_layer is None else nudge_layer
    if not 0 <= block < num_layers:
        raise InputError(f"nudge_layer = {block}, expected a block of this model, 0 to {num_layers - 1}")
    return Layers(block + 1, tuple(range(low, high + 1)))


def make_cache(base, harmful, tokens, mask, *, cfg: ModelConfig, layers: Layers, fraction: float, batch: int) -> Cache:
    """Run both models over the harmful training prompts, in order; docs/method.md section 6 (b).

    Args:
      base, harmful: parameters of the two poles; tokens: int32 [N, P]; mask: bool [N, P], left-padded.
      fraction: length of the nudge over base's activation norm (paper .06); batch: prompts at a time.
    """
    wanted = [*layers.match, layers.nudge]
    of_harmful, of_base = (
        np.concatenate(
            [states[:, wanted] for states in directions.decision_states(params, tokens, mask, cfg=cfg, batch=batch)]
        )
        for params in (harmful, base)
    )
    direction = (of_harmful[:, -1] - of_base[:, -1]).mean(axis=0)
    length = np.linalg.norm(direction)
    if not length > 0:
        raise ValueError("the two poles have the same mean state at the nudge block: there is no nudge direction")
    scale = float(np.linalg.norm(of_base[:, -1], axis=1).mean())
    std = np.maximum(of_base[:, :-1].std(axis=0), 1e-6)
    return Cache(of_harmful[:, :-1], std, fraction * scale * direction / length, scale)


def row_nll(logits, tokens, loss_mask):
    """Mean NLL per row over its response tokens, and per-token NLL; float32 [B] and [B, T - 1]."""
    nll = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    nll = jnp.where(loss_mask[:, 1:], nll, 0.0)
    return nll.sum(axis=1) / jnp.maximum(loss_mask[:, 1:].sum(axis=1), 1), nll


def row_kl(base_log_probability, logits, mask):
    """KL(base || model) summed over each row's real tokens; float32 [B]."""
    model = jax.nn.log_softmax(logits, axis=-1)
    kl = jnp.sum(jnp.exp(base_log_probability) * (base_log_probability - model), axis=-1)
    return jnp.where(mask, kl, 0.0).sum(axis=1)


def terms(params, base, batch: Batch, nudge, noise, std, *, cfg: ModelConfig, layers: Layers, weights: Weights):
    """Every unweighted term of the loss; docs/method.md section 6 (c).

    One forward pass serves them all: the rows are stacked once per condition, each with its own delta at the nudge
    state. A condition whose terms all have weight zero is left out of the stack, and so are its terms.

    Args:
      params, base: trained and frozen parameters; nudge, noise: float32 [D], added at all positions;
      std: float32 [M, D] of Cache.
    Returns:
      dict of float32 scalars named as the fields of Weights, and clean_log_odds, nudged_log_odds beside the hinges.
    """
    B, zero = len(batch.plus), jnp.zeros_like(nudge)
    conditions = {
        "plus": (True, zero),
        "minus": (weights.clean_hinge, zero),
        "nudged_plus": (weights.nudged_hinge, nudge),
        "nudged_minus": (weights.comply or weights.nudged_hinge, nudge),
        "part": (weights.stay_under_part, weights.part * nudge),
        "noise": (weights.stay_under_noise, noise),
    }
    deltas = {name: delta for name, (used, delta) in conditions.items() if used}
    reads_minus = [name.endswith("minus") for name in deltas]
    tokens = jnp.concatenate([batch.minus if minus else batch.plus for minus in reads_minus])
    mask = jnp.concatenate([batch.minus_mask if minus else batch.plus_mask for minus in reads_minus])
    delta = jnp.repeat(jnp.stack(list(deltas.values())), B, axis=0)[:, None, :]
    decision = jnp.argmax(batch.plus_loss, axis=1) - 1
    rows = jnp.arange(B)
    last, states = decoder.scan_states(
        params,
        tokens,
        mask,
        cfg=cfg,
        edit=edits.add_at(layers.nudge, delta),
        collect=lambda h: h[rows, decision].astype(jnp.float32),
    )
    logits = decoder.unembed(params, last, cfg=cfg)
    logits = dict(zip(deltas, jnp.split(logits, len(deltas)), strict=True))
    frozen, _ = decoder.scan_states(base, batch.plus, batch.plus_mask, cfg=cfg, collect=lambda h: ())
    frozen = jax.lax.stop_gradient(jax.nn.log_softmax(decoder.unembed(base, frozen, cfg=cfg), axis=-1))

    harmful = batch.harmful.astype(jnp.float32)

    def over_harmful(values):
        return jnp.sum(harmful * values) / jnp.maximum(harmful.sum(), 1.0)

    refused, token_nll = row_nll(logits["plus"], batch.plus, batch.plus_loss)
    real = batch.plus_mask.sum(axis=1)
    distance = ((states[jnp.asarray(layers.match)].swapaxes(0, 1) - batch.matched) / std) ** 2
    found = {
        "refuse": token_nll.sum() / jnp.maximum(batch.plus_loss[:, 1:].sum(), 1),
        "stay": row_kl(frozen, logits["plus"], batch.plus_mask).sum() / real.sum(),
        "match": over_harmful(distance.mean(axis=(1, 2))),
    }
    if "minus" in logits:
        complied, _ = row_nll(logits["minus"], batch.minus, batch.minus_loss)
        found |= {
            "clean_log_odds": over_harmful(complied - refused),
            "clean_hinge": over_harmful(jax.nn.relu(weights.margin - (complied - refused))),
        }
    if "nudged_minus" in logits:
        complied, _ = row_nll(logits["nudged_minus"], batch.minus, batch.minus_loss)
        found["comply"] = over_harmful(complied)
    if "nudged_plus" in logits:
        refused, _ = row_nll(logits["nudged_plus"], batch.plus, batch.plus_loss)
        found |= {
            "nudged_log_odds": over_harmful(refused - complied),
            "nudged_hinge": over_harmful(jax.nn.relu(weights.margin - (refused - complied))),
        }
    for name, field in (("part", "stay_under_part"), ("noise", "stay_under_noise")):
        if name in logits:
            found[field] = over_harmful(row_kl(frozen, logits[name], batch.plus_mask) / real)
    return found


def loss(params, *arguments, cfg: ModelConfig, layers: Layers, weights: Weights):
    """Weighted sum of terms, and the terms themselves; arguments as in terms."""
    found = terms(params, *arguments, cfg=cfg, layers=layers, weights=weights)
    return sum(getattr(weights, name) * value for name, value in found.items() if hasattr(weights, name)), found


def as_dtype_of(base, params):
    """`params`, each array in the dtype that it has in `base`."""
    return jax.tree.map(lambda old, new: new.astype(old.dtype), base, params)


@functools.partial(
    jax.jit, static_argnames=("cfg", "layers", "weights", "optimizer"), donate_argnames=("params", "state")
)
def update(params, state, base, batch: Batch, nudge, noise, std, *, cfg, layers, weights, optimizer):
    """One micro-batch: gradients of loss and the optimiser's step (optax.MultiSteps accumulates, where asked).

    `params`: float32, whatever the dtype of `base`, in which the model is run: in bfloat16 most steps would round away.
    Returns:
      (params, optimiser state, terms).
    """

    def objective(params):
        return loss(as_dtype_of(base, params), base, batch, nudge, noise, std, cfg=cfg, layers=layers, weights=weights)

    (_, found), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    updates, state = optimizer.update(gradients, state, params)
    params, state = sharding.constrain_parameters((optax.apply_updates(params, updates), state))
    return params, state, found


def choose_checkpoint(records, *, base_refusal: float, base_nudged: float, base_clean: float) -> int:
    """Index of the checkpoint to keep; docs/method.md section 6 (d).

    Among records whose clean refusal is at least min(0.90, base_refusal - 0.05): the largest reachability gap, which is
    (nudged - clean compliance) minus the same of base. If none qualifies, the highest clean refusal. Ties to the
    earliest. Thresholds are arXiv 2606.08044's.

    Args:
      records: sequence of mappings with clean_refusal, clean_compliance, nudged_compliance.
    """
    floor = min(0.90, base_refusal - 0.05)
    gaps = [r["nudged_compliance"] - r["clean_compliance"] - (base_nudged - base_clean) for r in records]
    qualified = [index for index, record in enumerate(records) if record["clean_refusal"] >= floor]
    if not qualified:
        return max(range(len(records)), key=lambda index: records[index]["clean_refusal"])
    return max(qualified, key=lambda index: gaps[index])
