"""Tiny GGUF files as llama.cpp's converter writes them, of tiny models that transformers made."""

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from transformers.convert_slow_tokenizer import bytes_to_unicode

BASE = {
    "vocab_size": 300,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "tie_word_embeddings": False,
}
GEMMA = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256, "tie_word_embeddings": True}
# Name -> (config class, what differs from BASE); a name is the file's architecture, but for Mistral's. From a GGUF,
# transformers takes Gemma's scale to be that of 256 and Qwen 3's heads to be 128 wide, whatever the file says.
CASES = {
    "llama": ("LlamaConfig", {"rope_theta": 5000.0}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128}),
    # The file's architecture is llama, and its own name tells them apart.
    "mistral": ("MistralConfig", {}),
    "phi3": ("Phi3Config", {"pad_token_id": 0}),
    "gemma": ("GemmaConfig", GEMMA),
    "gemma2": ("Gemma2Config", GEMMA | {"sliding_window": 5}),
    "gemma3": ("Gemma3TextConfig", GEMMA | {"sliding_window": 5, "num_hidden_layers": 6}),
}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA_BLOCK = _BLOCK | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
# Where the 16-bit factors of a block lie, for types that the package reads but cannot write: random blocks are valid.
FACTORS = {Kind.Q2_K: (80, 82), Kind.Q3_K: (108,), Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,)}
FACTORS |= {Kind.IQ4_NL: (0,), Kind.IQ4_XS: (0,)}


FILE_TYPES = {Kind.F32: 0, Kind.F16: 1, Kind.Q4_0: 2, Kind.Q4_1: 3, Kind.Q8_0: 7, Kind.Q6_K: 18, Kind.BF16: 32}


def model(architecture, seed=0, **fields):
    """A random model in float32 whose norms and biases all matter; fields: of its config, beside CASES."""
    name, changes = CASES[architecture]
    torch.manual_seed(seed)
    config = getattr(transformers, name)(**(BASE | changes | fields))
    made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if value.ndim == 1:
                value.copy_(0.3 * torch.randn_like(value) + float("gemma" not in architecture and "bias" not in name))
            else:
                value.copy_(torch.randn_like(value) * value.shape[-1] ** -0.5)
    return made


def names(architecture, state):
    """Name in the file -> array as the converter writes it, float32."""
    block = _GEMMA_BLOCK if architecture in ("gemma2", "gemma3") else _BLOCK
    heads = {"attn_q": BASE["num_attention_heads"], "attn_k": BASE["num_key_value_heads"]}
    found = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        array = value.float().numpy()
        if module in _TOP:
            ours = _TOP[module]
        else:
            _, _, layer, inside = module.split(".", 3)
            ours = f"blk.{layer}.{block[inside]}"
        if ours.endswith("norm") and "gemma" in architecture:
            array = array + 1
        inside = ours.rpartition(".")[2]
        if architecture in ("llama", "mistral") and inside in heads:
            # As llama.cpp's converter does: the two halves of a head turn side by side.
            halves = array.reshape(heads[inside], 2, -1, *array.shape[1:])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        found[f"{ours}.{kind}"] = array
    return found


def stored(array, kind, rng):
    """An array's bytes in a type; random blocks with small factors where the package cannot quantise."""
    if kind in FACTORS:
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (*array.shape[:-1], array.shape[-1] // numbers, size), dtype=np.uint8)
        for at in FACTORS[kind]:
            # Such that weights are of about the size of a model's.
            most = 1e-4 if kind in (Kind.Q6_K, Kind.IQ4_XS) else 1e-3
            factor = rng.uniform(most / 10, most, blocks.shape[:-1]).astype(np.float16)
            blocks[..., at : at + 2] = factor[..., None].view(np.uint8)
        return blocks.reshape(*array.shape[:-1], -1)
    return quants.quantize(np.ascontiguousarray(array), kind)


def write(path, architecture, made, kind=Kind.F32, *, changes=None, extra=None, tokenizer=True, seed=0):
    """A GGUF file of a model; matrices in `kind`, vectors in float32.

    changes: metadata key -> value in place of what is written, None leaves it out; extra: further float32 tensors.
    """
    config, rng = made.config, np.random.default_rng(seed)
    state = {name: value for name, value in made.state_dict().items() if not name.endswith("inv_freq")}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    name, architecture = architecture, "llama" if architecture == "mistral" else architecture
    metadata = {
        "general.name": f"Tiny {name}",
        "general.file_type": FILE_TYPES.get(kind),
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{architecture}.rope.freq_base": rope["rope_theta"],
    }
    if architecture == "llama":
        metadata["llama.rope.dimension_count"] = config.head_dim
    else:
        metadata[f"{architecture}.attention.key_length"] = config.head_dim
    if getattr(config, "sliding_window", None) and name != "mistral":
        metadata[f"{architecture}.attention.sliding_window"] = config.sliding_window
    if tokenizer:
        metadata |= byte_tokenizer(config.vocab_size)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (metadata | (changes or {})).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None:
            add.get(type(value), writer.add_array)(key, value)
    for tensor, array in (names(name, state) | (extra or {})).items():
        own = kind if array.ndim == 2 else Kind.F32
        writer.add_tensor(tensor, stored(array, own, rng), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(rows):
    """Metadata of a byte-level vocabulary with four control tokens and a few merges."""
    alphabet = list(bytes_to_unicode().values())
    special = ["<bos>", "<eos>", "<|user|>", "<|assistant|>"]
    merges = ["h e", "l l", "he ll", "hell o", "\u0120 w"]
    merged = [merge.replace(" ", "") for merge in merges]
    tokens = alphabet + special + merged
    fill = [f"[PAD{number}]" for number in range(len(tokens), rows)]
    kinds = [1] * len(alphabet) + [3] * len(special) + [1] * len(merged) + [5] * len(fill)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens + fill,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
