"""Start-up of main.py on an accelerator: seconds to the first unit and to the end of a small run, by XLA flags.

    python -m benchmarks.startup                   one H100, about 20 minutes; writes docs/startup.json
    python -m benchmarks.startup --limit_s 380     what fits, the most telling runs first
    python -m benchmarks.startup --quick           a tiny model on whatever there is: that everything runs

Every line is main.py in a process and a workdir of its own: configs/lvs.py with 8 prompts of each kind, four residual
states (two groups of layer_batch), three budgets, three attacks and 128 new tokens, so that it compiles as many
programs as a real run; the embedded organism runs its whole default. Checkpoints have published shapes and random
weights, so no answer ends early. Flags: XLA_FLAGS of the process, behind those of the caller. Cache: `cold`, what
main.py does with a fresh workdir; `warm`, compiled programs and autotune results of the same run made before;
`autotune`, its autotune results alone. Compile times are read from JAX_LOG_COMPILES. A sweep is the run with every
state of the model in place of four, by the seconds of the second group, which compiles nothing.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PROMPTS = 8
LONG = 0.5  # programs that take less are only summed
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
# config.json of the checkpoints as published, the fields that decide what is computed.
MODELS = {
    "SmolLM2 135M": LLAMA
    | {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rope_theta": 100000.0,
        "max_position_embeddings": 8192,
    },
    "Llama 3.2 3B": LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
    },
    "tiny": LLAMA
    | {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    },
}
FLAGS = {
    "default": "",
    "autotune 0": "--xla_gpu_autotune_level=0",
    "autotune 1": "--xla_gpu_autotune_level=1",
    "autotune 2": "--xla_gpu_autotune_level=2",
    "autotune 3": "--xla_gpu_autotune_level=3",
    "no triton": "--xla_gpu_enable_triton_gemm=false",
    "no triton, autotune 0": "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0",
}
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


class Run(NamedTuple):
    """One start of main.py; model: a name of MODELS, or organism."""

    model: str
    dtype: str
    flags: str
    cache: str = "cold"


SMALL, LARGE = "SmolLM2 135M", "Llama 3.2 3B"
# The most telling first: what is cut off by --limit_s is at the end.
RUNS = (
    Run(SMALL, "float32", "no triton"),
    Run(SMALL, "float32", "no triton, autotune 0"),
    Run(LARGE, "bfloat16", "default"),
    Run(LARGE, "bfloat16", "no triton, autotune 0"),
    Run(SMALL, "bfloat16", "default"),
    Run(SMALL, "float32", "no triton", "warm"),
    Run(SMALL, "bfloat16", "no triton, autotune 0"),
    Run(LARGE, "bfloat16", "no triton"),
    Run(SMALL, "float32", "autotune 0"),
    Run(LARGE, "bfloat16", "default", "warm"),
    Run(SMALL, "bfloat16", "no triton"),
    Run(SMALL, "float32", "default"),
    Run(LARGE, "bfloat16", "autotune 0"),
    Run(SMALL, "bfloat16", "autotune 0"),
    Run("organism", "float32", "no triton"),
    Run("organism", "float32", "no triton, autotune 0"),
    Run(SMALL, "float32", "no triton", "autotune"),
    Run(LARGE, "bfloat16", "default", "autotune"),
    Run(LARGE, "float32", "no triton"),
    Run(LARGE, "float32", "no triton, autotune 0"),
    *(Run(SMALL, "float32", f"autotune {level}") for level in (1, 2, 3)),
)
QUICK = (
    Run("tiny", "float32", "default"),
    Run("tiny", "float32", "default", "warm"),
    Run("tiny", "bfloat16", "no triton, autotune 0"),
)


def write_checkpoint(directory: pathlib.Path, hf: dict) -> None:
    """A bfloat16 checkpoint of random weights with a small tokenizer, as Hugging Face lays it out."""
    import ml_dtypes
    import numpy as np
    import safetensors.numpy
    import tokenizers
    import transformers

    from latent_audit.data import builtin_prompts
    from latent_audit.models import names
    from latent_audit.models.families import config_from_hf

    directory.mkdir(parents=True)
    bpe = tokenizers.ByteLevelBPETokenizer()
    texts = [*builtin_prompts.HARMFUL, *builtin_prompts.HARMLESS]
    bpe.train_from_iterator(texts, vocab_size=min(2000, hf["vocab_size"]), special_tokens=["<|start|>", "<|end|>"])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template=TEMPLATE
    ).save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(hf | {"bos_token_id": 0, "eos_token_id": 1}), encoding="utf-8")

    cfg = config_from_hf(hf)
    # Repeated over every tensor; a prime length, so that no two rows are equal.
    piece = (0.02 * np.random.default_rng(0).normal(size=1_000_003)).astype(ml_dtypes.bfloat16)
    tensors = {}
    for canonical, shape in names.file_shapes(cfg).items():
        tensors[canonical] = np.ones(shape, piece.dtype) if len(shape) == 1 else np.resize(piece, shape)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def command(run: Run, work: pathlib.Path, workdir: pathlib.Path, prompts: int) -> list[str]:
    """main.py's command line; writes the checkpoint where it is not there yet."""
    fixed = [sys.executable, "main.py", "--config=configs/lvs.py", f"--workdir={workdir}"]
    if run.model == "organism":
        return fixed
    directory = work / run.model.replace(" ", "-")
    if not directory.exists():
        began = time.time()
        write_checkpoint(directory, MODELS[run.model])
        print(f"checkpoint {run.model} written in {time.time() - began:.0f} s", flush=True)
    middle = MODELS[run.model]["num_hidden_layers"] // 2
    fields = {
        "model.path": directory,
        "model.dtype": run.dtype,
        "attack.layers": f"L0,L1,L{middle - 1},L{middle}",
        "prompts.harmful_count": prompts,
        "prompts.benign_count": prompts,
        "prompt_batch": prompts,
        "judge.kind": "refusal",
        "reward.kind": "refusal",
    }
    return fixed + [f"--config.{field}={value}" for field, value in fields.items()]


