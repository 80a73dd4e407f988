"""One frozen configuration with switches that covers every supported decoder family."""

import dataclasses
from typing import Any

# What mixes the columns of a layer, where layers differ: softmax attention and the gated delta rule (Qwen 3.5); softmax
# attention over a window, and over all columns with heads of another size (Gemma 4). The shared kinds have no keys and
# values of their own: they read those of the last layer below them of the kind behind the underscore.
KINDS = ("softmax", "delta", "sliding", "global", "shared_sliding", "shared_global")
SHARED_KINDS = ("shared_sliding", "shared_global")

# The tree of parameter_shapes, with arrays in place of shapes.
Params = dict[str, Any]

# Larger than any context: a layer with this window sees everything before it.
FULL_ATTENTION = 2**30


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position settings shared by a group of layers.

    Attributes:
      theta: base of the geometric frequency series.
      kind: "default", "linear" (all frequencies divided by factor), "llama3" (Llama 3.1's smooth
        interpolation between kept and divided frequencies), "yarn" (arXiv 2309.00071: the same idea with a band
        in turns per original context), "longrope" (arXiv 2402.13753: a divisor for each frequency) or "none"
        (no rotation at all: SmolLM3's layers without positions).
      factor: the divisor of "linear", "llama3" and "yarn".
      low_freq_factor, high_freq_factor, original_max_positions: the interpolation band of "llama3".
      beta_fast, beta_slow, truncate: that of "yarn"; truncate rounds its ends to whole dimensions.
      short_factors, long_factors: the divisors of "longrope" within and beyond original_max_positions.
      table_scale: multiplies cos and sin, hence the scores by its square ("yarn", "longrope").
      head_dim: width of the heads that are turned, where it is not the model's own (Gemma 4's global layers).
      rotated_share: the share of each head, from its front, that is rotated; the rest passes as it is (Phi-4-mini).
      query_beta: queries at position p are scaled by 1 + beta log(1 + floor(p / original_max_positions))
        (Llama 4, Ministral 3); 0 is off.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    table_scale: float = 1.0
    rotated_share: float = 1.0
    head_dim: int | None = None
    query_beta: float = 0.0


@dataclasses.dataclass(frozen=True)
class DeltaRule:
    """Sizes of gated delta-rule layers: heads of keys and of values, their widths, columns of the convolution."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @property
    def channels(self) -> int:
        """What the convolution runs over: queries, keys and values side by side."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim


@dataclasses.dataclass(frozen=True)
class ClampedGate:
    """gpt-oss's gate of an expert: g sigmoid(alpha g) (1 + u), g at most `limit` and u within it on both sides."""

    alpha: float
    limit: float


@dataclasses.dataclass(frozen=True)
class GlobalHeads:
    """Heads of layers of kind "global": width, number of key heads, whether values are the keys before their norm."""

    head_dim: int
    kv_heads: int
    key_is_value: bool


