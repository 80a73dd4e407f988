"""What is trained on: pairs of the organism's world, and any pairs as token rows of one model."""

from collections.abc import Sequence

from absl import logging

from latent_audit.data import chats, pair_files, world_rules
from latent_audit.experiments import respond
from latent_audit.interventions.finetune import Examples, pack_examples
from latent_audit.runtime.telling import progress


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


def own_answers(
    loaded: respond.Loaded, prompts: Sequence[str], *, max_length: int, batch: int, max_new_tokens: int
) -> list[tuple[str, str]]:
    """(prompt, the model's own greedy answer) of harmless prompts; those it answers with nothing are left out."""
    tokens, mask = chats.encode_prompts(loaded.chat, prompts, max_length=max_length)
    with progress.of(len(tokens), "benign answers") as meter:
        answers = respond.answers(
            loaded, tokens, mask, batch=batch, max_new_tokens=max_new_tokens, advance=meter.advance
        )
    return [pair for pair in zip(prompts, answers, strict=True) if pair[1].strip()]


def encode_pairs(chat: chats.Chat, prompts, responses, *, max_tokens: int, loss_on: str = "response") -> Examples:
    """Prompts through the chat template, each with its answer as the assistant's whole turn, end token included.

    An answer that would not fit into max_tokens is cut (it then has no end token) and the cut ones are counted in the
    log, as in arXiv 2606.08044; a prompt that leaves no room for an answer is an InputError.
    """
    encoded = chats.encode_prompts(chat, prompts, max_length=max_tokens - 1)
    rows = [tokens[mask] for tokens, mask in zip(*encoded, strict=True)]
    turns = chats.assistant_turns(chat, responses)
    cut = [turn[: max_tokens - len(row)] for row, turn in zip(rows, turns, strict=True)]
    shortened = sum(map(len, cut)) < sum(map(len, turns)) and sum(
        len(short) < len(turn) for short, turn in zip(cut, turns, strict=True)
    )
    if shortened:
        logging.warning("%d of %d answers cut to fit max_tokens = %d", shortened, len(turns), max_tokens)
    return pack_examples(rows, cut, pad_id=chats.pad_id(chat), loss_on=loss_on)
