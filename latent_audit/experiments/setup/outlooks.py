"""What every task's forecast shares: how wide its prompts are, who judges, the organism that is still to be made."""

import pathlib
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Seen, Work
from latent_audit.experiments.forecast.outlook import Outlook
from latent_audit.experiments.organisms import construct, poles, train
from latent_audit.experiments.setup import jobs, subjects
from latent_audit.experiments.setup.jobs import Prospect
from latent_audit.interventions.dissociate import choose_layers
from latent_audit.judges import Judge
from latent_audit.models import sizes

# Tokens of a training row of the organism's world, and passes that a step of a construction makes over its rows; about.
TRAINED_COLUMNS, CONSTRUCTED = 64, 4
LONGEST_ANSWER = 256  # arXiv 2606.08044, of any experiment


def seen(config: ConfigDict, prospect: Prospect, settings: Mapping) -> Seen:
    """What is known of each variant of a checked run; its name is the first's."""
    return Seen(
        prospect.names[0],
        prospect.cfg,
        prospect.world is not None,
        settings,
        {name: len(panel.prompts) for name, panel in prospect.panels.items()},
        {name: tokens.tokens.shape[1] for name, tokens in prospect.tokens.items()},
        jobs.prompts_at_a_time(config, prospect.panels),
        jobs.answer_length(config, prospect.world),
        config.generation.samples,
        parameters_of(prospect.judge, config),
        choose_layers(prospect.cfg.num_layers).nudge,
    )


def parameters_of(judge: Judge | None, config: ConfigDict) -> float:
    """Parameters / 1e9 of a judge that reads answers here; 0 for phrases, rules, or one that is asked elsewhere."""
    if judge is None or not judge.is_model or config.judge.kind == "endpoint":
        return 0.0
    path, _ = models.split_adapter(config.judge.path)
    return sizes.parameters(models.check(models.resolve(path)).cfg) / 1e9


def outlook(
    config: ConfigDict, prospect: Prospect, works: Sequence[Work], workdir: pathlib.Path, *, budgets: int, answered: int
) -> Outlook:
    """The Outlook of a task on the variants of a checked run, with the making of an organism that is not there.

    budgets: a search is under at once; answered: answers decoded together.
    """
    return Outlook(
        prospect.cfg,
        config.model.dtype,
        jobs.prompts_at_a_time(config, prospect.panels),
        budgets,
        max(tokens.tokens.shape[1] for tokens in prospect.tokens.values()) + amounts.GOAL,
        answered,
        jobs.answer_length(config, prospect.world)(LONGEST_ANSWER),
        (*making(config, prospect, workdir), *works),
        models=len(prospect.names),
    )


def making(config: ConfigDict, prospect: Prospect, workdir: pathlib.Path) -> list[Work]:
    """The organism and its poles that are not there yet; [] for a checkpoint."""
    if prospect.world is None:
        return []
    directory = pathlib.Path(config.organism.directory or workdir / "organism").expanduser()
    recipe, found = subjects.recipe_of(config), list[Work]()
    if not (directory / train.RECORD).exists():
        found = trained(prospect.cfg, recipe, "training steps", recipe.helpful.steps + recipe.safety.steps)
    for name in prospect.names:
        if name in poles.MADE and not (directory / f"{name}.json").exists():
            found.append(constructed(prospect.cfg, construct.ORGANISM, f"{name} steps", poles.SELECTION_PROMPTS))
    return found


def trained(cfg: models.ModelConfig, recipe: train.Recipe, key: str, units: int) -> list[Work]:
    """The training of an organism."""
    rows = sum(phase.steps * phase.batch_size for phase in (recipe.helpful, recipe.safety))
    return [Work(key, units, amounts.training(cfg, rows, TRAINED_COLUMNS))]


def constructed(
    cfg: models.ModelConfig,
    recipe: construct.Recipe,
    key: str,
    panel: int,
    *,
    columns: int = TRAINED_COLUMNS,
    new_tokens: int = poles.ANSWER_TOKENS,
    units: int = 0,
) -> Work:
    """A construction whose selection panel of so many prompts answers at every evaluation, plain and nudged."""
    rows = recipe.steps * recipe.accumulate * recipe.micro_batch * CONSTRUCTED
    asked = panel * 2 * (recipe.steps // recipe.eval_every + 1)
    whole = [amounts.training(cfg, rows, columns), amounts.answers(cfg, asked, columns, new_tokens)]
    return Work(key, units or recipe.steps, amounts.total(whole), 0.5, 0.9)
