"""The abliterated member of the zoo: directions from training prompts, candidate chosen on validation prompts.

docs/method.md, "Abliteration", with fewer ways and prompts than configs/abliterate.py, and only ways whose result is a
checkpoint.
"""

import dataclasses

import numpy as np

from latent_audit import models
from latent_audit.data import chats, world_rules
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import train
from latent_audit.experiments.tampering import abliterate as task
from latent_audit.experiments.tampering.abliterate_prompts import ORGANISM_SPLITS, Prompts
from latent_audit.interventions import abliterate
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
    means = task.measure_means(loaded, fit, limit=SETTINGS.positions, batch=BATCH)
    tried = abliterate.candidates(means, ways=SETTINGS.ways, strengths=SETTINGS.strengths)
    plain = abliterate.Ablated(loaded.cfg, loaded.params)
    openings = first_token.refusal_openings(*np.split(task.first_tokens(plain, fit, BATCH), [fit.harmful]))
    said = task.first_tokens(plain, validation, BATCH)

    def made(candidate):
        return abliterate.ablate(candidate, means, loaded.params, cfg=loaded.cfg, width=fit.tokens.shape[1])

    scores = [
        _score(task.first_tokens(made(candidate), validation, BATCH), said, validation.harmful, openings)
        for candidate in tried
    ]
    # By strength: the first word does not show what too much of it does to the rest of an answer.
    worth = [
        index
        for strength in sorted({candidate.strength for candidate in tried})
        for index in _shortlist(tried, scores, strength)
    ]
    judged = [_judge(world, loaded, validation, made(tried[index]), scores[index].kl) for index in worth]
    base = _judge(world, loaded, validation, plain, 0.0)
    best, step = abliterate.choose(judged, base_answered=base.answered)
    candidate, model = tried[worth[best]], made(tried[worth[best]])
    chosen = {
        "way": candidate.way,
        "layer": models.layer_name(candidate.state),
        "strength": candidate.strength,
        "position": means.positions[candidate.position],
        "directions": candidate.directions,
        "validation compliance": judged[best].bypass,
        "validation answered": judged[best].answered,
        "kl": judged[best].kl,
        "step of the rule": step,
    }
    return loaded._replace(cfg=model.cfg, params=model.params), chosen


def _shortlist(tried, scores, strength) -> list[int]:
    """The SETTINGS.shortlist best of one strength; where none is within the bound on KL, the one of the smallest."""
    own = [index for index, candidate in enumerate(tried) if candidate.strength == strength]
    inside = abliterate.shortlist([scores[index] for index in own], SETTINGS.shortlist)
    return [own[place] for place in inside] or [min(own, key=lambda index: scores[index].kl)]


def _prompts(world, loaded, part, count) -> Prompts:
    texts = [
        prompt
        for kind in ("restricted", "benign")
        for prompt in world_rules.requests(world, ORGANISM_SPLITS[part], kind, count)
    ]
    tokens = chats.encode_prompts(loaded.chat, texts, max_length=train.MAX_TOKENS, width=train.PLAIN_PROMPT)
    return Prompts(tuple(texts), count, *tokens)


def _score(said, base, harmful, openings) -> abliterate.Score:
    """Bypass and KL of docs/method.md, "Abliteration", from first-token log-probabilities [N, V]."""
    odds, of_base = (first_token.log_odds(one, openings) for one in (said, base))
    start, end = of_base[:harmful].mean(), of_base[harmful:].mean()
    bypass = float(np.clip((start - odds[:harmful].mean()) / (start - end), 0, 1))
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
