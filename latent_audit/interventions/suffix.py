"""Loss and gradient of the rest of the network with respect to one residual state.

A perturbation at state s cannot change the states before it, so a search step starts from state s and runs only
blocks s .. L-1. Both loops have a traced trip count: one compile serves every state, and a skipped block costs
nothing. The forward loop stores each block's backward residuals in [L, ...] buffers, the second loop reads them back;
where layers differ in shape it stores the block's input alone, and the second loop computes the block again
(docs/performance.md). Layers that share keys and values (Gemma 4 E2B, E4B) read those of a layer below: a search that
begins above that layer has them from the clean pass, one that begins below differentiates through them. Two cuts are
exact: the last block computes only the columns that are read, and the head only the columns that predict a target
(docs/method.md section 1).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from latent_audit.interventions import goals as goals_of
from latent_audit.interventions.goals import Goals
from latent_audit.models import decoder
from latent_audit.models.config import ModelConfig
from latent_audit.models.kinds import attention

# What a block leaves for its backward pass: the products with its weights, queries, keys and values as attention reads
# them. Recomputing the elementwise rest and the
# attention scores, which grow with the square of the length, costs no time (docs/performance.md).
RESIDUALS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(attention.KEPT),
)


def loss(params, h, state, context, goals: Goals, *, cfg: ModelConfig):
    """Loss of each row's goal when residual state `state` (traced) is `h`.

    Args:
      h: [R, C, D], all C = P + n - 1 columns of prompt and text but the last token of the text.
      state: int scalar in [0, L]; context: decoder.Context of the C columns, its `beside` that of a clean pass of the
        same rows; goals: of R rows.
    Returns:
      float32 [R]; of a text in natural-log units per token.
    """
    L = cfg.num_layers

    def step(index, carry):
        x, shared, pulled = carry
        layer, numbers = decoder.take_layer(params, cfg, index)
        x, shared = decoder.block(layer, numbers, x, shared, context, cfg=cfg)
        return x, shared, _pull_forward(pulled, x, index + 1, goals)

    start = (h, context.beside.shared, _no_pull(goals))
    x, shared, pulled = jax.lax.fori_loop(jnp.minimum(state, L - 1), L - 1, step, start)
    return _plus(_tail(params, (x, shared), state, context, goals, cfg=cfg, differentiate=False), pulled)


def loss_and_gradient(params, h, state, context, goals: Goals, *, cfg: ModelConfig):
    """Loss of each row's goal and its gradient with respect to `h`; arguments as in loss.

    Returns:
      (float32 [R], gradient [R, C, D] in h's dtype). Rows do not mix: each gradient is of its own row's loss.
    """
    room = _room(params, h, context, cfg)
    return _loss_and_gradient(params, h, state, context, goals, room, cfg=cfg)[:2]


def descend(move, place, start, length: int, params, state, context, goals: Goals, *, cfg: ModelConfig):
    """Steps down the loss: (what the last move returned, losses float32 [length, R] before each move).

    Args:
      move: move(carry, losses, gradient) -> carry; place: place(carry) -> h; start: the first carry; length: static.
      Others as in loss.
    """

    # What blocks leave for the backward pass goes from step to step: filling it with zeros anew costs a twentieth.
    def step(carry, _):
        found, room = carry
        losses, gradient, room = _loss_and_gradient(params, place(found), state, context, goals, room, cfg=cfg)
        return (move(found, losses, gradient), room), losses

    room = _room(params, place(start), context, cfg)
    (found, _), losses = jax.lax.scan(step, (start, room), length=length)
    return found, losses


def _room(params, h, context, cfg):
    """Zeros [L, ...] for each leaf that a block leaves for its backward pass."""
    left = _left_by_a_block(params, h, context, cfg)
    return [jnp.zeros((cfg.num_layers, *leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(left)]


def _left_by_a_block(params, h, context, cfg):
    stream = (h, context.beside.shared)
    return jax.eval_shape(lambda stream: _block_and_residuals(params, context, 0, stream, cfg=cfg)[1], stream)


def _loss_and_gradient(params, h, state, context, goals, room, *, cfg):
    """As loss_and_gradient, in a room of its own, which is handed out again."""
    L = cfg.num_layers
    first = jnp.minimum(state, L - 1)
    left = jax.tree.structure(_left_by_a_block(params, h, context, cfg))

    def ahead(index, carry):
        stream, pulled, room = carry
        stream, residuals = _block_and_residuals(params, context, index, stream, cfg=cfg)
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=index, axis=0)
        room = [put(each, leaf) for each, leaf in zip(room, jax.tree.leaves(residuals), strict=True)]
        return stream, _pull_forward(pulled, stream[0], index + 1, goals), room

    def back(count, cotangent):
        index = L - 2 - count
        leaves = [jax.lax.dynamic_index_in_dim(each, index, keepdims=False) for each in room]
        cotangent = (add_pull(cotangent[0], index + 1, goals), cotangent[1])
        residuals = jax.tree.unflatten(left, leaves)
        return _pull_back(params, context, index, residuals, stream[1], cotangent, cfg=cfg)

    start = ((h, context.beside.shared), _no_pull(goals), room)
    stream, pulled, room = jax.lax.fori_loop(first, L - 1, ahead, start)
    losses, cotangent = _tail(params, stream, state, context, goals, cfg=cfg, differentiate=True)
    return _plus(losses, pulled), jax.lax.fori_loop(0, L - 1 - first, back, cotangent)[0], room


# Goals without directions leave nothing in the program: `pulled` is None then, an empty pytree.
def _no_pull(goals):
    return None if goals.directions is None else jnp.zeros_like(goals.pull)


def _plus(losses, pulled):
    return losses if pulled is None else losses + pulled


def _pull_forward(pulled, x, state, goals):
    if pulled is None:
        return None
    return pulled + goals_of.pulled(x[:, -goals.tokens.shape[1]], state, goals)


def add_pull(cotangent, state, goals: Goals):
    """Add the gradient of a state's own pull [R, C, D] to what comes from the states above it."""
    if goals.directions is None:
        return cotangent
    own = goals.pull[:, None] * goals.directions[state]
    return cotangent.at[:, -goals.tokens.shape[1]].add(own.astype(cotangent.dtype))


def _tail(params, stream, state, context, goals, *, cfg, differentiate):
    """From state min(state, L-1) to the loss: the last block, or only the head when `state` is L."""
    L, n = cfg.num_layers, goals.tokens.shape[1]
    first_read = stream[0].shape[1] - n

    def through_block(stream):
        layer, numbers = decoder.take_layer(params, cfg, L - 1)
        x, shared = stream
        x, _ = decoder.block(layer, numbers, x, shared, context, cfg=cfg, first_query=first_read)
        losses = goals_of.losses(params, x, goals, cfg=cfg)
        return losses.sum(), losses

    def head_only(stream):
        losses = goals_of.losses(params, stream[0][:, first_read:], goals, cfg=cfg)
        return losses.sum(), losses

    def run(objective):
        if not differentiate:
            return lambda stream: objective(stream)[1]

        def value_and_gradient(stream):
            (_, losses), gradient = jax.value_and_grad(objective, has_aux=True)(stream)
            return losses, gradient

        return value_and_gradient

    return jax.lax.cond(state < L, run(through_block), run(head_only), stream)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Known:
    """Stands in a pullback for a weight or a shared table, which the backward loop fetches again by its place."""

    place: int


def _layer_and_leaves(params, context, index, cfg):
    taken = decoder.take_layer(params, cfg, index)
    return taken, jax.tree.leaves((taken, context))


def _block_and_residuals(params, context, index, stream, *, cfg):
    """One block's output and its pullback, a pytree whose leaves are only what the backward loop cannot fetch.

    stream: (residual state, shared), both of which a block returns and differentiates; decoder.block. Where layers
    differ in shape: the block's residual state in place of the pullback.

    Weights and tables stay in the pullback as they came, so that they are recognised by identity.
    """
    if cfg.kinds:
        # A pullback through a switch holds what every branch would need.
        layer, numbers = decoder.take_layer(params, cfg, index)
        x, shared = stream
        return decoder.block(layer, numbers, x, shared, context, cfg=cfg), x
    (layer, numbers), known = _layer_and_leaves(params, context, index, cfg)
    places = {id(leaf): place for place, leaf in enumerate(known)}
    run = jax.checkpoint(lambda s: decoder.block(layer, numbers, s[0], s[1], context, cfg=cfg), policy=RESIDUALS)
    out, pull = jax.vjp(run, stream)
    return out, jax.tree.map(lambda leaf: _Known(places[id(leaf)]) if id(leaf) in places else leaf, pull)


def _pull_back(params, context, index, residuals, shared, cotangent, *, cfg):
    """The cotangent of a block's stream from that of its output; shared: as the last layer left it.

    A layer that reads keys and values of another finds them there: none above that other layer writes them again.
    """
    if cfg.kinds:
        layer, numbers = decoder.take_layer(params, cfg, index)
        run = functools.partial(decoder.block, layer, numbers, context=context, cfg=cfg)
        return jax.vjp(run, residuals, shared)[1](cotangent)
    _, known = _layer_and_leaves(params, context, index, cfg)
    pull = jax.tree.map(
        lambda leaf: known[leaf.place] if isinstance(leaf, _Known) else leaf,
        residuals,
        is_leaf=lambda leaf: isinstance(leaf, _Known),
    )
    return pull(cotangent)[0]
