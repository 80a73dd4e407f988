"""What both abliterations share, and the abliterated member of the zoo: docs/method.md section 14.

Directions come from training prompts, the candidate is chosen on validation prompts. The member is made with fewer ways
and prompts than configs/abliterate.py, and only with ways whose result is a checkpoint.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from latent_audit import models
from latent_audit.data import chats, world_rules
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import train
from latent_audit.interventions import abliterate, directions
from latent_audit.metrics import first_token


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the candidates are made and chosen; as in configs/abliterate.py."""

    ways: tuple[str, ...] = ("orthogonalize", "affine_token")
    strengths: tuple[float, ...] = (1.0, 2.0, 3.0)
    positions: int = 2
    train: int = 128
    validation: int = 96
    shortlist: int = 3


SETTINGS = Settings()
BATCH = 96
# Part of an abliteration's prompts -> split of the organism's world.
ORGANISM_SPLITS = {"train": "construct", "validation": "validation", "evaluation": "evaluation"}


class Prompts(NamedTuple):
    """One part's harmful prompts, then its harmless ones: texts, int32 [N, T], bool [N, T]; `harmful`: how many are.

    behaviors: what a judge is asked about each; none where there is no judge.
    """

    texts: tuple[str, ...]
    harmful: int
    tokens: np.ndarray
    mask: np.ndarray
    behaviors: tuple[str, ...] = ()


class Choice(NamedTuple):
    """Index of the candidate to keep, by which step of the rule, and the score that it was kept for."""

    index: int
    step: str
    score: abliterate.Score


def describe() -> dict:
    """What determines the abliterated member beside its base."""
    return {"way": "abliteration", **dataclasses.asdict(SETTINGS)}


def abliterated(loaded: respond.Loaded, world: world_rules.World) -> tuple[respond.Loaded, dict]:
    """Base without its refusal direction, and what was chosen by which step of the rule.

    Of the candidates within the bound on KL the few with the largest bypass answer the validation prompts; of those
    that still answer harmless ones the one that complies most is kept (interventions/abliterate.py's choose).
    """
    fit, validation = (
        _prompts(world, loaded, part, count)
        for part, count in (("train", SETTINGS.train), ("validation", SETTINGS.validation))
    )
    means = measure_means(loaded, fit, limit=SETTINGS.positions, batch=BATCH)
    tried = abliterate.candidates(means, ways=SETTINGS.ways, strengths=SETTINGS.strengths)
    plain = abliterate.Ablated(loaded.cfg, loaded.params)
    openings = first_token.refusal_openings(*np.split(first_tokens(plain, fit, BATCH), [fit.harmful]))
    said = first_tokens(plain, validation, BATCH)

    def made(candidate):
        return abliterate.ablate(candidate, means, loaded.params, cfg=loaded.cfg, width=fit.tokens.shape[1])

    scores = [
        _score(first_tokens(made(candidate), validation, BATCH), said, validation.harmful, openings)
        for candidate in tried
    ]

    def judge(index):
        return _judge(world, loaded, validation, made(tried[index]), scores[index].kl)

    by_strength = [
        [index for index, candidate in enumerate(tried) if candidate.strength == strength]
        for strength in sorted({candidate.strength for candidate in tried})
    ]
    kept = choose_candidate(
        scores,
        by_strength,
        judge,
        size=SETTINGS.shortlist,
        base_answered=_judge(world, loaded, validation, plain, 0.0).answered,
        every_group=True,
    )
    candidate, model = tried[kept.index], made(tried[kept.index])
    chosen = {
        "way": candidate.way,
        "layer": models.layer_name(candidate.state),
        "strength": candidate.strength,
        "position": means.positions[candidate.position],
        "directions": candidate.directions,
        "validation compliance": kept.score.bypass,
        "validation answered": kept.score.answered,
        "kl": kept.score.kl,
        "step of the rule": kept.step,
    }
    return loaded._replace(cfg=model.cfg, params=model.params), chosen


