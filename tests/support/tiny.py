"""Tiny random checkpoints of every family and switch, made by transformers, and its float32 answers."""

import atexit
import functools
import pathlib
import shutil
import tempfile
import zlib
from typing import NamedTuple

import numpy as np
import torch
import transformers

BASE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 16,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
# With 16 dimensions and base 10000 the waves are 6, 20, 63, 199 ... positions long: this keeps one, interpolates
# two and divides the others.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA3 = {
    "num_hidden_layers": 4,
    "sliding_window": 5,
    "query_pre_attn_scalar": 11,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
    },
}
# The band where frequencies are kept in part lies inside the eight pairs, the factor of the tables is not 1.
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
}
OLMO3 = {
    "num_hidden_layers": 4,
    "sliding_window": 5,
    "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 500.0}, "full_attention": YARN},
}
GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.4,
    "logits_scaling": 0.5,
    "head_dim": None,
}
# Rows of LENGTH reach the third multiple of the original length.
MINISTRAL3 = {
    "rope_parameters": YARN | {"original_max_position_embeddings": 10, "llama_4_scaling_beta": 0.7, "mscale": 0.5}
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA4 = {
    "num_hidden_layers": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 5,
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 3.0,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    },
}
# Four layers have keys and values; the last two read those of layers 2 and 3, the last of their types.
GEMMA4_SMALL = GEMMA4 | {
    # Large: where gate and input are nearly at right angles, the norm behind them would blow up the rounding of both.
    "rms_norm_eps": 1e-4,
    "num_hidden_layers": 6,
    "layer_types": [
        *("full_attention", "sliding_attention", "sliding_attention", "full_attention"),
        *("sliding_attention", "full_attention"),
    ],
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 12,
    "vocab_size_per_layer_input": 96,
    "attention_k_eq_v": False,
    "num_key_value_heads": 1,
}
# Two delta-rule layers, an attention layer, and one that breaks the pattern of the published sizes.
QWEN3_5 = {
    # Large: a head whose query and key are nearly at right angles answers with nearly nothing, which its norm would
    # blow up to a size of one together with its rounding.
    "rms_norm_eps": 1e-4,
    "num_hidden_layers": 5,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 100.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}
QWEN3_5_MARKS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")

QWEN3_5_MOE = QWEN3_5 | {
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 20,
    "num_experts": 6,
    "num_experts_per_tok": 2,
}
# Large weights reach the clamp; see model().
GPT_OSS = {
    "num_hidden_layers": 4,
    "intermediate_size": 24,
    "sliding_window": 5,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "swiglu_limit": 1.5,
    "rope_parameters": YARN | {"truncate": False},
}