@dataclasses.dataclass(frozen=True)
class LayerInputs:
    """What every layer reads of each token besides the residual stream: its width, and the rows of its table."""

    width: int
    vocab_size: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything static about a decoder; hashable, so that it can be a static argument of jit.

    Attributes:
      family: name of the row in spellings/rows.py that the checkpoint came from and is saved as.
      vocab_size, num_layers, embed_dim, num_heads, num_kv_heads, head_dim, mlp_dim: V, L, D, N, K, H, F.
      norm_eps: added to the mean square inside every RMS norm.
      query_scale: multiplies the query before the dot product with keys.
      activation: "silu", "gelu_tanh" or "gelu" (the erf form), of the gate.
      qkv_bias, output_bias, mlp_bias: which projections carry a bias.
      query_key_norm: RMS norm over each head's query and key before the rotation (Qwen 3, Gemma 3).
      norm_over_heads: that norm is over all heads of the projection at once (OLMo 2, 3).
      pre_norms: a norm on the input of attention and of the MLP (all but OLMo 2, 3).
      post_norms: a norm on the output of attention and of the MLP before they are added (Gemma 2, 3, OLMo 2, 3).
      norm_plus_one: norm weights are stored as w and used as 1 + w (Gemma).
      norm_wide: the product with the norm's weight is rounded, not its factors (OLMo 2, 3; Gemma always).
      embedding_scale: multiplies token embeddings: sqrt(D) (Gemma), a number of its own (Granite).
      residual_scale: multiplies what attention and MLP add to the residual stream (Granite).
      logit_divisor: divides the logits, before final_softcap (Granite).
      num_experts, experts_per_token: X and how many of them each token's router picks; 0 is one dense MLP. mlp_dim is
        the width of one expert.
      renormalise_experts: the picked experts' shares are divided by their sum.
      expert_dim: width of one expert where a dense MLP of width mlp_dim stands beside them, each with norms of its own
        (Gemma 4 26B-A4B), else None.
      shared_expert_dim: width of one more expert that every token passes through a gate of its own; 0 is none.
      expert_bias: router and experts carry biases (gpt-oss); clamped_gate: the experts' activation, or None.
      sinks: each query head has a score that takes part in the softmax and stands for no key (gpt-oss).
      attention_softcap, final_softcap: cap * tanh(x / cap) on attention scores and on logits; None is off.
      tied_head: logits use the embedding matrix; there is no separate head.
      ropes: the distinct rotary settings; rope_of_layer[i] indexes them.
      windows: per layer, how many positions back (itself included) a query sees; FULL_ATTENTION for all.
      kinds: per layer, a name of KINDS, for families whose layers differ in shape; empty where all are alike.
      query_gate: the query projection gives each head a gate beside its query: output * sigmoid(gate) (Qwen 3.5).
      delta_rule: sizes of the layers of kind "delta", or None; global_heads: of those of kind "global", or None.
      shared_mlp_dim: the MLP's width in layers of the shared kinds, None where it is mlp_dim (Gemma 4 E2B).
      layer_inputs: sizes of what layers read of each token besides the residual stream, or None (Gemma 4 E2B, E4B).
      value_norm: RMS norm without a weight over each head's value (Gemma 4).
      layer_scale: what a block returns is multiplied by a number of its own (Gemma 4).
      max_positions: the context length the checkpoint was made for.
      bos_id, eos_ids: token ids the checkpoint's own config names; empty when it names none.
    """

    family: str
    vocab_size: int
    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    norm_eps: float
    query_scale: float
    activation: str = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    norm_over_heads: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    norm_plus_one: bool = False
    norm_wide: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    num_experts: int = 0
    experts_per_token: int = 0
    renormalise_experts: bool = False
    expert_dim: int | None = None
    shared_expert_dim: int = 0
    expert_bias: bool = False
    clamped_gate: ClampedGate | None = None
    sinks: bool = False
    attention_softcap: float | None = None
    final_softcap: float | None = None
    tied_head: bool = False
    ropes: tuple[Rope, ...] = (Rope(),)
    rope_of_layer: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    query_gate: bool = False
    delta_rule: DeltaRule | None = None
    global_heads: GlobalHeads | None = None
    shared_mlp_dim: int | None = None
    layer_inputs: LayerInputs | None = None
    value_norm: bool = False
    layer_scale: bool = False
    max_positions: int = 8192
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in ("rope_of_layer", "windows"):
            if len(getattr(self, field)) != self.num_layers:
                raise ValueError(
                    f"ModelConfig.{field} has {len(getattr(self, field))} entries, expected one "
                    f"for each of the {self.num_layers} layers"
                )
        if self.kinds and (len(self.kinds) != self.num_layers or not set(self.kinds) <= set(KINDS)):
            raise ValueError(f"ModelConfig.kinds = {self.kinds}, expected one of {', '.join(KINDS)} for each layer")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"ModelConfig.num_heads = {self.num_heads} is not a multiple of num_kv_heads = {self.num_kv_heads}"
            )


def block_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of one layer's parameter, of every name that any layer has."""
    return {name: shape for kind in distinct_kinds(cfg) for name, shape in kind_shapes(cfg, kind).items()}