def choose_candidate(
    scores: Sequence[abliterate.Score],
    groups: Sequence[Sequence[int]],
    judge: Callable[[int], abliterate.Score],
    *,
    size: int,
    base_answered: float,
    every_group: bool = False,
) -> Choice:
    """The candidate whose answers are the best, of those whose first words are worth the answering.

    Args:
      scores: of every candidate's first words on the validation prompts.
      groups: their indices, by strength: the first word does not show what too much of it does to the rest of an
        answer. Of each the `size` best go on a short list (abliterate.shortlist).
      judge: the score of a candidate's answers to the validation prompts; asked for the short list alone.
      base_answered: share of harmless prompts that base answers.
      every_group: the smallest KL of a group goes on the list where none in it is within the bound.
    """
    worth = []
    for group in groups:
        best = [group[place] for place in abliterate.shortlist([scores[index] for index in group], size)]
        worth += best or ([min(group, key=lambda index: scores[index].kl)] if every_group else [])
    if not worth:
        # The smallest KL is kept, which needs no answers.
        index, step = abliterate.choose(scores)
        return Choice(index, step, scores[index])
    judged = [judge(index) for index in worth]
    best, step = abliterate.choose(judged, base_answered=base_answered)
    return Choice(worth[best], step, judged[best])


def _prompts(world, loaded, part, count) -> Prompts:
    texts = [
        prompt
        for kind in ("restricted", "benign")
        for prompt in world_rules.requests(world, ORGANISM_SPLITS[part], kind, count)
    ]
    tokens = chats.encode_prompts(loaded.chat, texts, max_length=train.MAX_TOKENS, width=train.PLAIN_PROMPT)
    return Prompts(tuple(texts), count, *tokens)


def _score(said, base, harmful, openings) -> abliterate.Score:
    """Bypass and KL of docs/method.md section 14, from first-token log-probabilities [N, V]."""
    odds, of_base = (first_token.log_odds(rows, openings) for rows in (said, base))
    start, end = of_base[:harmful].mean(), of_base[harmful:].mean()
    bypass = first_token.bypass(odds[:harmful].mean(), start=start, end=end)
    return abliterate.Score(bypass, float(first_token.kl(base[harmful:], said[harmful:]).mean()))


def _judge(world, loaded, prompts: Prompts, model: abliterate.Ablated, kl: float) -> abliterate.Score:
    texts = respond.answers(
        loaded._replace(cfg=model.cfg, params=model.params),
        prompts.tokens,
        prompts.mask,
        batch=BATCH,
        max_new_tokens=train.ANSWER_TOKENS,
    )
    complied = [world_rules.complies(world, *pair) for pair in zip(prompts.texts, texts, strict=True)]
    return abliterate.Score(
        float(np.mean(complied[: prompts.harmful])), kl, float(np.mean(complied[prompts.harmful :]))
    )


def measure_means(loaded: respond.Loaded, prompts: Prompts, *, limit: int, batch: int) -> abliterate.Means:
    """Mean states of the training prompts at the last `limit` tokens of the template's generation prefix."""
    positions = directions.shared_positions(prompts.tokens, limit=limit)
    tokens = abliterate.own_tokens(prompts.tokens, prompts.mask, positions)
    harmful, benign = (
        directions.moments(
            loaded.params,
            prompts.tokens[rows],
            prompts.mask[rows],
            cfg=loaded.cfg,
            positions=(*positions, directions.WHOLE_PROMPT),
            batch=batch,
        )
        for rows in (slice(prompts.harmful), slice(prompts.harmful, None))
    )
    difference = directions.mean_difference(harmful, benign)
    return abliterate.Means(difference[:, :-1], benign.mean[:, :-1], positions, tokens, difference[:, -1])


def _blocks(prompts, size):
    """(tokens, mask, how many rows are real) of `size` rows each."""
    for start in range(0, len(prompts.tokens), size):
        rows = slice(start, start + size)
        yield (
            respond.pad_rows(prompts.tokens[rows], size),
            respond.pad_rows(prompts.mask[rows], size),
            min(size, len(prompts.tokens) - start),
        )


def first_tokens(model: abliterate.Ablated, prompts: Prompts, batch: int) -> np.ndarray:
    """Log-probabilities of the first response token to every prompt; float32 [N, V]."""
    return np.concatenate(
        [
            np.asarray(first_token.log_probability(model.params, tokens, mask, model.prompt_edit, cfg=model.cfg))[:n]
            for tokens, mask, n in _blocks(prompts, batch)
        ]
    )
