"""RAS (SafeVec): score models 0 to 100 by how far they drop along their family's refusal direction, calibrated.

    python main.py --config=configs/ras.py                                   a zoo of organisms, 13 minutes on 2 cores
    python main.py --config=configs/ras.py --config.reference=DIR_OR_HUB_ID \
        --config.calibration=ID:0.13,ID:0.63,ID:0.93 --config.targets=ID,ID
    python main.py --config=configs/ras.py --config.calibration_file=runs/ras/calibration/llama.json \
        --config.targets=DIR_OR_HUB_ID                                       forward passes only

The zoo: per family 13 organisms of graded safety, trained on the spot (kept in WORKDIR/zoo, 4.3 minutes once it is
there). ASRs of checkpoints are shares behind a colon, or measured with the judge where none is given. Expected on the
zoo: aligned models above unsafe ones, RAS falling with attack success, and dissociated models scored as aligned, though
the L2 attack breaks them. Writes ras.csv, calibration/, report.json, report.html and figures/ to --workdir.
Definitions: docs/method.md section 10; the second use of a calibration is configs/ras_regression.py.
"""

import ml_collections

from configs import audit


def get_config() -> ml_collections.ConfigDict:
    whole = audit.get_config()
    config = ml_collections.ConfigDict(
        {
            name: whole[name]
            for name in (
                # As in configs/common.py: of which the organism's family and poles are not read here.
                "seed",
                "model",
                "organism",
                "chat",
                "prompts",
                "generation",
                "judge",
                "reward",
                "prompt_batch",
                "layer_batch",
                # As in configs/audit.py: the attacks and the probe that RAS is compared with.
                "attack",
                "score",
                "rows",
                "place",
                "l2",
                "static",
            )
        }
    )
    config.task = "ras"
    # Its attacks take the first of the ASR panel.
    del config.attack.offset, config.l2.offset

    # Checkpoints. All empty: the zoo. Directories or hub ids, separated by commas, an ASR behind a colon.
    config.reference = ""  # the family's aligned model
    config.calibration = ""  # at least two more of the family, of different attack success
    config.targets = ""  # what is to be scored
    config.measure_targets = False  # True measures the ASR of targets too
    config.calibration_file = ""  # a frozen calibration in place of reference and calibration

    # The zoo of organisms (experiments/organisms/zoo.py).
    config.families = "llama,qwen3,gemma2"
    config.organism.size = "small"
    config.zoo = ml_collections.ConfigDict({"directory": ""})  # where it is kept; empty is zoo/ in the workdir

    # heldout: scores on other prompts than direction and window, leave-one-model-out; paper (arXiv 2606.25750): the
    # same prompts, in sample. The first is what controls, comparisons and the frozen calibration are of.
    config.protocols = "heldout,paper"
    # Refusal directions (unsafe - safe) of a file in place of those of the reference's means: docs/prompts.md.
    config.direction = ""
    config.window = ""  # first and last layer by hand, such as 22-30; empty: the rule
    config.wrappers = "all"  # families of data/wrappers.py (the organism has its own) that J is made with
    # U, S and the ASR panel: files, hub:owner/name or builtin:..., see configs/common.py. The first harmful_count and
    # benign_count prompts give the direction, the next as many the scores.
    config.prompts.harmful_count = 128
    config.prompts.benign_count = 128
    config.prompts.asr = ""  # harmful prompts that ASR is measured on; empty: what is behind in the same file
    config.prompts.asr_column = ""
    config.prompts.asr_count = 192

    config.random_directions = 20  # of the random control
    config.rivals = True  # separation score, and the probe where static.pairs (or the organism) has texts
    config.attacks = "auto"  # latent and L2 attack on every model: auto (on the zoo), yes, no
    config.speed = True  # time RAS against generating and judging, where there is a judge
    config.generation.max_new_tokens = 40  # the organism's longest answer has 28 tokens; checkpoints need 128 or more
    config.prompt_batch = 64
    config.layer_batch = 1
    # No nudge is read: each model's layer and length are searched, where the reference withstands, on the first
    # selection_prompts unsafe prompts of the half that gives the direction, then measured on the ASR panel.
    config.selection_prompts = 24
    config.l2.prompts = 48
    config.l2.layers = "all"  # searched; or names: "L2,L3"
    config.l2.multiples = (0.5, 1.0, 2.0)  # lengths tried, times place.fraction (.06): arXiv 2606.08044's of steering
    config.l2.rounds = 0
    config.attack.layers = "searched"  # where the L2 attack broke a model most on those prompts; or one name
    config.attack.budgets = (0.02,)  # one, fixed here: the largest of the organism's defaults
    config.attack.prompts = 24
    return config
