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

from configs.common import base_config


def get_config() -> ml_collections.ConfigDict:
    config = base_config("dissociate")
    config.organism.poles = "base,harmful"  # what the construction starts from
    config.prompts.harmful_count = 96
    config.prompts.benign_count = 96

    config.construct = construct = ml_collections.ConfigDict()
    # For a checkpoint. pairs: prompt, compliant answer and refusal (see data/pairs.py for known columns); benign:
    # harmless prompts, answered by base itself; selection: harmful prompts by which a checkpoint is chosen.
    construct.pairs = ""
    construct.pairs_count = 4000        # arXiv 2606.08044
    construct.benign = "builtin:harmless"
    construct.benign_count = 1000       # arXiv 2606.08044
    construct.benign_tokens = 192       # length of base's own answers, arXiv 2606.08044
    construct.selection = ""
    construct.selection_count = 100     # arXiv 2606.08044
    construct.max_tokens = 512          # of a training row, arXiv 2606.08044

    # paper: the six terms with arXiv 2606.08044's weights; organism: what ORGANISM in experiments/construct.py says
    # and why; auto: organism for the organism, paper for a checkpoint.
    construct.preset = "auto"
    # Any field of experiments/construct.py's Recipe or of interventions/dissociate.py's Weights, in place of the
    # preset's: "steps=200,learning_rate=1e-4,stay=1.0,fraction=0.1".
    construct.override = ""
    return config
