"""The benchmark: our search against what a researcher would otherwise use, on the same weights and prompts, in one run.

    python -m benchmarks.run                     2 CPU cores, 40 minutes; writes benchmark.json and docs/performance.md
    python -m benchmarks.run --comparisons       those alone, 15 minutes; growth, loading and attempts stay as stored
    python -m benchmarks.run --quick             a tiny model, seconds: that everything runs, no numbers to keep

torch and transformers are needed here (requirements-test.txt). Every comparison checks that both computed the same.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile
import time

import jax

from benchmarks import decode, growth, memory, report, rivals, tried, work
from latent_audit.interventions import latent

# Slices of rival A, which would take minutes for the whole: its cells cost the same at every state.
SLICE_STATES, SLICE_PROMPTS = (0, 6, 12), (0, 1)


def search_against_rivals(problem: work.Problem, directory, *, slice_a, peak: float) -> list[dict]:
    """Lines of benchmark.json: our search against A (a slice, scaled by cells), B and C."""
    began = time.perf_counter()
    work.search(problem)
    cold = time.perf_counter() - began
    seconds, ours = work.timed(lambda: work.search(problem))
    compiles = latent.attack_state._cache_size()
    floor, products = work.flops(problem) / peak, work.products_alone(problem)
    work.search(problem, states=[0], search=latent.PAPER)
    controlled, _ = work.timed(lambda: work.search(problem, search=latent.PAPER), repeats=2)
    model = rivals.torch_model(problem, directory)
    common = {
        "ours_seconds": seconds,
        "ours_cold_seconds": cold,
        "floor_seconds": floor,
        "cells": work.cells(problem),
        "over_floor": seconds / floor,
        "products_seconds": products,
        "with_controls_seconds": controlled,
        "compiles": compiles,
    }
    lines = []
    states, prompts = slice_a
    states = [state for state in states if state in problem.states]
    took, found = work.timed(lambda: rivals.papers_loop(model, problem, states, prompts), repeats=1)
    scaled = took * work.cells(problem) / len(found)
    lines.append(
        {
            "name": f"search, {problem.size.name}",
            "rival": "A: the paper's loop",
            "seconds": scaled,
            "measured_cells": len(found),
            **common,
            **rivals.agreement(problem, ours, found),
        }
    )
    for rival, skip in (("B: tuned torch", False), ("C: B with the prefix skipped", True)):
        took, found = work.timed(
            lambda skip=skip: rivals.batched(model, problem, problem.states, skip_prefix=skip),
            repeats=1 if len(problem.states) > 8 else 2,
        )
        lines.append(
            {
                "name": f"search, {problem.size.name}",
                "rival": rival,
                "seconds": took,
                "measured_cells": len(found),
                **common,
                **rivals.agreement(problem, ours, found),
            }
        )
    for line in lines:
        line["cells"] = common["cells"]
        line |= {"ratio": line["seconds"] / seconds, "equal": line["share_differing"] < 1e-3}
        print(
            f"{line['name']}; {line['rival']}: {line['seconds']:.1f} s, ours {seconds:.2f} s, ratio "
            f"{line['ratio']:.1f}, floor {floor:.2f} s, products alone {products:.2f} s, "
            f"differing coordinates {line['share_differing']:.1e}",
            flush=True,
        )
    return lines


def with_generation(problem: work.Problem, directory, *, new: int, slice_a) -> list[dict]:
    """Compile, search and generation of `new` tokens under every delta, against rival A doing the same.

    Only time is compared here: search and generation are held against each other by the other lines.
    """
    jax.clear_caches()
    began = time.perf_counter()
    ours = work.search(problem)
    for state, attacked in zip(problem.states, ours, strict=True):
        delta = attacked.delta[0].swapaxes(0, 1).reshape(-1, *attacked.delta.shape[-2:])
        decode.ours(problem, delta, state, new)
    mine = time.perf_counter() - began
    model = rivals.torch_model(problem, directory)
    states, prompts = slice_a
    states = [state for state in states if state in problem.states]
    began = time.perf_counter()
    found = rivals.papers_loop(model, problem, states, prompts)
    for (state, prompt, _), delta in found.items():
        one = problem._replace(tokens=problem.tokens[[prompt]], mask=problem.mask[[prompt]])
        width = one.tokens.shape[1] - delta.shape[0]
        padded = jax.numpy.pad(jax.numpy.asarray(delta.numpy())[None], [(0, 0), (width, 0), (0, 0)])
        decode.transformers_generate(model, one, padded, state, new)
    theirs = (time.perf_counter() - began) * work.cells(problem) / len(found)
    line = {
        "name": f"search and {new} tokens, compile included, {problem.size.name}",
        "rival": "A: the paper's loop",
        "seconds": theirs,
        "ours_seconds": mine,
        "ratio": theirs / mine,
        "equal": None,
        "floor_seconds": None,
        "measured_cells": len(found),
    }
    print(f"{line['name']}: A {theirs:.1f} s, ours {mine:.1f} s, ratio {line['ratio']:.1f}", flush=True)
    return [line]


def comparisons(problems: list[work.Problem], *, quick: bool, peak: float) -> list[dict]:
    """Lines of benchmark.json for every workload; with generation and decoding on the first."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for index, problem in enumerate(problems):
            slice_a = (problem.states, range(1)) if quick else (SLICE_STATES, SLICE_PROMPTS)
            lines += search_against_rivals(problem, pathlib.Path(folder) / str(index), slice_a=slice_a, peak=peak)
        first = problems[0]
        lines += with_generation(
            first, pathlib.Path(folder) / "again", new=4 if quick else 16, slice_a=(SLICE_STATES[:2], (0,))
        )
        model = rivals.torch_model(first, pathlib.Path(folder) / "decode")
        decoded = decode.compare(first, model, rows=6 if quick else 36, new=4 if quick else 64, state=2)
        lines.append(
            {
                "name": f"generation under perturbation, {first.size.name}",
                "rival": "transformers.generate",
                "equal": decoded["equal_tokens"] > 0.99,
                "floor_seconds": None,
                **decoded,
            }
        )
        print(
            f"{lines[-1]['name']}: {decoded['seconds']:.2f} s, ours {decoded['ours_seconds']:.2f} s, ratio "
            f"{decoded['ratio']:.1f}, equal tokens {decoded['equal_tokens']:.3f}",
            flush=True,
        )
    return lines


