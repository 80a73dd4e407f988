"""Published models that tests/real reads: which files, from where, and their reading by transformers."""

import functools
import os
import pathlib

import pytest
import torch
import transformers

VARIABLE = "LATENT_AUDIT_REAL"
FOLDER = os.environ.get(VARIABLE, "")
SMOL, QWEN, GEMMA = (
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf",
    "gemma-3-270m-Q4_K_M.gguf",
)


def path_of(name: str) -> pathlib.Path:
    """The file of this name; skips the test, saying which file is missing, where it is not there."""
    path = pathlib.Path(FOLDER, name)
    if not FOLDER or not path.is_file():
        pytest.skip(f"{name} is not in {VARIABLE}={FOLDER!r}")
    return path


@functools.lru_cache(maxsize=1)
def of_transformers(path: pathlib.Path):
    """transformers' own reading of a GGUF file, in float32 with plain attention."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