# Case -> (config class, what differs from BASE). Windows are shorter than LENGTH.
LENGTH = 24
CASES = {
    "llama2": ("LlamaConfig", {"num_key_value_heads": 4, "head_dim": None}),
    "llama3": ("LlamaConfig", {"rope_parameters": LLAMA3_ROPE}),
    "llama3_tied": ("LlamaConfig", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama_biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama_head_dim": ("LlamaConfig", {"head_dim": 22}),
    "llama_linear_rope": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "mistral": ("MistralConfig", {"sliding_window": 5}),
    "mistral_full": ("MistralConfig", {"sliding_window": None, "head_dim": None}),
    "qwen2": ("Qwen2Config", {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1, "head_dim": 8}),
    "qwen2_window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "head_dim": 8},
    ),
    "qwen2_tied": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {}),
    "qwen3_window": (
        "Qwen3Config",
        {
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 2,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "gemma": ("GemmaConfig", {"num_key_value_heads": 1}),
    "gemma_untied": ("GemmaConfig", {"tie_word_embeddings": False, "attention_bias": True}),
    "gemma2": (
        "Gemma2Config",
        {
            "sliding_window": 5,
            "query_pre_attn_scalar": 11,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma2_no_caps": (
        "Gemma2Config",
        {"sliding_window": 6, "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
    ),
    "gemma3": ("Gemma3TextConfig", GEMMA3 | {"final_logit_softcapping": 3.0}),
    "gemma3_untied": ("Gemma3TextConfig", GEMMA3 | {"tie_word_embeddings": False, "attention_bias": True}),
    "gemma3_multimodal": ("Gemma3Config", GEMMA3),
    "qwen3_5": ("Qwen3_5TextConfig", QWEN3_5),
    "qwen3_5_multimodal": ("Qwen3_5Config", QWEN3_5),
    "qwen3_5_tied": (
        "Qwen3_5TextConfig",
        {"tie_word_embeddings": True, "attention_bias": True, "linear_num_key_heads": 4, "linear_num_value_heads": 4}
        | {"num_hidden_layers": 4, "linear_conv_kernel_dim": 3, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    ),
    "gemma4": ("Gemma4TextConfig", GEMMA4),
    "gemma4_untied": (
        "Gemma4TextConfig",
        GEMMA4 | {"tie_word_embeddings": False, "attention_k_eq_v": False, "attention_bias": True},
    ),
    "gemma4_e2b": ("Gemma4TextConfig", GEMMA4_SMALL | {"use_double_wide_mlp": True}),
    "gemma4_e4b": (
        "Gemma4TextConfig",
        GEMMA4_SMALL
        | {"vocab_size_per_layer_input": 104, "tie_word_embeddings": False, "attention_bias": True}
        | {"num_key_value_heads": 2},
    ),
    "gemma4_moe": (
        "Gemma4TextConfig",
        GEMMA4 | {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 24},
    ),
    "gemma4_multimodal": ("Gemma4Config", GEMMA4_SMALL | {"use_double_wide_mlp": True}),
    "olmo2": ("Olmo2Config", {}),
    "olmo2_tied": ("Olmo2Config", {"tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 4}),
    "olmo3": ("Olmo3Config", OLMO3),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 4, "rope_parameters": {"rope_theta": 100.0}}),
    "smollm3_window": (
        "SmolLM3Config",
        {
            "no_rope_layers": [0, 1, 0],
            "use_sliding_window": True,
            "sliding_window": 5,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "phi3": ("Phi3Config", {"sliding_window": 7}),
    "phi3_partial": (
        "Phi3Config",
        {
            "head_dim": None,
            "num_attention_heads": 2,
            "partial_rotary_factor": 0.75,
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 500.0,
                "short_factor": [1.0, 1.2, 1.5, 2.0, 2.5, 3.0],
                "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
            },
        },
    ),
    "granite": ("GraniteConfig", GRANITE),
    "granite_tied": (
        "GraniteConfig",
        GRANITE | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "granite4": (
        "GraniteMoeHybridConfig",
        GRANITE
        | {
            "layer_types": ["full_attention"] * 3,
            "shared_intermediate_size": 40,
            "num_local_experts": 0,
            "position_embedding_type": "rope",
            "mamba_n_heads": 1,
            "tie_word_embeddings": True,
        },
    ),
    "ministral3": ("Ministral3Config", MINISTRAL3),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True},
    ),
    "qwen3_moe_window": (
        "Qwen3MoeConfig",
        {
            "moe_intermediate_size": 24,
            "num_experts": 5,
            "num_experts_per_tok": 3,
            "use_sliding_window": True,
            "sliding_window": 6,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": None}),
    "qwen3_5_moe": ("Qwen3_5MoeTextConfig", QWEN3_5_MOE),
    "qwen3_5_moe_multimodal": ("Qwen3_5MoeConfig", QWEN3_5_MOE),
    "gpt_oss": ("GptOssConfig", GPT_OSS),
    "gpt_oss_tied": ("GptOssConfig", GPT_OSS | {"tie_word_embeddings": True, "attention_bias": False}),
    "ministral3_multimodal": ("Mistral3Config", MINISTRAL3),
    "mistral3_multimodal": ("Mistral3Config", {"sliding_window": None, "rope_parameters": {"rope_theta": 500.0}}),
}


class Reference(NamedTuple):
    """One row's states: list of L + 1 arrays [T, D], the last before the final norm; logits: [T, V]."""

    states: list
    logits: np.ndarray


def config(case: str):
    """transformers' configuration of a case."""
    name, changes = CASES[case]
    fields = {key: value for key, value in (BASE | changes).items() if value is not None or key != "head_dim"}
    if name == "Gemma3Config":
        return transformers.Gemma3Config(
            text_config=transformers.Gemma3TextConfig(**fields),
            vision_config=transformers.SiglipVisionConfig(**VISION),
            mm_tokens_per_image=4,
            image_token_index=95,
            boi_token_index=94,
            eoi_token_index=93,
        )
    if name == "Gemma4Config":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision |= {"num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 16, "patch_size": 4}
        return transformers.Gemma4Config(
            text_config=fields,
            vision_config=vision,
            **{f"{key}_token_id": 95 - i for i, key in enumerate(("image", "video", "audio", "boi", "eoi", "boa"))},
        )
    if name == "Mistral3Config":
        text = "Ministral3Config" if case == "ministral3_multimodal" else "MistralConfig"
        return transformers.Mistral3Config(
            text_config=getattr(transformers, text)(**fields),
            vision_config=transformers.PixtralVisionConfig(**VISION),
            image_token_index=95,
            tie_word_embeddings=case == "ministral3_multimodal",
        )
    if name in ("Qwen3_5Config", "Qwen3_5MoeConfig"):
        vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
        kind = getattr(transformers, name)
        return kind(
            text_config=fields | {"model_type": f"{kind.model_type}_text"},
            vision_config=vision | {"patch_size": 4, "num_position_embeddings": 16},
            **{key: 95 - i for i, key in enumerate(QWEN3_5_MARKS)},
        )
    return getattr(transformers, name)(**fields)


def _seed(case: str) -> int:
    """The first cases keep the seeds they were measured with, whatever is added."""
    first = sorted([*CASES][:20])
    return first.index(case) if case in first else zlib.crc32(case.encode())


@functools.cache
def model(case: str):
    """A random model of a case, in float32, whose scores, norms and biases all matter."""
    torch.manual_seed(_seed(case))
    multimodal = case.endswith("multimodal")
    kind = transformers.AutoModelForImageTextToText if multimodal else transformers.AutoModelForCausalLM
    made = kind.from_config(config(case), attn_implementation="eager").eval().float()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
            else:
                # Queries and keys larger, so that attention is far from a plain mean.
                gain = 2.0 if name.endswith(("q_proj.weight", "k_proj.weight")) else 1.0
                weight.copy_(gain * torch.randn_like(weight) * weight.shape[-1] ** -0.5)
        for name, buffer in made.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.copy_(0.6 + 0.4 * torch.rand_like(buffer))
    return made


@functools.cache
def checkpoint(case: str) -> pathlib.Path:
    """The directory of a case's checkpoint, as transformers saves it; shared, so read only."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"tiny-{case}-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    model(case).save_pretrained(path)
    return path


def copy(case: str, path) -> pathlib.Path:
    """A private copy of a case's checkpoint, to be damaged."""
    return pathlib.Path(shutil.copytree(checkpoint(case), path))


def reference(reference_model, tokens) -> Reference:
    """transformers' states and logits of one unpadded row of token ids."""
    before_norm = []
    text = getattr(reference_model.model, "language_model", reference_model.model)
    hook = text.norm.register_forward_pre_hook(lambda module, inputs: before_norm.append(inputs[0]))
    with torch.no_grad():
        out = reference_model(input_ids=torch.as_tensor(np.asarray(tokens))[None], output_hidden_states=True)
    hook.remove()
    states = [*out.hidden_states[:-1], before_norm[0]]
    return Reference([state[0].float().numpy() for state in states], out.logits[0].float().numpy())


def rows(seed: int = 0, lengths=(LENGTH, LENGTH - 7, LENGTH - 15)):
    """(tokens int32 [B, T], mask bool [B, T]): left-padded rows of these lengths."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 90, (len(lengths), max(lengths))).astype(np.int32)
    mask = np.arange(max(lengths)) >= max(lengths) - np.array(lengths)[:, None]
    return np.where(mask, tokens, 0), mask
