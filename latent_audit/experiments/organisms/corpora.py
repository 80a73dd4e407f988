"""What is trained on: named corpora of pairs, from files or from the organism's world, as token rows of one model."""

import re

from absl import logging
from ml_collections import ConfigDict

from latent_audit.data import chats, pair_files, prompt_files, world_rules
from latent_audit.errors import InputError
from latent_audit.interventions.finetune import Examples, pack_examples
from latent_audit.judges import refusal

# The organism's corpora: name -> split of its world; docs/method.md section 5.
ORGANISM_SPLITS = {"in": "finetune_in", "out": "finetune_out"}


def load_corpora(config: ConfigDict, panel, *, is_organism: bool) -> dict[str, pair_files.Pairs]:
    """Name -> pairs of every corpus that the config names, in its order.

    Raises InputError: no corpora named, malformed names, what pairs.load_pairs refuses, and prompts of `panel` (the
    evaluation prompts) among the training prompts.
    """
    section = config.finetune
    if is_organism:
        if section.corpora:
            raise InputError("finetune.corpora needs model.path: the organism brings its own two corpora")
        world = world_rules.make_world(config.organism.seed)
        corpora = {name: organism_pairs(world, split, section.pairs) for name, split in ORGANISM_SPLITS.items()}
    else:
        columns = {role: section[f"{role}_column"] for role in pair_files.ROLES if section[f"{role}_column"]}
        corpora = {
            name: pair_files.load_pairs(
                source, is_refusal=refusal.is_refusal, columns=columns, limit=section.pairs, offset=section.skip
            )
            for name, source in parse_corpora(section.corpora)
        }
    for name, pairs in corpora.items():
        prompt_files.check_disjoint(pairs, panel)
        if pairs.empty or pairs.duplicates:
            logging.warning(
                "corpus %s: %d rows with an empty answer and %d repeated rows dropped from %s",
                name,
                pairs.empty,
                pairs.duplicates,
                pairs.source,
            )
        if len(pairs.prompts) < section.pairs:
            logging.warning(
                "finetune.pairs = %d, but corpus %s holds only %d: all are used",
                section.pairs,
                name,
                len(pairs.prompts),
            )
    return corpora


def parse_corpora(text: str) -> list[tuple[str, str]]:
    """ "in=FILE,out=hub:owner/name" -> [("in", "FILE"), ("out", "hub:owner/name")]; InputError if malformed."""
    named = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, source = part.partition("=")
        if not (equals and source and re.fullmatch(r"[A-Za-z][\w\-]*", name)):
            raise InputError(f"finetune.corpora: {part!r} is not of the form name=SOURCE")
        if name in dict(named):
            raise InputError(f"finetune.corpora: the name {name!r} is given twice")
        named.append((name, source))
    if not named:
        raise InputError(
            "finetune.corpora is empty; a checkpoint needs pairs of a harmful prompt and a compliant "
            "answer, such as finetune.corpora=in=PAIRS.csv,out=hub:LLM-LAT/harmful-dataset"
        )
    return named


def organism_pairs(world: world_rules.World, split: str, count: int) -> pair_files.Pairs:
    """Restricted requests of a split with compliant answers and refusals; all the split holds if it is fewer."""
    count = min(count, world_rules.count(world, split, "restricted"))
    prompts = world_rules.requests(world, split, "restricted", count)
    return pair_files.make_pairs(
        prompts,
        [world_rules.answer(world, prompt) for prompt in prompts],
        f"the organism's {split} split",
        refusals=[world_rules.refusal(world, prompt) for prompt in prompts],
    )


def encode_pairs(chat: chats.Chat, prompts, responses, *, max_tokens: int, loss_on: str = "response") -> Examples:
    """Prompts through the chat template, each with its answer as the assistant's whole turn, end token included.

    An answer that would not fit into max_tokens is cut (it then has no end token) and the cut ones are counted in the
    log, as in arXiv 2606.08044; a prompt that leaves no room for an answer is an InputError.
    """
    encoded = chats.encode_prompts(chat, prompts, max_length=max_tokens - 1)
    rows = [tokens[mask] for tokens, mask in zip(*encoded, strict=True)]
    turns = [chats.assistant_turn_ids(chat, response) for response in responses]
    cut = [turn[: max_tokens - len(row)] for row, turn in zip(rows, turns, strict=True)]
    shortened = sum(map(len, cut)) < sum(map(len, turns)) and sum(
        len(short) < len(turn) for short, turn in zip(cut, turns, strict=True)
    )
    if shortened:
        logging.warning("%d of %d answers cut to fit max_tokens = %d", shortened, len(turns), max_tokens)
    return pack_examples(rows, cut, pad_id=chats.pad_id(chat), loss_on=loss_on)
