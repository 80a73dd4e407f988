"""What a researcher would otherwise use, in torch over transformers; written here, as fast as its plan allows.

A: the paper's loop: one prompt, state and budget at a time, a forward hook, logits of every position, the gradient
taken for the delta alone. B: tuned: prompts of one length and all budgets in one batch, weights frozen, logits at the
target's columns only, whole network every step. C: B with the prefix skipped: blocks below the state run once.
"""

import numpy as np
import torch
import transformers

from benchmarks import work


def torch_model(problem: work.Problem, directory):
    """The same weights in transformers, saved and loaded through the Hugging Face layout; eager attention, float32."""
    from latent_audit import models

    models.save(directory, problem.cfg, problem.params, None)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    return model.requires_grad_(False)


def rows_of(problem: work.Problem) -> list[torch.Tensor]:
    """Prompt + target ids of every prompt, without padding."""
    target = torch.tensor(problem.target, dtype=torch.long)
    return [
        torch.cat([torch.tensor(tokens[mask], dtype=torch.long), target])
        for tokens, mask in zip(problem.tokens, problem.mask, strict=True)
    ]


def _hook(model, state, change):
    if state == 0:
        return model.model.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: ((change(args[0]), *args[1:]), kwargs), with_kwargs=True
        )
    return model.model.layers[state - 1].register_forward_hook(
        lambda module, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
    )


def _state_of(model, ids, state):
    kept = []
    handle = _hook(model, state, lambda h: kept.append(h.detach()) or h)
    with torch.no_grad():
        model.model(input_ids=ids, use_cache=False)
    handle.remove()
    return kept[0]


def papers_loop(model, problem: work.Problem, states, prompts) -> dict:
    """Rival A. (state, prompt, budget index) -> delta [P, D]."""
    n, found = len(problem.target), {}
    rows = rows_of(problem)
    for state in states:
        for prompt in prompts:
            ids = rows[prompt][None].to(model.device)
            P = ids.shape[1] - n
            largest = _state_of(model, ids, state)[0, :P].abs().max().float()
            for index, budget in enumerate(work.BUDGETS):
                eps = budget * largest
                delta = torch.zeros(1, P, model.config.hidden_size, device=model.device, requires_grad=True)
                handle = _hook(
                    model, state, lambda h, d=delta: h + torch.nn.functional.pad(d, (0, 0, 0, n)).to(h.dtype)
                )
                for _ in range(work.STEPS):
                    logits = model(input_ids=ids, use_cache=False).logits
                    log_probability = torch.log_softmax(logits[:, -n - 1 : -1].float(), dim=-1)
                    loss = -log_probability.gather(2, ids[:, -n:, None]).mean()
                    (gradient,) = torch.autograd.grad(loss, delta)
                    with torch.no_grad():
                        delta.copy_((delta - work.STEP_FRACTION * eps * gradient.sign()).clamp(-eps, eps))
                handle.remove()
                found[state, prompt, index] = delta.detach()[0]
    return found


def batched(model, problem: work.Problem, states, *, skip_prefix: bool) -> dict:
    """Rival B, or C with `skip_prefix`. Prompts of one length and all budgets together."""
    rows, n, E, found = rows_of(problem), len(problem.target), len(work.BUDGETS), {}
    for length in sorted({len(row) for row in rows}):
        which = [index for index, row in enumerate(rows) if len(row) == length]
        ids = torch.stack([rows[index] for index in which])
        P = length - n
        many = ids.repeat_interleave(E, dim=0)
        targets = many[:, -n:, None]
        for state in states:
            h = _state_of(model, ids, state)
            eps = (h[:, :P].abs().amax(dim=(1, 2))[:, None] * torch.tensor(work.BUDGETS)).reshape(-1, 1, 1)
            start = h.repeat_interleave(E, dim=0)
            delta = torch.zeros(len(many), P, h.shape[-1], requires_grad=True)
            for _ in range(work.STEPS):
                if skip_prefix:
                    last = _from_state(model, start + torch.nn.functional.pad(delta, (0, 0, 0, n)), state)
                else:
                    handle = _hook(model, state, lambda h, d=delta: h + torch.nn.functional.pad(d, (0, 0, 0, n)))
                    last = model.model(input_ids=many, use_cache=False).last_hidden_state
                    handle.remove()
                logits = model.lm_head(last[:, -n - 1 : -1])
                loss = -torch.log_softmax(logits, dim=-1).gather(2, targets).mean(dim=(1, 2)).sum()
                (gradient,) = torch.autograd.grad(loss, delta)
                with torch.no_grad():
                    delta.copy_(torch.clamp(delta - work.STEP_FRACTION * eps * gradient.sign(), -eps, eps))
            for place, index in enumerate(which):
                for e in range(E):
                    found[state, index, e] = delta.detach()[place * E + e]
    return found


def _from_state(model, h, state):
    """The final normed state when residual state `state` is `h`: blocks `state` and up only."""
    positions = torch.arange(h.shape[1])[None]
    rotary = model.model.rotary_emb(h, positions)
    causal = torch.full((h.shape[1], h.shape[1]), torch.finfo(h.dtype).min).triu(1)[None, None]
    for layer in model.model.layers[state:]:
        out = layer(h, attention_mask=causal, position_ids=positions, position_embeddings=rotary)
        h = out[0] if isinstance(out, tuple) else out
    return model.model.norm(h)


def agreement(problem: work.Problem, ours, theirs: dict) -> dict:
    """Whether both computed the same: the share of coordinates that differ by more than a tenth of a step.

    Signs of gradients that are nearly zero may differ, so a small share of coordinates is expected to.
    """
    differing, compared = 0, 0
    for (state, prompt, index), delta in theirs.items():
        mask = problem.mask[prompt]
        mine = np.asarray(ours[state].delta[0, prompt, index])[mask]
        eps = float(ours[state].radius[prompt, index])
        differing += int((np.abs(mine - delta.numpy()) > 0.1 * work.STEP_FRACTION * eps).sum())
        compared += mine.size
    return {"share_differing": differing / max(compared, 1), "cells": len(theirs)}