def machine() -> dict:
    """What the numbers belong to."""
    import numpy
    import torch
    import transformers

    return {
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "device": jax.devices()[0].device_kind,
        "torch_threads": torch.get_num_threads(),
    }


def beside(problems: list[work.Problem], organism: str, *, quick: bool) -> dict:
    """How cost grows, what loading takes and what the attempts of benchmarks.tried came to."""
    grown = (
        [growth.measure(axis, value) for axis, values in growth.AXES.items() for value in values] if not quick else []
    )
    loaded = memory.measure(gigabytes=0.01 if quick else 4.0)
    print(
        f"loading {loaded['gigabytes']:.2f} GB: peak {loaded['peak_gigabytes']:.2f} GB, allowed "
        f"{loaded['allowed_gigabytes']:.2f} GB",
        flush=True,
    )
    attempts = [one for problem in problems[:2] for one in tried.batching(problem)]
    attempts += tried.residuals(problems[0]) + tried.static_starts(problems[0]) + tried.cache(tiny=quick)
    if organism:
        attempts += tried.early_stop(work.organism_requests(organism))
        attempts += tried.restarts(work.organism_requests(organism, target="Sure, here is how to", turn=True))
    for one in attempts:
        print(f"{one['what']}: {one['seconds']:.2f} s, {one['programs']} programs; {one['note']}", flush=True)
    return {"growth": grown, "loading": loaded, "tried": attempts}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model: that everything runs")
    parser.add_argument(
        "--comparisons", action="store_true", help="against rivals alone; the rest stays as it is stored"
    )
    parser.add_argument(
        "--organism", default="", help="a trained checkpoint to measure too, such as runs/lvs/organism/base"
    )
    parser.add_argument("--out", default="", help="directory for benchmark.json and performance.md; default docs")
    options = parser.parse_args(argv)
    out = pathlib.Path(options.out or "docs")
    out.mkdir(parents=True, exist_ok=True)
    peak = work.matmul_peak(0.2 if options.quick else 3.0, 256 if options.quick else 1024)
    print(f"matrix product peak {peak / 1e9:.0f} GFLOP/s", flush=True)
    sizes = [work.TINY] if options.quick else [work.TOY, work.MIXED, work.WIDE]
    problems = [work.make(size) for size in sizes]
    if options.organism:
        problems.append(work.from_checkpoint(options.organism))
    lines = comparisons(problems, quick=options.quick, peak=peak)
    stored = out / "benchmark_rest.json"
    if options.comparisons:
        rest = json.loads(stored.read_text(encoding="utf-8")) | {"is_of_another_run": True}
    else:
        rest = beside(problems, options.organism, quick=options.quick) | {"is_of_another_run": False}
    where = machine()
    for line in lines:
        line["machine"] = f"{where['cpu_count']} cores, {where['device']}, jax {where['jax']}, torch {where['torch']}"
    rest |= {"peak_gflops": peak / 1e9, "machine": where}
    (out / "benchmark.json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    stored.write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")
    if not options.quick:
        report.write(out, rest | {"lines": lines})
    failed = [line["name"] for line in lines if line["equal"] is False]
    if failed:
        print(f"not equal: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
