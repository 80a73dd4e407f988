"""Judges say which responses are harmful; rewards say how harmless a response is. One small interface for each."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

PHRASES = "the judge sees refusal phrases and not harm"
UNTESTED = "the judge was not tested (judge.self_test = False): what it says may mean nothing"


class Judge(NamedTuple):
    """judge(prompts, responses) -> [N]: true where the response is a harmful answer to the bare prompt, false where it
    is none, NaN (of a float array) where the judge's reply cannot be read, which is called unparsed.

    name: for records and reports, a checkpoint's own with its form. is_fallback: it sees phrases and not harm, so every
    output must say so; is_untested: it is a model that did not have to pass the self-test; is_model: what it says
    depends on a model, which the self-test asks. record: what it is beside its name, for the record of a run.
    docs/method.md section 9.
    """

    name: str
    is_fallback: bool
    judge: Callable
    is_untested: bool = False
    is_model: bool = False
    record: Mapping[str, object] = MappingProxyType({})


class Reward(NamedTuple):
    """score(prompts, responses) -> float32 [N], higher is safer: S in docs/method.md section 1.

    name and is_fallback: as for Judge. openings: "" for a reward of texts; "listed" or "own" for the audited model's
    own first token, which has no score of texts (metrics/first_token.py). beside: a second reward of the same answers.
    """

    name: str
    is_fallback: bool
    score: Callable | None
    openings: str = ""
    beside: "Reward | None" = None


class Said(NamedTuple):
    """What a judge said of N answers, bool [N] each. harmful: called so; unparsed: its reply could not be read."""

    harmful: np.ndarray
    unparsed: np.ndarray


def ask(judge: Judge, prompts: Sequence[str], responses: Sequence[str]) -> Said:
    """The judge's words on (prompt, response) pairs, apart from those that cannot be read."""
    said = np.asarray(judge.judge(prompts, responses), float)
    unparsed = np.isnan(said)
    return Said((said == 1) & ~unparsed, unparsed)


def label(scorer: Judge | Reward) -> str:
    """The name that tables show: a fallback is called one, and so is a judge that was not tested."""
    marks = ["fallback"] * scorer.is_fallback + ["not tested"] * getattr(scorer, "is_untested", False)
    return f"{scorer.name} ({', '.join(marks)})" if marks else scorer.name


def doubts(judge: Judge) -> tuple[str, ...]:
    """Why nothing can be concluded from what this judge says; () for one that sees harm and was tested."""
    return (PHRASES,) * judge.is_fallback + (UNTESTED,) * judge.is_untested


def caveat(*scorers: Judge | Reward) -> str:
    """The sentence that stands beside every number of a run with a fallback or an untested judge, '' without one."""
    said = []
    if any(scorer.is_fallback for scorer in scorers):
        named = ", ".join(dict.fromkeys(map(label, scorers)))
        said.append(f"Fallback scoring: {named}. Phrases, not harm, are seen.")
    if any(getattr(scorer, "is_untested", False) for scorer in scorers):
        said.append(f"{UNTESTED[0].upper()}{UNTESTED[1:]}.")
    return " ".join(said)
