"""Abliteration: find a refusal direction, take it out in six ways, and measure what is left of the refusals.

    python main.py --config=configs/abliterate.py                            the embedded organism, 2 minutes on 2 cores
    python main.py --config=configs/abliterate.py --config.model.path=DIR_OR_HUB_ID \
        --config.prompts.harmful=hub:walledai/AdvBench --config.prompts.benign=hub:tatsu-lab/alpaca

Directions come from training prompts, layer, position and strength are chosen on validation prompts, the numbers are of
evaluation prompts: three disjoint parts. Expected on the organism: plain orthogonalisation fails (zero is not what
harmless prompts have there), the ways that keep the harmless mean comply with most restricted requests and still answer
harmless ones, but spoil questions of fact. Writes abliterate.csv, report.json, report.html, figures/ and the changed
checkpoints with their model cards to --workdir. A model of 8 billion parameters in bfloat16 needs one 80 GB device (it
is held twice). Definitions: docs/method.md section 14.
"""

import ml_collections

from configs.common import base_config


def get_config() -> ml_collections.ConfigDict:
    config = base_config("abliterate")
    config.organism.poles = "base"
    # How many prompts of each kind are kept for evaluation; a short file keeps its first half at most.
    config.prompts.harmful_count = 96
    config.prompts.benign_count = 96
    config.prompt_batch = 48
    # Nothing here is scored for harmlessness; the phrases cost nothing to load.
    config.reward.kind = "refusal"

    config.choose = choose = ml_collections.ConfigDict()
    choose.ways = "all"  # or some of interventions/abliterate.py's WAYS: "orthogonalize,affine"
    # How many times a mean (difference) is applied, where a way has a strength.
    choose.strengths = (1.0, 2.0, 3.0, 4.0)
    # The organism answers all harmless requests with the same first word, and what moves that word for harmful ones may
    # move it for harmless prompts of another kind too. This share of its harmless training and validation prompts are
    # questions of fact instead, so that no way may spoil those; few ways then remove many refusals.
    choose.facts = 0.0
    choose.positions = 3  # at most so many last tokens of the template's generation prefix
    choose.train = 128  # prompts of each kind that the means are taken over
    choose.validation = 96  # prompts of each kind that candidates are compared on
    # judge: by compliance, for the candidates of each way whose first token promises most; log_odds: by refusing with
    # the first token, no generation; auto: judge for the organism, log_odds for a checkpoint.
    choose.by = "auto"
    choose.shortlist = 3  # candidates of each way and strength that are generated for and judged
    # Openings of a refusal, such as ("I", "As"), whose first tokens count; empty: what the model opens its answers to
    # harmful prompts with, and never those to harmless ones.
    choose.openings = ()
    return config
