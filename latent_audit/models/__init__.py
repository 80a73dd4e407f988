"""Flax ports of Llama, Mistral, Qwen and Gemma decoders, loaded from and saved to Hugging Face checkpoints."""

from latent_audit.models.config import ModelConfig, layer_name
from latent_audit.models.decoder import ForwardOutput, forward
from latent_audit.models.files.dtypes import held_dtype, resolve_dtype
from latent_audit.models.files.identity import describe, title
from latent_audit.models.fingerprint import fingerprint
from latent_audit.models.hub import resolve, resolve_adapter, split_adapter
from latent_audit.models.initial import Decoder, init_params
from latent_audit.models.saving import save
from latent_audit.models.target import check_target
from latent_audit.models.weights import check, check_whole, load, quantization, read_generation_config

__all__ = [
    "Decoder",
    "ForwardOutput",
    "ModelConfig",
    "forward",
    "check",
    "check_target",
    "check_whole",
    "describe",
    "fingerprint",
    "held_dtype",
    "init_params",
    "layer_name",
    "load",
    "quantization",
    "read_generation_config",
    "resolve",
    "resolve_adapter",
    "resolve_dtype",
    "save",
    "split_adapter",
    "title",
]
