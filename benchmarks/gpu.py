"""The paper's whole sweep on one accelerator: models of 2 to 3 billion parameters with random weights in bfloat16.

    python -m benchmarks.gpu                     one H100 or H200, 20 minutes; writes docs/benchmark_gpu.json
    python -m benchmarks.gpu --decode            decode steps alone (benchmarks/steps.py), 3 minutes
    python -m benchmarks.gpu --startup           start-up by XLA flags, benchmarks/startup.py, with its options
    python -m benchmarks.gpu --quick             a tiny model on whatever there is: that everything runs

Per model: 24 prompts x every residual state x 3 budgets x {pgd, random}, then 128 greedy tokens for each; search and
generation timed apart, warm, with the share of the device's measured matrix product peak (model FLOP utilisation) that
the search reaches, and peak memory. Then decoding against what streaming the weights allows. Rival A, the paper's loop
in torch, runs a slice of the same work where torch sees the device; its weights are random too, so only its time
counts: that both compute the same is checked by benchmarks.run.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from benchmarks import rivals, run, startup, steps, work
from latent_audit import models
from latent_audit.interventions import edits
from latent_audit.models.families import config_from_hf
from latent_audit.models.generate import generate
from latent_audit.runtime import xla_flags

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 24, 40, 128
# config.json of the models, the fields that decide what is computed.
SHAPES = {
    "Gemma 2 2B": {
        "model_type": "gemma2",
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "Llama 3.2 3B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    "Qwen2.5 3B": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
}
TINY = {
    "Tiny Llama": {
        "model_type": "llama",
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
}


def problem_of(name: str, hf: dict, *, prompts: int, tokens: int, seed: int = 0) -> work.Problem:
    """Random bfloat16 weights and prompts of one length."""
    cfg = config_from_hf(hf)
    params = jax.jit(models.init_params, static_argnums=(1, 2))(jax.random.key(seed), cfg, jnp.bfloat16)
    rng = np.random.default_rng(seed)
    rows = rng.integers(3, cfg.vocab_size, (prompts, tokens)).astype(np.int32)
    size = work.Size(
        name,
        cfg.num_layers,
        cfg.embed_dim,
        cfg.mlp_dim,
        cfg.num_heads,
        cfg.vocab_size,
        (tokens,) * prompts,
        cfg.num_kv_heads,
    )
    return work.Problem(
        size,
        cfg,
        params,
        rows,
        np.ones(rows.shape, bool),
        rng.integers(3, cfg.vocab_size, work.TARGET_TOKENS).astype(np.int32),
    )


def answer(problem: work.Problem, attacked, state: int, new: int):
    """`new` greedy tokens under the deltas of pgd and random of one state, in one batch."""
    deltas = attacked.delta[:2].reshape(-1, *attacked.delta.shape[-2:])
    rows = np.tile(np.repeat(np.arange(len(problem.tokens)), len(work.BUDGETS)), 2)
    out = generate(
        problem.params,
        problem.tokens[rows],
        problem.mask[rows],
        cfg=problem.cfg,
        max_new_tokens=new,
        eos_ids=(),
        prompt_edit=edits.add_at(state, deltas),
    )
    return jax.block_until_ready(out.tokens)


def sweep(problem: work.Problem, *, new: int, peak: float) -> dict:
    """Seconds of the whole sweep, compile apart, and how much of the peak the search reaches."""
    began = time.perf_counter()
    first = work.search(problem, states=[0], search=work.latent.PAPER)
    answer(problem, first[0], 0, new)
    compiled = time.perf_counter() - began
    searching = generating = 0.0
    for state in problem.states:
        began = time.perf_counter()
        (attacked,) = work.search(problem, states=[state], search=work.latent.PAPER)
        searching += time.perf_counter() - began
        began = time.perf_counter()
        answer(problem, attacked, state, new)
        generating += time.perf_counter() - began
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "model": problem.size.name,
        "cells": work.cells(problem),
        "new_tokens": new,
        "seconds": searching + generating,
        "search_seconds": searching,
        "generate_seconds": generating,
        "first_call_seconds": compiled,
        "search_flops": work.flops(problem),
        "search_utilisation": work.flops(problem) / searching / peak,
        "peak_gigabytes": memory.get("peak_bytes_in_use", 0) / 1e9 or None,
    }


def bandwidth(gigabytes: float) -> float:
    """Bytes per second of reading and writing a large array, the best of ten."""
    array = jnp.zeros(int(gigabytes * 1e9 / 2), jnp.bfloat16)
    add = jax.jit(lambda x: x + 1)
    jax.block_until_ready(add(array))
    return 2 * array.nbytes / work.timed(lambda: jax.block_until_ready(add(array)), repeats=10)[0]


def papers_loop(name: str, hf: dict, problem: work.Problem, *, new: int) -> dict:
    """Rival A on one prompt at three depths, its search and generation scaled to all cells."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = transformers.AutoConfig.for_model(**hf)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    model = model.to(device).eval().requires_grad_(False)
    states = sorted({0, problem.cfg.num_layers // 2, problem.cfg.num_layers - 1})

    def once():
        found = rivals.papers_loop(model, problem, states, [0])
        tokens = torch.tensor(problem.tokens[:1]).long().to(device)
        for (state, _, _), delta in found.items():
            for _ in range(2):  # pgd and random
                handle = rivals._hook(model, state, lambda h, d=delta: h + d.to(h.dtype) if h.shape[1] > 1 else h)
                with torch.no_grad():
                    model.generate(
                        input_ids=tokens,
                        attention_mask=torch.ones_like(tokens),
                        max_new_tokens=new,
                        do_sample=False,
                        pad_token_id=0,
                        eos_token_id=[],
                    )
                handle.remove()
        if device == "cuda":
            torch.cuda.synchronize()
        return len(found)

    took, measured = work.timed(once, repeats=1)
    return {
        "model": name,
        "rival": "A: the paper's loop, torch",
        "device": device,
        "measured_cells": measured,
        "seconds_scaled": took * work.cells(problem) / measured,
    }


def decode_alone(options, chosen, shapes, record: dict, *, bandwidth: float, peak: float) -> int:
    """The section --decode: a line of benchmarks/steps.py for every model and batch."""
    prompts, tokens, new, batches = (2, 8, 16, (1, 4)) if options.quick else (PROMPTS, PROMPT_TOKENS, NEW_TOKENS, None)
    lines = []
    for name in chosen:
        problem = problem_of(name, shapes[name], prompts=prompts, tokens=tokens)
        for batch in batches or steps.BATCHES:
            lines.append(steps.measure(problem, batch, new=new, bandwidth=bandwidth, peak=peak))
            print(json.dumps(lines[-1]), flush=True)
        del problem
        jax.clear_caches()
    return _written(options.out, "benchmark_decode.json", record | {"sweeps": [], "rivals": [], "decode": lines})


def _written(folder: str, name: str, record: dict) -> int:
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    if "--startup" in argv:
        return startup.main([word for word in argv if word != "--startup"])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model: that everything runs")
    parser.add_argument("--decode", action="store_true", help="decode steps alone; writes benchmark_decode.json")
    parser.add_argument("--no-rival", action="store_true", help="leave torch out, for machines where it is CPU only")
    parser.add_argument("--models", default="", help="some of the models, separated by commas")
    parser.add_argument("--out", default="docs", help="directory for benchmark_gpu.json")
    options = parser.parse_args(argv)
    xla_flags.use()
    shapes = TINY if options.quick else SHAPES
    chosen = [name.strip() for name in options.models.split(",") if name.strip()] or list(shapes)
    if unknown := [name for name in chosen if name not in shapes]:
        parser.error(f"--models: unknown {', '.join(unknown)}, expected some of {', '.join(shapes)}")
    device = jax.devices()[0]
    peak = work.matmul_peak(0.2 if options.quick else 3.0, 256 if options.quick else 8192, jnp.bfloat16)
    streamed = bandwidth(0.01 if options.quick else 4.0)
    print(f"{device.device_kind}: {peak / 1e12:.1f} TFLOP/s in bfloat16, {streamed / 1e9:.0f} GB/s", flush=True)
    prompts, tokens, new = (2, 8, 8) if options.quick else (PROMPTS, PROMPT_TOKENS, NEW_TOKENS)
    record = {
        "machine": run.machine(),
        "peak_tflops": peak / 1e12,
        "gigabytes_per_second": streamed / 1e9,
        "sweeps": [],
        "decode": [],
        "rivals": [],
    }
    if options.decode:
        return decode_alone(options, chosen, shapes, record, bandwidth=streamed, peak=peak)
    for name in chosen:
        problem = problem_of(name, shapes[name], prompts=prompts, tokens=tokens)
        record["sweeps"].append(sweep(problem, new=new, peak=peak))
        print(json.dumps(record["sweeps"][-1]), flush=True)
        for batch in (1, 2) if options.quick else steps.BATCHES:
            record["decode"].append(steps.measure(problem, batch, new=new, bandwidth=streamed, peak=peak))
            print(json.dumps(record["decode"][-1]), flush=True)
        if not options.no_rival:
            # Two frameworks share the memory: ours goes first and leaves.
            problem = problem._replace(params=None)
            record["rivals"].append(papers_loop(name, shapes[name], problem, new=new))
            print(json.dumps(record["rivals"][-1]), flush=True)
        del problem
        jax.clear_caches()
    return _written(options.out, "benchmark_gpu.json", record)


if __name__ == "__main__":
    sys.exit(main())
