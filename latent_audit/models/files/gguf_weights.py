"""Tensors of a GGUF file under Hugging Face's names and in their order, dequantised row by row."""

import math
import pathlib
from collections.abc import Callable

import numpy as np
from gguf import GGMLQuantizationType, quants

from latent_audit import gguf_files
from latent_audit.models.headers import Header

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
# Behind "blk.{i}." and, of Hugging Face, "model.layers.{i}.", both before ".weight" or ".bias".
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OF_ARCHITECTURE = {
    "gemma2": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
}
_OF_ARCHITECTURE["gemma3"] = _OF_ARCHITECTURE["gemma2"]
# Computed here (see gguf_config), not read.
_IGNORED = {"rope_freqs.weight"}
_GEMMA = ("gemma", "gemma2", "gemma3")
# Where in a block its factors of 16 bits lie: what is finite there gives finite weights.
_FACTORS = {
    **{"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,)},
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)},
}


def header(path: pathlib.Path) -> Header:
    """Hugging Face's name -> (shape, "F32") of every tensor; one that is not known keeps its own name."""
    file = gguf_files.read(path)
    return {ours: (file.tensors[theirs].shape, "F32") for ours, theirs in _names(file).items()}


def _names(file: gguf_files.Gguf) -> dict[str, str]:
    """Hugging Face's name -> the file's."""
    architecture = file.metadata["general.architecture"]
    inside = _BLOCK | _OF_ARCHITECTURE.get(architecture, {})
    found = {}
    for name in file.tensors:
        parts = name.split(".")
        if parts[0] == "blk" and len(parts) == 4 and parts[2] in inside:
            found[f"model.layers.{parts[1]}.{inside[parts[2]]}.{parts[3]}"] = name
        elif name not in _IGNORED:
            found[_TOP.get(name, name)] = name
    return found


def rows_of(path: pathlib.Path, name: str) -> Callable[[slice], np.ndarray]:
    """A function of a slice of the rows of a tensor, by Hugging Face's name: float32, in Hugging Face's order."""
    file = gguf_files.read(path)
    theirs = _names(file)[name]
    tensor = file.tensors[theirs]
    stored, order = _stored(path, tensor), _row_order(file, theirs)
    # llama.cpp stores Gemma's norms as they are used, 1 + w.
    shift = np.float32(file.metadata["general.architecture"] in _GEMMA and theirs.endswith("norm.weight"))

    def read(rows: slice) -> np.ndarray:
        taken = stored[rows] if order is None else stored[order[rows]]
        # As one row: gguf works through rows in small groups, which takes several times as long.
        flat = np.ascontiguousarray(taken).reshape(1, -1)
        values = quants.dequantize(flat, GGMLQuantizationType[tensor.kind])
        return values.reshape(len(taken), *tensor.shape[1:]) - shift

    return read


def _stored(path: pathlib.Path, tensor: gguf_files.Tensor) -> np.ndarray:
    """A tensor's bytes, [rows, bytes of a row]; [rows, 1 number] of one that has a single axis."""
    numbers, size = gguf_files.BLOCKS[tensor.kind]
    *outer, last = tensor.shape
    if not outer:
        outer, last = [last], numbers
    shape = (math.prod(outer), last // numbers * size)
    return np.memmap(path, np.uint8, "r", tensor.start, shape)


def _row_order(file: gguf_files.Gguf, name: str) -> np.ndarray | None:
    """Which stored row each row is: llama.cpp pairs the halves of a Llama head that turn together, row by row."""
    parts = name.split(".")
    if file.metadata["general.architecture"] != "llama" or len(parts) < 3 or parts[2] not in ("attn_q", "attn_k"):
        return None
    heads = file.metadata["llama.attention.head_count"]
    if parts[2] == "attn_k":
        heads = file.metadata.get("llama.attention.head_count_kv", heads)
    rows = file.tensors[name].shape[0]
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def is_finite(path: pathlib.Path, name: str) -> bool:
    """Whether a tensor, by Hugging Face's name, holds no NaN or infinity; of blocks the factors are looked at."""
    file = gguf_files.read(path)
    tensor = file.tensors[_names(file)[name]]
    stored = _stored(path, tensor)
    if tensor.kind not in _FACTORS:
        values = quants.dequantize(np.ascontiguousarray(stored).reshape(1, -1), GGMLQuantizationType[tensor.kind])
        return bool(np.isfinite(values).all())
    blocks = stored.reshape(-1, gguf_files.BLOCKS[tensor.kind][1])
    return all(
        bool(np.isfinite(np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)).all())
        for at in _FACTORS[tensor.kind]
    )
