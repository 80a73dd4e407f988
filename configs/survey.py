"""Survey of public checkpoints without a twin: behaviour, the L2 attack and own-direction steering, several at a time.

    python main.py --config=configs/survey.py --config.models=ID_OR_DIR,ID_OR_DIR \
        --config.base.judge.kind=refusal --config.base.reward.kind=refusal

Each model is audited in its own template and with its own refusal direction at block round(0.5 L) (all layers with
--config.base.steer.layers=all), so that models of different shapes stand in one table: what arXiv 2606.08044 calls the
survey. Fields of configs/audit.py are set as base.*. Hardware and time are those of the models: a few minutes each on
one GPU for 3 billion parameters. Expected: direct compliance says little about compliance under the attack. Writes
survey.csv, compare.csv, report.json, report.html and every model's own card under models/ to --workdir.
docs/method.md sections 8 and 16.
"""

import ml_collections

from configs import audit


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "survey"
    config.models = ""  # hub ids or directories, separated by commas
    config.base = audit.get_config()
    config.base.experiments = "panel,l2,steer"
    config.base.steer.direction = "own"
    config.base.steer.layers = "nudge"
    config.base.steer.cone = False
    config.model = ml_collections.ConfigDict({"dtype": config.base.model.dtype})
    return config
