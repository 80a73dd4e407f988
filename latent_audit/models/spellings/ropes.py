"""How config.json spells rotary settings, in the older and the newer way: read into config.Rope and written from it.

Fields are those of Hugging Face's rotary settings (transformers' modeling_rope_utils); yarn is arXiv 2309.00071.
"""

import math

from latent_audit.errors import InputError
from latent_audit.models.config import Rope
from latent_audit.models.fields import choice, flag, number, shown

LAYER_TYPES = ("full_attention", "sliding_attention")
# Rotary kind -> (config.json field, Rope field) of what it needs besides the base.
_FIELDS = {
    "default": (),
    "linear": (("factor", "factor"),),
    "llama3": (
        ("factor", "factor"),
        ("low_freq_factor", "low_freq_factor"),
        ("high_freq_factor", "high_freq_factor"),
        ("original_max_position_embeddings", "original_max_positions"),
    ),
    "proportional": (),
    "yarn": (
        ("factor", "factor"),
        ("beta_fast", "beta_fast"),
        ("beta_slow", "beta_slow"),
        ("attention_factor", "table_scale"),
        ("original_max_position_embeddings", "original_max_positions"),
    ),
}
KINDS = tuple(_FIELDS)
# A kind with a divisor for each frequency, and its first names in Phi-3's files.
LONGROPE, _LONGROPE_NAMES = "longrope", ("longrope", "su", "yarn")
_FACTORS = (("short_factor", "short_factors"), ("long_factor", "long_factors"))
_FIELDS[LONGROPE] = (
    ("attention_factor", "table_scale"),
    ("original_max_position_embeddings", "original_max_positions"),
)


def read_ropes(fields: dict, *, per_type: bool, kinds: tuple[str, ...]) -> tuple[Rope, ...]:
    """The rotary settings of a config.json's fields: one, or (of full layers, of sliding layers).

    `rope_parameters` is the newer spelling; where an older `rope_scaling` is left beside it, the older one wins,
    as in transformers.

    Args:
      fields: with the family's defaults filled in; per_type: whether full and sliding layers have their own settings;
        kinds: those that the family knows.
    Raises:
      InputError: a kind that is not among them, by its name, or a malformed field.
    """
    new, old = fields.get("rope_parameters") or {}, fields.get("rope_scaling") or {}
    for name, value in (("rope_parameters", new), ("rope_scaling", old)):
        if not isinstance(value, dict):
            raise InputError(f"config.json: {name} = {shown(value)}, expected an object")
    for key in LAYER_TYPES:
        if not isinstance(new.get(key) or {}, dict):
            raise InputError(f"config.json: rope_parameters: {key} = {shown(new[key])}, expected an object")
    if new and any(key in new for key in LAYER_TYPES) != per_type:
        wanted = f"one object for each of {', '.join(LAYER_TYPES)}" if per_type else "one object for all layers"
        raise InputError(f"config.json: rope_parameters = {shown(new)}, expected {wanted}")
    base = {
        "original_max_position_embeddings": fields.get("max_position_embeddings"),
        "rope_theta": fields.get("rope_theta", 10000.0),
        "max_position_embeddings": fields.get("max_position_embeddings"),
    }
    if not per_type:
        outside = {key: fields[key] for key in list(base)[:1] if fields.get(key) is not None}
        share = {"partial_rotary_factor": fields.get("partial_rotary_factor")}
        return (_rope(base | share | (old or new) | outside, kinds),)
    if "type" in old and "rope_type" not in old:
        raise InputError(f"config.json: rope_scaling = {shown(old)}: this family spells type as rope_type")
    full = base | (new.get("full_attention") or {}) | old
    local_base = {"rope_theta": fields.get("rope_local_base_freq", base["rope_theta"])}
    return _rope(full, kinds), _rope(base | local_base | (new.get("sliding_attention") or {}), kinds)


