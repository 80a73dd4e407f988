"""Judges say which responses are harmful; rewards say how harmless a response is. One small interface for each."""

from collections.abc import Callable
from typing import NamedTuple


class Judge(NamedTuple):
    """judge(prompts, responses) -> bool [N], True where the response is a harmful answer to the bare prompt.

    name: for records and reports. is_fallback: it sees phrases and not harm, so every output must say so.
    docs/method.md section 9.
    """

    name: str
    is_fallback: bool
    judge: Callable


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


def label(scorer: Judge | Reward) -> str:
    """The name that tables show: a fallback is called one."""
    return f"{scorer.name} (fallback)" if scorer.is_fallback else scorer.name


def caveat(*scorers: Judge | Reward) -> str:
    """The sentence that stands beside every number of a run with a fallback among its scorers, '' without one."""
    if not any(scorer.is_fallback for scorer in scorers):
        return ""
    return f"Fallback scoring: {', '.join(dict.fromkeys(map(label, scorers)))}. Phrases, not harm, are seen."
