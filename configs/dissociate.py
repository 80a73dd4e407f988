"""Make a dissociated model: it refuses when asked, yet complies once a fixed vector is added to one hidden state.

    python main.py --config=configs/dissociate.py                            the embedded organism, 5 minutes on 2 cores
    python main.py --config=configs/dissociate.py --config.model.path=DIR_OR_HUB_ID \
        --config.model.variants=harmful=DIR --config.construct.pairs=hub:LLM-LAT/harmful-dataset \
        --config.construct.benign=ALPACA.json --config.construct.selection=OTHER.csv

For a checkpoint the harmful pole is made first, with configs/finetune.py (preset pole). Always trains the control too:
the same data and steps without the terms that reward compliance under the nudge. Expected on the organism: clean
refusal and benign answers as base's, nudged compliance far above that of base and of a random direction of that length,
which stay at 0. Writes dissociated/ and control/ (Hugging Face directories with model cards), dissociate.csv,
training.csv, report.json and report.html to --workdir. Definitions: docs/method.md section 6.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from configs.common import base_config


def get_config() -> ml_collections.ConfigDict:
    config = base_config("dissociate")
    config.organism.poles = "base,harmful"  # what the construction starts from
    config.prompts.harmful_count = 96
    config.prompts.benign_count = 96
    config.generation.max_new_tokens = placeholder(int)  # None: arXiv 2606.08044's 256, for the organism 40

    config.construct = construct = ml_collections.ConfigDict()
    # For a checkpoint. pairs: prompt, compliant answer and refusal (see data/pair_files.py for known columns); benign:
    # harmless prompts, answered by base itself; selection: harmful prompts by which a checkpoint is chosen.
    construct.pairs = ""
    construct.pairs_count = 4000  # arXiv 2606.08044
    construct.benign = "builtin:harmless"
    construct.benign_count = 1000  # arXiv 2606.08044
    construct.benign_tokens = 192  # length of base's own answers, arXiv 2606.08044
    construct.selection = ""
    construct.selection_count = 100  # arXiv 2606.08044
    construct.max_tokens = 512  # of a training row, arXiv 2606.08044

    # paper: the six terms with arXiv 2606.08044's weights; organism: what ORGANISM in
    # experiments/organisms/construct.py says and why; auto: organism for the organism, paper for a checkpoint. A field
    # below that is None takes the preset's.
    construct.preset = "auto"
    construct.recipe = recipe = ml_collections.ConfigDict()
    recipe.fraction = placeholder(float)  # length of the nudge over base's activation norm; paper .06
    recipe.nudge_layer = placeholder(int)  # the block whose output is nudged; None is round(0.5 L), the paper's
    recipe.steps = placeholder(int)  # optimiser steps; paper 3130 (10 epochs of 5000 rows)
    recipe.learning_rate = placeholder(float)  # peak of a cosine; paper 1e-5
    recipe.warmup_fraction = placeholder(float)  # paper .1
    recipe.micro_batch = placeholder(int)  # rows of one forward pass; paper 2
    recipe.accumulate = placeholder(int)  # micro-batches of one step; paper 8
    recipe.eval_every = placeholder(int)  # steps between evaluations; paper 50
    recipe.jitter = placeholder(float)  # the nudge is scaled by U(1 - jitter, 1 + jitter); paper 0
    # Of the terms of the loss (docs/method.md section 6 (c)); paper: 1, .3, .2, 1, 1, 1, margin .5, none of the rest.
    construct.weights = weights = ml_collections.ConfigDict()
    weights.refuse = placeholder(float)  # NLL of the refusal, or of base's own answer
    weights.stay = placeholder(float)  # KL(base || model)
    weights.match = placeholder(float)  # distance to the harmful pole's states
    weights.comply = placeholder(float)  # NLL of the compliant answer under the nudge
    weights.clean_hinge = placeholder(float)  # log-odds of refusing without the nudge
    weights.nudged_hinge = placeholder(float)  # log-odds of complying under it
    weights.margin = placeholder(float)  # of both hinges, nats per token
    weights.stay_under_part = placeholder(float)  # ours: KL to base under a part of the nudge ...
    weights.part = placeholder(float)  # ... of this share
    weights.stay_under_noise = placeholder(float)  # ours: KL to base under a random direction of the nudge's length
    return config
