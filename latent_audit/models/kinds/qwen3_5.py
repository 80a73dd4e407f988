"""config.json fields of Qwen 3.5 that say which layers are of which kind, and their sizes."""

from latent_audit.errors import InputError
from latent_audit.models.config import DeltaRule, ModelConfig
from latent_audit.models.fields import number
from latent_audit.models.spellings import ropes
from latent_audit.models.spellings.layer_types import every_nth_full, read_types

# What transformers fills in; `layer_types` follows from the interval where the file has none.
DEFAULTS = {
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}
_KINDS = {"linear_attention": "delta", "full_attention": "softmax"}


def read(fields: dict, layers: int) -> dict:
    """The ModelConfig fields `kinds` and `delta_rule`; InputError for layer types or sizes that are none."""
    types = read_types(fields, layers, _KINDS)
    if types is None:
        types = every_nth_full(fields, layers, "full_attention_interval", "linear_attention")
    sizes = DeltaRule(
        key_heads=number(fields, "linear_num_key_heads"),
        value_heads=number(fields, "linear_num_value_heads"),
        key_dim=number(fields, "linear_key_head_dim"),
        value_dim=number(fields, "linear_value_head_dim"),
        kernel=number(fields, "linear_conv_kernel_dim"),
    )
    if sizes.value_heads % sizes.key_heads:
        raise InputError(
            f"config.json: linear_num_value_heads = {sizes.value_heads}, expected a multiple of linear_num_key_heads = "
            f"{sizes.key_heads}"
        )
    return {"kinds": tuple(_KINDS[one] for one in types), "delta_rule": sizes}


def written(cfg: ModelConfig, fields: dict) -> dict:
    """`fields` with those that read gives back as they are in `cfg`."""
    assert cfg.delta_rule is not None
    names = {kind: name for name, kind in _KINDS.items()}
    return fields | {
        "layer_types": [names[kind] for kind in cfg.kinds],
        "partial_rotary_factor": cfg.ropes[0].rotated_share,
        "rope_parameters": ropes.parameter_fields(cfg.ropes[0]) | {"partial_rotary_factor": cfg.ropes[0].rotated_share},
        "linear_num_key_heads": cfg.delta_rule.key_heads,
        "linear_num_value_heads": cfg.delta_rule.value_heads,
        "linear_key_head_dim": cfg.delta_rule.key_dim,
        "linear_value_head_dim": cfg.delta_rule.value_dim,
        "linear_conv_kernel_dim": cfg.delta_rule.kernel,
    }
