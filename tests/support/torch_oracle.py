"""The latent attack written plainly in torch over transformers: one prompt at a time, a hook, full recompute."""

from typing import NamedTuple

import torch


class PlainAttack(NamedTuple):
    """delta: [P, D]; gradient: that of the first step [P, D]; nlls: steps + 1 losses; eps: the absolute budget."""

    delta: torch.Tensor
    gradient: torch.Tensor
    nlls: list
    eps: float


def decoder_of(model):
    """The text tower: the module that holds embed_tokens, layers and norm."""
    return getattr(model.model, "language_model", model.model)


def hooked(model, state: int, change):
    """Register `change(h) -> h` on residual state `state` (before the final norm); returns the handle."""
    tower = decoder_of(model)
    if state == 0:
        return tower.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: ((change(args[0]), *args[1:]), kwargs), with_kwargs=True
        )

    def after(module, args, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return tower.layers[state - 1].register_forward_hook(after)


def states_of(model, ids):
    """All L + 1 residual states of one row of ids [T], each [T, D], before the final norm."""
    found = {}
    handles = []
    for state in range(len(decoder_of(model).layers) + 1):
        handles.append(hooked(model, state, lambda h, s=state: found.setdefault(s, h.detach())))
    with torch.no_grad():
        model(input_ids=ids[None])
    for handle in handles:
        handle.remove()
    return [found[state][0] for state in range(len(found))]


def target_nll(model, ids, n: int):
    """Mean NLL of the last n tokens of ids [T], given all before them."""
    logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
    log_probability = torch.log_softmax(logits[-n - 1 : -1], dim=-1)
    return -log_probability.gather(1, ids[-n:, None]).mean()


def pgd(model, prompt, target, state: int, budget: float, *, steps: int = 10, step_fraction: float = 0.25):
    """docs/method.md section 1, step by step, for one prompt [P] and target [n]."""
    ids = torch.cat([prompt, target])
    P, n = len(prompt), len(target)
    eps = budget * states_of(model, ids)[state][:P].abs().max().item()
    delta = torch.zeros(P, states_of(model, ids)[state].shape[-1], requires_grad=True)
    handle = hooked(model, state, lambda h: h + torch.nn.functional.pad(delta, (0, 0, 0, n))[None])
    nlls, first = [], None
    for _ in range(steps):
        loss = target_nll(model, ids, n)
        (gradient,) = torch.autograd.grad(loss, delta)
        first = gradient if first is None else first
        nlls.append(loss.item())
        with torch.no_grad():
            delta.copy_((delta - step_fraction * eps * gradient.sign()).clamp(-eps, eps))
    with torch.no_grad():
        nlls.append(target_nll(model, ids, n).item())
    handle.remove()
    return PlainAttack(delta.detach(), first, nlls, eps)


def greedy(model, prompt, new: int, *, state: int | None = None, delta=None):
    """`new` greedy tokens by full recompute, delta [P, D] added to `state` on the prompt's positions."""
    ids, P = prompt, len(prompt)
    handle = (
        None
        if delta is None
        else hooked(model, state, lambda h: h + torch.nn.functional.pad(delta, (0, 0, 0, h.shape[1] - P))[None])
    )
    with torch.no_grad():
        for _ in range(new):
            ids = torch.cat([ids, model(input_ids=ids[None], use_cache=False).logits[0, -1].argmax()[None]])
    if handle is not None:
        handle.remove()
    return ids[P:].tolist()
