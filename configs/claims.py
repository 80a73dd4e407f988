"""The claims about the embedded organism, measured anew on several organism seeds, each with its target.

    python main.py --config=configs/claims.py                                three organisms, 30 minutes on 2 cores

Every seed gets a world, an organism and poles of its own (base, dissociated, its control, harmful), the main job, the
measurement under the nudge, the fine-tuning attack and abliteration: the jobs of configs/lvs.py, finetune.py and
abliterate.py, whose fields stand below as lvs.*, finetune.* and abliterate.*. Each keeps its own workdir, so a stopped
run goes on where it was. Expected: the table in README.md. Writes claims.csv, report.json and report.html to --workdir.
Definitions: docs/method.md sections 1, 5, 6 and 14.
"""

import ml_collections

from configs import abliterate, finetune, lvs


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "claims"
    config.seeds = 3  # organisms, each with its own world
    config.model = ml_collections.ConfigDict({"dtype": "auto"})
    config.organism = ml_collections.ConfigDict({"size": "standard", "family": "llama"})

    config.lvs = lvs.get_config()
    config.lvs.organism.poles = "base,dissociated,control,harmful"
    config.lvs.prompts.harmful_count = 48
    config.finetune = finetune.get_config()
    config.finetune.organism.poles = "base,dissociated"
    # With questions of fact among the harmless prompts, which no way may spoil; and from requests alone: stronger, and
    # blind to what it does to other harmless prompts.
    config.abliterate = abliterate.get_config()
    config.abliterate.choose.facts = 0.5
    config.abliterate_requests = abliterate.get_config()
    config.abliterate_requests.choose.ways = "orthogonalize,subtract_token,affine_token"
    # How many prompts of each kind the poles answer under the nudge, half of it and a random direction.
    config.nudged_prompts = 96
    return config
