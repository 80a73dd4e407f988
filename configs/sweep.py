"""An ablation over any fields of another config: a grid or a list of points, a workdir each, one combined table.

    python main.py --config=configs/sweep.py:lvs --config.fields="{'attack.steps': [1, 3, 10, 30]}"      10 minutes
    python main.py --config=configs/sweep.py:lvs --config.base.model.path=DIR \
        --config.fields="{'attack.budget_mode': ['linf_of_max', 'l2_of_norm'], 'attack.steps': [5, 10]}"

Behind the colon stands the config whose task is swept (lvs, finetune, dissociate, abliterate, audit, l2, steer ...);
its fields are set as base.*. A stopped sweep goes on at the point where it was. Expected on the organism with the first
command: attack success grows with the number of steps and levels off. Times on 2 cores; every point costs what its task
costs, but the organism is trained once. Writes sweep.csv, report.json, report.html, figures/ and points/ to --workdir,
and compare.csv where the task is one that `latent-audit compare` takes.
"""

import importlib

import ml_collections

# What a figure of each task shows by default: a column, and which rows of its table (a pandas query).
PLOTS = {
    "lvs": ("asr", "exp == 'lvs' and attack == 'pgd' and aggregated"),
    "finetune": ("compliance", "step > 0"),
    "dissociate": ("value", "measure == 'compliance'"),
    "abliterate": ("compliance", "split == 'evaluation'"),
    "audit": ("value", "measure == 'l2_asr'"),
}


def get_config(base: str = "lvs") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "sweep"
    config.name = f"sweep-{base}"
    config.base = importlib.import_module(f"configs.{base}").get_config()
    config.model = ml_collections.ConfigDict({"dtype": config.base.model.dtype})
    # A Python dict in quotes: field of base -> list of values.
    config.fields = "{'attack.steps': [1, 3, 10]}" if base == "lvs" else "{'seed': [0, 1]}"
    config.mode = "grid"  # grid: every combination; list: the n-th values of all fields together
    # The figure: `plot` averaged over the rows that `where` selects, against the first field.
    config.plot, config.where = PLOTS[config.base.task]
    return config