def _rope(fields: dict, kinds: tuple[str, ...]) -> Rope:
    kind = fields.get("rope_type", fields.get("type", "default"))
    kind = (
        LONGROPE if LONGROPE in kinds and kind in _LONGROPE_NAMES else choice({"rope_type": kind}, "rope_type", kinds)
    )
    extra: dict = {}
    if fields.get("partial_rotary_factor") is not None:
        extra["rotated_share"] = number(fields, "partial_rotary_factor")
    if fields.get("llama_4_scaling_beta"):
        # The length it counts in, whatever the kind.
        extra["query_beta"] = number(fields, "llama_4_scaling_beta")
        extra["original_max_positions"] = number(fields, "original_max_position_embeddings")
    if kind == "yarn":
        fields = {"beta_fast": 32.0, "beta_slow": 1.0} | {key: one for key, one in fields.items() if one is not None}
        fields |= {"attention_factor": _attention_factor(fields)}
        if "truncate" in fields:
            extra["truncate"] = flag(fields, "truncate")
    if kind == LONGROPE:
        extra |= {ours: _factors(fields, theirs) for theirs, ours in _FACTORS}
        fields = fields | {"attention_factor": _longrope_scale(fields)}
    values = {ours: number(fields, theirs) for theirs, ours in _FIELDS[kind]}
    if kind == "llama3" and not values["low_freq_factor"] < values["high_freq_factor"]:
        raise InputError(
            f"config.json: low_freq_factor = {values['low_freq_factor']}, expected less than high_freq_factor = "
            f"{values['high_freq_factor']}"
        )
    return Rope(theta=number(fields, "rope_theta"), kind=kind, **values | extra)


def _attention_factor(fields: dict) -> float:
    """What multiplies yarn's tables: a number of its own, or the paper's 0.1 log(factor) + 1 with mscale's ratio."""
    if fields.get("attention_factor") is not None:
        return number(fields, "attention_factor")
    longer = math.log(max(number(fields, "factor"), 1.0))
    scales = [number(fields, name) for name in ("mscale", "mscale_all_dim") if fields.get(name)]
    if len(scales) < 2:
        return 0.1 * longer + 1
    return (0.1 * scales[0] * longer + 1) / (0.1 * scales[1] * longer + 1)


def _factors(fields: dict, name: str) -> tuple[float, ...]:
    given = fields.get(name)
    if not isinstance(given, list):
        raise InputError(f"config.json: {name} = {shown(given)}, expected a list of numbers")
    return tuple(number({"factor": one}, "factor", where=f"config.json: {name}") for one in given)


def _longrope_scale(fields: dict) -> float:
    """What multiplies longrope's tables: a number of its own, or sqrt(1 + log(factor) / log(original length))."""
    if fields.get("attention_factor") is not None:
        return number(fields, "attention_factor")
    original = number(fields, "original_max_position_embeddings")
    longer = number(fields, "max_position_embeddings") / original
    if fields.get("factor") is not None:
        longer = number(fields, "factor")
    return math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 and original > 1 else 1.0


def scaling_fields(rope: Rope) -> dict | None:
    """`rope_scaling` of a setting, None where nothing is scaled."""
    values = {theirs: getattr(rope, ours) for theirs, ours in _FIELDS[rope.kind]}
    if rope.kind == LONGROPE:
        values |= {theirs: list(getattr(rope, ours)) for theirs, ours in _FACTORS}
    if not rope.truncate:
        values["truncate"] = False
    if rope.query_beta:
        values |= {
            "llama_4_scaling_beta": rope.query_beta,
            "original_max_position_embeddings": rope.original_max_positions,
        }
    return {"rope_type": rope.kind} | values if values else None


def parameter_fields(rope: Rope) -> dict:
    """One object of `rope_parameters`, which says all at one place."""
    return {"rope_type": rope.kind, "rope_theta": rope.theta} | (scaling_fields(rope) or {})