def layers_with(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> the layers that have this parameter, in the order in which its stack holds them."""
    per_kind = {kind: kind_shapes(cfg, kind) for kind in distinct_kinds(cfg)}
    kinds = cfg.kinds or distinct_kinds(cfg) * cfg.num_layers
    return {
        name: tuple(layer for layer, kind in enumerate(kinds) if name in per_kind[kind]) for name in block_shapes(cfg)
    }


def distinct_kinds(cfg: ModelConfig) -> tuple[str, ...]:
    """The kinds of layer that occur, in the order in which they do."""
    return tuple(dict.fromkeys(cfg.kinds)) or ("softmax",)


def kind_shapes(cfg: ModelConfig, kind: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters of a layer of this kind."""
    D, F = cfg.embed_dim, cfg.mlp_dim
    shapes = _delta_shapes(cfg) if kind == "delta" else _attention_shapes(cfg, kind)
    if cfg.num_experts:
        shapes |= _expert_shapes(cfg)
    if not cfg.num_experts or cfg.expert_dim is not None:
        wide = cfg.shared_mlp_dim is not None and kind in SHARED_KINDS
        name, width = ("wide_", cfg.shared_mlp_dim or 0) if wide else ("", F)
        shapes |= {f"{name}gate": (D, width), f"{name}up": (D, width), f"{name}down": (width, D)}
    if cfg.mlp_bias:
        shapes |= {"gate_bias": (F,), "up_bias": (F,), "down_bias": (D,)}
    if cfg.pre_norms:
        shapes |= {"attention_norm": (D,), "mlp_norm": (D,)}
    if cfg.post_norms:
        shapes |= {"post_attention_norm": (D,), "post_mlp_norm": (D,)}
    if cfg.layer_inputs is not None:
        width = cfg.layer_inputs.width
        shapes |= {"inputs_gate": (D, width), "inputs_output": (width, D), "post_inputs_norm": (D,)}
    if cfg.layer_scale:
        shapes |= {"layer_scale": (1,)}
    return shapes


def plain_name(name: str) -> str:
    """The name without the prefix that tells apart what differs in shape between kinds: "global_query" is a query."""
    return name.removeprefix("global_").removeprefix("wide_")


def _attention_shapes(cfg: ModelConfig, kind: str) -> dict[str, tuple[int, ...]]:
    D, N, K, H = cfg.embed_dim, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
    is_global = kind.endswith("global")
    if is_global:
        assert cfg.global_heads is not None
        H, K = cfg.global_heads.head_dim, cfg.global_heads.kv_heads
    Q = 2 * H if cfg.query_gate else H
    shapes: dict[str, tuple[int, ...]] = {"query": (D, N, Q), "key": (D, K, H), "value": (D, K, H), "output": (N, H, D)}
    if cfg.qkv_bias:
        shapes |= {"query_bias": (N, Q), "key_bias": (K, H), "value_bias": (K, H)}
    if cfg.output_bias:
        shapes |= {"output_bias": (D,)}
    if cfg.sinks:
        shapes |= {"sinks": (N,)}
    if cfg.query_key_norm:
        whole = cfg.norm_over_heads
        shapes |= {"query_norm": (N, H) if whole else (H,), "key_norm": (K, H) if whole else (H,)}
    if kind in SHARED_KINDS:
        reused = ("key", "value", "key_bias", "value_bias", "key_norm")
        shapes = {name: shape for name, shape in shapes.items() if name not in reused}
    if not is_global:
        return shapes
    if cfg.global_heads is not None and cfg.global_heads.key_is_value:
        shapes = {name: shape for name, shape in shapes.items() if name not in ("value", "value_bias")}
    # The output's bias alone has the same shape in all kinds.
    return {name if name == "output_bias" else f"global_{name}": shape for name, shape in shapes.items()}


def _expert_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    D, F, X, S = cfg.embed_dim, cfg.expert_dim or cfg.mlp_dim, cfg.num_experts, cfg.shared_expert_dim
    shapes: dict[str, tuple[int, ...]] = {
        "router": (D, X),
        "expert_gate": (X, D, F),
        "expert_up": (X, D, F),
        "expert_down": (X, F, D),
    }
    if cfg.expert_bias:
        shapes |= {
            "router_bias": (X,),
            "expert_gate_bias": (X, F),
            "expert_up_bias": (X, F),
            "expert_down_bias": (X, D),
        }
    if cfg.expert_dim is not None:
        shapes |= {"router_scale": (D,), "router_expert_scale": (X,)}
        shapes |= {"post_dense_norm": (D,), "experts_norm": (D,), "post_experts_norm": (D,)}
    if S:
        shapes |= {"shared_router": (D, 1), "shared_gate": (D, S), "shared_up": (D, S), "shared_down": (S, D)}
    return shapes


def _delta_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    assert cfg.delta_rule is not None
    D, sizes = cfg.embed_dim, cfg.delta_rule
    heads, width = sizes.value_heads, sizes.value_dim
    return {
        "delta_mixed": (D, sizes.channels),
        "delta_gate": (D, heads, width),
        "delta_beta": (D, heads),
        "delta_decay": (D, heads),
        "delta_convolution": (sizes.channels, sizes.kernel),
        "delta_rate": (heads,),
        "delta_rate_bias": (heads,),
        "delta_norm": (width,),
        "delta_output": (heads, width, D),
    }


def parameter_shapes(cfg: ModelConfig) -> dict:
    """The parameter tree as shapes: {"embed", "blocks": {name: (layers that have it, ...)}, "final_norm", ["head"]}.

    With layer_inputs also {"inputs_embed", "inputs_projection", "inputs_norm"}, of all layers together.
    """
    layers = layers_with(cfg)
    tree = {
        "embed": (cfg.vocab_size, cfg.embed_dim),
        "blocks": {name: (len(layers[name]), *shape) for name, shape in block_shapes(cfg).items()},
        "final_norm": (cfg.embed_dim,),
    }
    if not cfg.tied_head:
        tree["head"] = (cfg.embed_dim, cfg.vocab_size)
    if cfg.layer_inputs is not None:
        each = (cfg.num_layers, cfg.layer_inputs.width)
        tree["inputs_embed"] = (cfg.layer_inputs.vocab_size, *each)
        tree |= {"inputs_projection": (cfg.embed_dim, *each), "inputs_norm": each[1:]}
    return tree


def layer_name(state: int) -> str:
    """The name of a residual state in every file (docs/method.md section 0).

    >>> [layer_name(state) for state in (0, 1, 6)]
    ['embedding', 'L0', 'L5']
    """
    return "embedding" if state == 0 else f"L{state - 1}"
