"""How much an audit is going to compute, in counts that its checks know: for a run that only looks (--dry-run)."""

import math
from collections.abc import Mapping

import jax

from latent_audit import models
from latent_audit.experiments.audit.suite import suite
from latent_audit.experiments.panels import Panel
from latent_audit.experiments.settings import Attack
from latent_audit.models.config import ModelConfig, parameter_shapes

_BYTES = {"float32": 4, "bfloat16": 2}


def in_words(
    cfg: ModelConfig, names: tuple[str, ...], panels: Mapping[str, Panel], settings: Mapping[str, object], dtype: str
) -> list[str]:
    """Lines: the weights of one variant, and what the latent attack and the suite do to each of them.

    names: of the variants, loaded one at a time; settings: experiment -> what its check gave; dtype: of the weights.
    """
    sizes = [
        math.prod(shape) for shape in jax.tree.leaves(parameter_shapes(cfg), is_leaf=lambda one: type(one) is tuple)
    ]
    count, harmful = sum(sizes), len(panels["harmful"].prompts)
    lines = [
        f"{len(names)} of {count:,} parameters ({', '.join(names)}), one at a time: "
        f"{count * _BYTES[dtype] / 1e9:.2f} GB of weights in {dtype}"
    ]
    attack = settings.get("latent")
    if isinstance(attack, Attack):
        prompts = min(attack.prompts or harmful, harmful - attack.offset)
        cells = len(attack.states) * len(attack.budgets) * prompts
        lines.append(
            f"latent attack, of each: {len(attack.states)} states ({models.layer_name(attack.states[0])} to "
            f"{models.layer_name(attack.states[-1])}) x {len(attack.budgets)} budgets x {prompts} prompts = {cells:,} "
            f"searches of {attack.search.steps} steps, {cells * len(attack.attacks):,} answers"
        )
    searched = settings.get("suite")
    if isinstance(searched, suite.Settings):
        prompts = min(searched.prompts, harmful)
        lines.append(
            f"attack suite, of each: {prompts} prompts, up to {suite.cost(searched, prompts):,} gradient steps of one "
            f"row a round of its bisection of {len(searched.budgets)} budgets"
        )
    others = [name for name in settings if name not in ("latent", "suite")]
    return lines + ([f"and, not counted here: {', '.join(others)}"] if others else [])