def environment(run: Run, work: pathlib.Path) -> dict:
    """The process's variables: flags behind the caller's, and a cache made by the same run before if it asks for it."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS[run.flags]}".strip()
    found = os.environ | {"XLA_FLAGS": flags, "JAX_LOG_COMPILES": "1", "PYTHONUNBUFFERED": "1"}
    if run.cache != "cold":
        cache = work / name_of(run._replace(cache="cold")) / "compiled"
        if run.cache == "autotune":
            kept = "xla_gpu_per_fusion_autotune_cache_dir"
            cache, whole = work / name_of(run) / "kept", cache
            shutil.copytree(whole / kept, cache / kept)
        found |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    return found


def name_of(run: Run) -> str:
    return re.sub(r"[ ,]+", "-", "_".join(run))


class Log:
    """What the lines of main.py's log say of its programs and its device."""

    def __init__(self):
        self.programs, self.compiling, self.hits = [], None, set()
        self.jax = self.device = self.ready = None

    def read(self, line: str, at: float) -> None:
        if found := re.search(r"Finished XLA compilation of (\S+) in ([\d.]+) sec", line):
            one = {"program": found[1], "seconds": float(found[2]), "at": at}
            # Two handlers may have written the same line.
            if not self.programs or self.programs[-1]["seconds"] != one["seconds"]:
                self.programs.append(one)
            self.compiling = None
        elif found := re.search(r"Compiling (\S+) with global shapes", line):
            self.compiling = {"program": found[1], "at": at}
        elif found := re.search(r"Persistent compilation cache hit for .* with key (\S+)", line):
            self.hits.add(found[1])
        elif found := re.search(r"jax (\S+) on \d+ \S+ device\(s\): (.+)", line):
            self.jax, self.device, self.ready = found[1], found[2].strip(), at


