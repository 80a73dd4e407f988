"""Peak host memory while a sharded checkpoint is loaded, in a process of its own so that nothing else counts."""

import json
import pathlib
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import safetensors.numpy

from latent_audit.models import names
from latent_audit.models.config import block_shapes
from latent_audit.models.families import config_from_hf

_LOAD = """
import sys, json
import jax
from latent_audit import models

def most():
    # Not getrusage: that counts what the parent process held before this program began.
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

jax.devices()
before = most()
cfg, params = models.load(sys.argv[1], dtype="bfloat16")
jax.block_until_ready(params)
print(json.dumps({"before": before, "peak": most()}))
"""


def config(gigabytes: float) -> dict:
    """config.json of a Llama-shaped bfloat16 checkpoint of about this size."""
    width = 2048 if gigabytes > 1 else 128
    per_layer = (4 * width * width + 3 * width * 4 * width) * 2 / 1e9
    embedding = 2 * 32000 * width * 2 / 1e9
    layers = max(2, round((gigabytes - embedding) / per_layer))
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 32000,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }


def write(directory: pathlib.Path, hf: dict, shard_bytes: float) -> tuple[float, float]:
    """A sharded checkpoint of random bfloat16 weights; (its bytes, bytes of the largest stacked tensor)."""
    cfg = config_from_hf(hf)
    (directory / "config.json").write_text(json.dumps(hf), encoding="utf-8")
    total, shard, size, weight_map, number = 0, {}, 0, {}, 0
    piece = np.random.default_rng(0).normal(size=4096).astype(ml_dtypes.bfloat16)

    def flush():
        nonlocal shard, size, number
        if shard:
            number += 1
            name = f"model-{number:05d}.safetensors"
            safetensors.numpy.save_file(shard, directory / name, metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(shard, name))
            shard, size = {}, 0

    for canonical, shape in names.file_shapes(cfg).items():
        shard[canonical] = np.resize(piece, shape)
        size += shard[canonical].nbytes
        total += shard[canonical].nbytes
        if size > shard_bytes:
            flush()
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    stacked = max(2 * cfg.num_layers * int(np.prod(shape)) for shape in block_shapes(cfg).values())
    return total, max(stacked, 2 * cfg.vocab_size * cfg.embed_dim)


def measure(gigabytes: float) -> dict:
    """Peak resident memory above the start, against parameters + the largest stacked tensor + 15 %."""
    with tempfile.TemporaryDirectory() as folder:
        total, largest = write(pathlib.Path(folder), config(gigabytes), shard_bytes=gigabytes * 1e9 / 5)
        done = subprocess.run([sys.executable, "-c", _LOAD, folder], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    # In kilobytes.
    peak = (found["peak"] - found["before"]) * 1024 / 1e9
    return {
        "gigabytes": total / 1e9,
        "largest_gigabytes": largest / 1e9,
        "peak_gigabytes": peak,
        "allowed_gigabytes": 1.15 * (total + largest) / 1e9,
    }
