"""The attack and score sections of a config as settings: what their fields must be together.

What each may be alone is said in field_table.py.
"""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import latent

# A model of a million parameters has flatter states than one of billions and needs larger budgets to move at all.
ORGANISM_BUDGETS = (0.005, 0.01, 0.015, 0.02)
QUICK = "quick"  # the preset of a first look, commandline/presets.py
SPREAD = 9  # states where not all of a large model's are taken


@dataclasses.dataclass(frozen=True)
class Attack:
    """The checked settings of a latent attack and of its score; configs/lvs.py says what each means.

    prompts: how many of the harmful panel are attacked behind the first `offset`, None for all.
    """

    states: tuple[int, ...]
    budgets: tuple[float, ...]
    reference_budget: float
    search: latent.Search
    target: str
    prompts: int | None
    preset: str
    resamples: int
    offset: int = 0

    @property
    def attacks(self) -> tuple[str, ...]:
        """Kinds of rows that each cell has: the attack and, where asked for, its controls."""
        return latent.ATTACKS if self.search.controls else latent.ATTACKS[:1]

    def describe(self) -> dict:
        """Name -> value of what a report shows and report.json keeps."""
        search = dataclasses.asdict(self.search)
        del search["controls"]
        shown = {"states": self.states, "budgets": self.budgets, "reference_budget": self.reference_budget}
        return shown | search | {"target": self.target, "attacks": self.attacks}


def check_attack(config: ConfigDict, *, is_organism: bool, num_layers: int) -> Attack:
    """The attack and score sections as Attack; InputError names the field, the value and the rule."""
    attack, score = config.attack, config.score
    budgets = _budgets(attack.budgets, is_organism, is_quick=config.get("preset") == QUICK)
    reference = float(attack.reference_budget) or budgets[min(1, len(budgets) - 1)]
    if reference not in budgets:
        raise InputError(f"attack.reference_budget = {reference} is none of attack.budgets = {budgets}")
    if not attack.target.strip():
        raise InputError("attack.target is empty, expected the opening that the search makes likely")
    search = latent.Search(
        mode=attack.budget_mode,
        skip_first=attack.skip_first_token,
        steps=attack.steps,
        step_fraction=float(attack.step_fraction),
        controls=bool(attack.controls),
    )
    states = _states(attack.layers, num_layers, score.preset)
    prompts, offset = attack.get("prompts"), attack.get("offset", 0)
    return Attack(states, budgets, reference, search, attack.target, prompts, score.preset, score.resamples, offset)


def _budgets(given, is_organism, is_quick) -> tuple[float, ...]:
    budgets = tuple(given) or (ORGANISM_BUDGETS if is_organism else latent.PAPER_BUDGETS)[: 2 if is_quick else None]
    return tuple(sorted(float(budget) for budget in budgets))


def _states(layers: str, num_layers: int, preset: str) -> tuple[int, ...]:
    if layers == "all" and preset == "paper_v1":
        # The first version of the paper's code looked at three states only; docs/method.md section 1.
        return tuple(sorted({0, min(round(0.5 * num_layers) + 1, num_layers), num_layers}))
    if layers == "all":
        return tuple(range(num_layers + 1))
    return states_named("attack.layers", layers, num_layers)


def states_named(field: str, text: str, num_layers: int, *, embedding: bool = True, nudge: int | None = None):
    """Residual states of a config text: all, spread (SPREAD of them evenly), nudge (the state given here), or names.

    embedding: whether the first state counts. A sorted tuple. Raises InputError that lists those there are.
    """
    if text == "nudge" and nudge is not None:
        return (nudge,)
    first = 0 if embedding else 1
    if text == "all":
        return tuple(range(first, num_layers + 1))
    if text == "spread":
        return tuple(sorted({first + round(share * (num_layers - first)) for share in np.linspace(0, 1, SPREAD)}))
    names = [models.layer_name(state) for state in range(num_layers + 1)]
    wanted = [layer.strip() for layer in text.split(",") if layer.strip()]
    unknown = [layer for layer in wanted if layer not in names[first:]]
    if unknown or not wanted:
        words = "all, spread" if nudge is None else "all, spread, nudge"
        raise InputError(
            f"{field} names {', '.join(map(repr, unknown)) or 'nothing'}; this model has "
            f"{'embedding and ' if embedding else ''}L0 to L{num_layers - 1}, or give {words}"
        )
    return tuple(sorted({names.index(layer) for layer in wanted}))