def measure(run: Run, work: pathlib.Path, *, limit: float, prompts: int) -> dict:
    """Start main.py, wait at most `limit` seconds, and say when what was there."""
    workdir = work / name_of(run)
    arguments, variables, log = command(run, work, workdir, prompts), environment(run, work), Log()
    began = time.time()
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    timer = threading.Timer(limit, lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    last = []
    with open(work / f"{name_of(run)}.log", "w", encoding="utf-8") as copy:
        for line in process.stdout:
            at = time.time() - began
            log.read(line, at)
            copy.write(f"{at:7.2f} {line[:400].rstrip()}\n")
            last = [*last, line[:400].rstrip()][-5:]
    status = process.wait()
    seconds = time.time() - began
    timer.cancel()
    units = sorted(
        (path.stat().st_mtime - began, path.relative_to(workdir / "units").with_suffix("").as_posix())
        for path in workdir.glob("units/**/*.json")
    )
    return {
        **run._asdict(),
        "xla_flags": variables["XLA_FLAGS"],
        "prompts": "default" if run.model == "organism" else prompts,
        "status": "finished" if status == 0 else outcome(status, limit, seconds, len(units), log, last),
        "seconds": seconds,
        "device_seconds": log.ready,
        "first_unit_seconds": units[0][0] if units else None,
        "first_attack_seconds": min((at for at, unit in units if "/lvs/" in unit), default=None),
        "compile_seconds": sum(one["seconds"] for one in log.programs),
        "programs": len(log.programs),
        "cache_hits": len(log.hits),
        **(sweep(run, units, log, seconds) if status == 0 and run.model != "organism" else {}),
        "jax": log.jax,
        "device": log.device,
        "units": [{"unit": unit, "at": at} for at, unit in units],
        "long_programs": [one for one in log.programs if one["seconds"] >= LONG],
    }


def outcome(status: int, limit: float, seconds: float, units: int, log: Log, last: list) -> str:
    if seconds < limit:
        return f"failed with exit status {status}: " + " | ".join(last)
    inside = log.compiling and f", compiling {log.compiling['program']} for {seconds - log.compiling['at']:.0f} s"
    return f"not finished in {limit:.0f} s, {units} units{inside or ''}"


def sweep(run: Run, units, log: Log, seconds: float) -> dict:
    """Seconds of a group of states that compiles nothing, and of the run with all states of the model."""
    # The units of a group are written together, in the order of the states.
    ends = [at for at, unit in units if "/lvs/" in unit]
    compiled = sum(one["seconds"] for one in log.programs if ends[1] < one["at"] < ends[3])
    group = ends[3] - ends[1]
    groups = -(-(MODELS[run.model]["num_hidden_layers"] + 1) // 2)
    return {
        "group_seconds": group,
        "group_compile_seconds": compiled,
        "sweep_seconds": seconds + (groups - 2) * (group - compiled),
    }


def table(lines: list[dict]) -> str:
    def shown(value):
        return f"{value:.1f}" if isinstance(value, float) else "-" if value is None else str(value)

    columns = ("model", "dtype", "flags", "cache", "device_seconds", "first_unit_seconds", "first_attack_seconds")
    columns += ("seconds", "compile_seconds", "programs", "cache_hits", "group_seconds", "sweep_seconds", "status")
    heads = [column.removesuffix("_seconds") for column in columns]
    rows = [heads, ["---"] * len(heads), *([shown(line.get(column)) for column in columns] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model: that everything runs")
    parser.add_argument(
        "--limit_s", type=float, default=1500.0, help="seconds in all; runs that do not fit are left out"
    )
    parser.add_argument("--run_s", type=float, default=120.0, help="seconds for one run, which is then stopped")
    parser.add_argument("--least_s", type=float, default=25.0, help="no run is started with less than this left")
    parser.add_argument("--only", default="", help="numbers of runs, from 1, separated by commas, in this order")
    parser.add_argument("--work", default="", help="where checkpoints, workdirs and logs go and stay; default: nowhere")
    parser.add_argument("--out", default="docs", help="directory for startup.json")
    options = parser.parse_args(argv)
    ends = time.time() + options.limit_s
    runs = QUICK if options.quick else RUNS
    runs = [runs[int(number) - 1] for number in options.only.split(",")] if options.only else runs
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(options.work or folder).resolve()
        work.mkdir(parents=True, exist_ok=True)
        for run in runs:
            left = ends - time.time()
            if left < options.least_s:
                break
            try:
                lines.append(
                    measure(run, work, limit=min(options.run_s, left), prompts=2 if options.quick else PROMPTS)
                )
            except FileNotFoundError as error:  # The run whose cache is asked for left none.
                lines.append({**run._asdict(), "status": f"not started: {error}"})
            (out / "startup.json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
            print(table(lines[-1:]).splitlines()[-1], flush=True)
    print(table(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
