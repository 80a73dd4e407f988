"""Flax ports of Llama, Mistral, Qwen and Gemma decoders, loaded from and saved to Hugging Face checkpoints."""

from latent_audit.models.config import ModelConfig, layer_name
from latent_audit.models.decoder import Decoder, ForwardOutput, forward, init_params

__all__ = ["Decoder", "ForwardOutput", "ModelConfig", "forward", "init_params", "layer_name"]
