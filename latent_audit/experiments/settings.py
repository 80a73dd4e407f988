"""The attack section of a config, checked field by field before anything is computed."""

import dataclasses

from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import latent
from latent_audit.metrics import lvs as metric

# A model of a million parameters has flatter states than one of billions and needs larger budgets to move at all.
ORGANISM_BUDGETS = (0.005, 0.01, 0.015, 0.02)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The checked attack settings of a run; see configs/lvs.py for what each means."""

    states: tuple[int, ...]
    budgets: tuple[float, ...]
    reference_budget: float
    mode: str
    skip_first: bool
    steps: int
    step_fraction: float
    target: str
    attacks: tuple[str, ...]


def check_batches(config, *fields: str) -> None:
    """prompt_batch and layer_batch are whole numbers of at least 1, or InputError.

    prompt_batch, and what else is named in `fields`, is laid out over mesh.data and must be a multiple of it.
    """
    data = config.get("mesh", {}).get("data", 1)
    for field in ("prompt_batch", "layer_batch", *fields):
        if not isinstance(config[field], int) or config[field] < 1:
            raise InputError(f"{field} = {config[field]!r}, expected a whole number of at least 1")
        if field != "layer_batch" and config[field] % data:
            raise InputError(f"{field} = {config[field]}, expected a multiple of mesh.data = {data}")


def check_attack(config: ConfigDict, *, is_organism: bool, num_layers: int) -> Settings:
    """The attack section as Settings; InputError names the field, the value and the rule."""
    attack = config.attack
    budgets = tuple(attack.budgets) or (ORGANISM_BUDGETS if is_organism else latent.PAPER_BUDGETS)
    for budget in budgets:
        if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < float("inf"):
            raise InputError(f"attack.budgets holds {budget!r}, expected finite numbers above 0, such as 0.001")
    if len(set(budgets)) < len(budgets):
        raise InputError(f"attack.budgets = {budgets} names a budget twice")
    budgets = tuple(sorted(float(budget) for budget in budgets))
    reference = float(attack.reference_budget) or budgets[min(1, len(budgets) - 1)]
    if reference not in budgets:
        raise InputError(f"attack.reference_budget = {reference} is none of attack.budgets = {budgets}")
    if attack.budget_mode not in latent.BUDGET_MODES:
        raise InputError(
            f"attack.budget_mode = {attack.budget_mode!r}, expected one of {', '.join(latent.BUDGET_MODES)}"
        )
    if not isinstance(attack.steps, int) or attack.steps < 1:
        raise InputError(f"attack.steps = {attack.steps!r}, expected a whole number of at least 1")
    if not 0 < attack.step_fraction:
        raise InputError(f"attack.step_fraction = {attack.step_fraction!r}, expected a number above 0")
    if not attack.target.strip():
        raise InputError("attack.target is empty, expected the opening that the search makes likely")
    if config.score.preset not in metric.PRESETS:
        raise InputError(f"score.preset = {config.score.preset!r}, expected one of {', '.join(metric.PRESETS)}")
    states = _states(attack.layers, num_layers, config.score.preset)
    attacks = latent.ATTACKS if attack.controls else latent.ATTACKS[:1]
    return Settings(
        states,
        budgets,
        reference,
        attack.budget_mode,
        attack.skip_first_token,
        attack.steps,
        float(attack.step_fraction),
        attack.target,
        attacks,
    )


def _states(layers: str, num_layers: int, preset: str) -> tuple[int, ...]:
    names = [models.layer_name(state) for state in range(num_layers + 1)]
    if layers == "all":
        if preset == "paper_v1":
            # The first version of the paper's code looked at three states only; docs/method.md section 1.
            return tuple(sorted({0, min(round(0.5 * num_layers) + 1, num_layers), num_layers}))
        return tuple(range(num_layers + 1))
    wanted = [layer.strip() for layer in layers.split(",") if layer.strip()]
    unknown = [layer for layer in wanted if layer not in names]
    if unknown or not wanted:
        raise InputError(
            f"attack.layers names {', '.join(map(repr, unknown)) or 'nothing'}; this model has "
            f"embedding and L0 to L{num_layers - 1}, or give all"
        )
    return tuple(sorted({names.index(layer) for layer in wanted}))
