"""The config.json that a GGUF file's metadata stands for, and what a report calls its quantisation.

The keys are llama.cpp's (github.com/ggml-org/ggml, its page on GGUF); what a file leaves out is what llama.cpp takes.
"""

import collections
import math
import pathlib
from typing import Any

import numpy as np
from gguf import LlamaFileType

from latent_audit import gguf_files
from latent_audit.errors import InputError
from latent_audit.gguf_files import Gguf
from latent_audit.models.fields import shown

# llama.cpp's architecture -> model_type. Its "llama" is Mistral's too.
FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
}
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
# Keys that change what is computed and that no family here has; 0, False and 1.0 mean that they are off.
_REFUSED = {
    "expert_count": "mixtures of experts are not read from a GGUF",
    "attention.clamp_kqv": "clamped projections are not supported",
    "attention.alibi_bias_max": "alibi is not supported",
    "attention.scale": "another scale of attention is not supported",
    "logit_scale": "scaled logits are not supported",
    "residual_scale": "scaled residuals are not supported",
    "embedding_scale": "scaled embeddings are not supported",
    "use_parallel_residual": "parallel blocks are not supported",
}
# llama.cpp knows the 27B models, whose queries are scaled by another width, by their number of blocks.
_WIDE = {"gemma2": 46, "gemma3": 62}
_GUESSED = 1024
# The weight that rope_freqs.weight holds, per published Llama 3.1 to 3.3: see _llama3.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def config(path: pathlib.Path) -> dict:
    """The fields of config.json, in Hugging Face's words, of a GGUF file.

    Raises InputError: as gguf_files.read; another architecture, a feature that is not read, or a missing key.
    """
    file = gguf_files.read(path)
    architecture = file.metadata.get("general.architecture")
    if architecture not in FAMILIES:
        raise InputError(
            f"{path}: general.architecture = {shown(architecture)} is not read from a GGUF; read are "
            f"{', '.join(FAMILIES)}: give the safetensors checkpoint, if its family is supported"
        )
    own = {key.removeprefix(f"{architecture}."): value for key, value in file.metadata.items()}
    for key, reason in _REFUSED.items():
        if own.get(key, 0) not in (0, False, 1.0):
            raise InputError(f"{path}: {architecture}.{key} = {shown(own[key])}: {reason}")
    missing = [f"{architecture}.{key}" for key in _SIZES.values() if key not in own]
    missing += [name for name in ("token_embd.weight", "output_norm.weight") if name not in file.tensors]
    if missing:
        raise InputError(f"{path} has no {', '.join(missing)}; fetch it again, or convert it anew with llama.cpp")
    fields = {theirs: own[key] for theirs, key in _SIZES.items()}
    heads = fields["num_attention_heads"]
    if not (isinstance(heads, int) and heads > 0):
        raise InputError(f"{path}: {architecture}.attention.head_count = {shown(heads)}, expected one number above 0")
    head_dim = own.get("attention.key_length", fields["hidden_size"] // heads)
    fields |= {
        "model_type": _model_type(architecture, file.metadata),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "num_key_value_heads": own.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _shortest(own.get("attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(own.get("rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_output.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": end_ids(file) or None,
    }
    return fields | _window(architecture, own) | _scores(architecture, own, fields) | _rope(path, file, own, head_dim)


def _model_type(architecture: str, metadata: dict[str, Any]) -> str:
    named = " ".join(str(metadata.get(f"general.{key}", "")) for key in ("name", "basename")).lower()
    return "mistral" if architecture == "llama" and "mistral" in named else FAMILIES[architecture]


def _shortest(value: Any) -> Any:
    """A number of 32 bits as it was written before: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _window(architecture: str, own: dict[str, Any]) -> dict:
    """Absent from most files of families that could slide: there no layer does."""
    window = own.get("attention.sliding_window") or None
    fields = {"sliding_window": window, "use_sliding_window": False if window is None else None}
    if architecture in ("gemma2", "gemma3") or window is not None:
        del fields["use_sliding_window"]
    every = own.get("attention.sliding_window_pattern")
    return fields | ({"sliding_window_pattern": every} if isinstance(every, int) and every > 0 else {})


def _scores(architecture: str, own: dict[str, Any], fields: dict) -> dict:
    """Gemma's scale of the queries and its soft caps."""
    if architecture not in ("gemma2", "gemma3"):
        return {}
    is_wide = fields["num_hidden_layers"] == _WIDE[architecture]
    scalar = fields["hidden_size"] // fields["num_attention_heads"] if is_wide else fields["head_dim"]
    defaults = (50.0, 30.0) if architecture == "gemma2" else (None, None)
    caps = zip(("attn_logit_softcapping", "final_logit_softcapping"), defaults, strict=True)
    return {"query_pre_attn_scalar": scalar} | {name: own.get(name, default) or None for name, default in caps}


def _rope(path: pathlib.Path, file: Gguf, own: dict[str, Any], head_dim: int) -> dict:
    """How positions turn: a part of the head, a stretched scale, or Llama 3's factors, which lie in a tensor."""
    turned, kind = own.get("rope.dimension_count", head_dim), own.get("rope.scaling.type", "none")
    fields: dict[str, Any] = {} if turned == head_dim else {"partial_rotary_factor": turned / head_dim}
    long = [name for name in ("rope_factors_long.weight", "rope_factors_short.weight") if name in file.tensors]
    if kind not in ("none", "linear") or long:
        raise InputError(
            f"{path}: rope scaling {shown(kind)}{' with ' + ', '.join(long) if long else ''} is not read from a GGUF; "
            "read are none, linear and Llama 3's: give the safetensors checkpoint, if its family is supported"
        )
    factor = own.get("rope.scaling.factor", own.get("rope.scale_linear", 1.0))
    if factor not in (0, 1):
        fields["rope_scaling"] = {"rope_type": "linear", "factor": _shortest(factor)}
    if "rope_freqs.weight" in file.tensors:
        fields["rope_scaling"] = _llama3(path, file, _shortest(own.get("rope.freq_base", 10000.0)), turned)
    return fields


def _llama3(path: pathlib.Path, file: Gguf, theta: float, turned: int) -> dict:
    """Llama 3.1's scaling, of which a GGUF keeps the divisor of each frequency, [turned / 2]: found and checked."""
    tensor = file.tensors["rope_freqs.weight"]
    if tensor.kind != "F32" or tensor.shape != (turned // 2,):
        raise InputError(
            f"{path}: rope_freqs.weight is {list(tensor.shape)} of {tensor.kind}, expected {turned // 2} F32"
        )
    held = np.fromfile(path, np.float32, turned // 2, offset=tensor.start)
    factor = float(held.max())
    waves = 2 * math.pi * theta ** (np.arange(turned // 2) * 2 / turned)
    low, high, original = _LLAMA3.values()
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    if not np.allclose(held, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise InputError(
            f"{path}: rope_freqs.weight is not Llama 3's scaling by {factor:g} (low 1, high 4, 8192 positions), the "
            "only one read from a GGUF; give the safetensors checkpoint"
        )
    return {"rope_type": "llama3", "factor": factor} | _LLAMA3


def end_ids(file: Gguf) -> list[int]:
    """The tokens that end an answer, by the file's own metadata."""
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    return sorted({file.metadata[key] for name in names if (key := f"tokenizer.ggml.{name}") in file.metadata})


def quantization(path: pathlib.Path) -> str:
    """What a report calls the weights: "Q4_K_M", with the type of most weights where that is another.

    llama.cpp stores rows that no block of a type fits in a wider one, so that the name alone can mislead.
    """
    file = gguf_files.read(path)
    counted: collections.Counter = collections.Counter()
    for tensor in file.tensors.values():
        counted[tensor.kind] += math.prod(tensor.shape)
    most = counted.most_common(1)[0][0]
    try:
        kind = LlamaFileType(file.metadata["general.file_type"] % _GUESSED)
    except (KeyError, TypeError, ValueError):
        return most
    name = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
    return name if name.startswith(most) else f"{name} (most weights {most})"
