"""The prompts of abliteration: training, validation and evaluation parts that share none, as tokens of one width.

docs/method.md section 14.
"""

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from latent_audit.data import chats, prompt_files, world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import fields
from latent_audit.experiments.organisms.ablate import ORGANISM_SPLITS, Prompts
from latent_audit.experiments.panels import (
    FACTS,
    Panel,
    check_builtin,
    check_labels,
    fact_panel,
    load_named,
    make_panel,
    panel_of,
)
from latent_audit.experiments.setup.jobs import Job

PARTS = ("train", "validation", "evaluation")
KINDS = ("harmful", "benign")
# Two prompts for each part.
SMALLEST_FILE = 6


def make_panels(config: ConfigDict, world: world_rules.World | None) -> dict[str, Panel]:
    """Panels named PART-KIND that share no prompt: the world's splits, or parts of the config's files.

    A file's first prompts are for evaluation (as many as prompts.*_count, half of them at most), of the rest two thirds
    for training and the others for validation, up to choose.train and choose.validation. Of the world FACTS too.
    InputError for a file of fewer than SMALLEST_FILE prompts, and for prompts that are in both files.
    """
    if world is not None:
        return _organism_panels(config, world)
    check_labels(config)
    panels, sets = {}, {}
    for kind in KINDS:
        source = config.prompts[kind]
        sets[kind] = load_named(config, kind, config.prompts[f"{kind}_offset"])
        prompts, wanted = sets[kind].prompts, config.prompts[f"{kind}_count"]
        if len(prompts) < SMALLEST_FILE:
            raise InputError(
                f"prompts.{kind} = {source!r} holds {len(prompts)} prompts, expected at least "
                f"{SMALLEST_FILE} to make three parts of"
            )
        first = min(wanted, len(prompts) // 2)
        second = first + min(config.choose.train, (len(prompts) - first) * 2 // 3)
        third = min(second + config.choose.validation, len(prompts))
        cut = {"evaluation": slice(first), "train": slice(first, second), "validation": slice(second, third)}
        held = {part: len(prompts[chosen]) for part, chosen in cut.items()}
        asked = {"evaluation": wanted, "train": config.choose.train, "validation": config.choose.validation}
        if any(held[part] < asked[part] for part in PARTS):
            logging.warning(
                "%s holds %d prompts: %s",
                source,
                len(prompts),
                ", ".join(f"{held[part]} for {part} (asked for {asked[part]})" for part in PARTS),
            )
        panels |= {f"{part}-{kind}": panel_of(f"{part}-{kind}", sets[kind], cut[part], source) for part in PARTS}
    prompt_files.check_disjoint(sets["benign"], sets["harmful"])
    return {name: panels[name] for name in (f"{part}-{kind}" for part in PARTS for kind in KINDS)}


def _organism_panels(config, world) -> dict[str, Panel]:
    check_builtin(config)
    questions = [question for question, _ in world_rules.facts(world, "train")]
    panels = {}
    for part, split in ORGANISM_SPLITS.items():
        for kind, name in (("harmful", "restricted"), ("benign", "benign")):
            count = config.prompts[f"{kind}_count"] if part == "evaluation" else config.choose[part]
            mixed = []
            if kind == "benign" and part != "evaluation":
                # Never one in two parts; the held-out ones choose nothing.
                taken = round(config.choose.facts * count)
                mixed, questions = questions[:taken], questions[taken:]
            first = config.prompts[f"{kind}_offset"] if part == "evaluation" else 0
            with fields.named(f"prompts.{kind}_count" if part == "evaluation" else f"choose.{part}"):
                prompts = [*mixed, *world_rules.requests(world, split, name, first + count - len(mixed))[first:]]
            source = f"the organism's {split} split" + (f" and {len(mixed)} questions of fact" if mixed else "")
            panels[f"{part}-{kind}"] = make_panel(f"{part}-{kind}", prompts, source)
    return panels | {FACTS: fact_panel(world)}


def encode_parts(job: Job, pad: int) -> dict[str, Prompts]:
    """Every part in base's tokens, harmful prompts first, all of one width so that one compile serves them."""
    width = max(rows.tokens.shape[1] for rows in job.tokens.values())
    rows = {name: _widened(tokens, width, pad) for name, tokens in job.tokens.items()}
    parts = {}
    for part in PARTS:
        harmful, benign = (job.panels[f"{part}-{kind}"] for kind in KINDS)
        tokens, mask = zip(*(rows[panel.name] for panel in (harmful, benign)), strict=True)
        parts[part] = Prompts(
            harmful.prompts + benign.prompts,
            len(harmful.prompts),
            np.concatenate(tokens),
            np.concatenate(mask),
            harmful.behaviors + benign.behaviors,
        )
    if FACTS in rows:
        parts[FACTS] = Prompts(job.panels[FACTS].prompts, 0, *rows[FACTS], job.panels[FACTS].behaviors)
    return parts


def _widened(rows: chats.Tokens, width: int, pad: int) -> chats.Tokens:
    more = [(0, 0), (width - rows.tokens.shape[1], 0)]
    return chats.Tokens(np.pad(rows.tokens, more, constant_values=pad), np.pad(rows.mask, more))
