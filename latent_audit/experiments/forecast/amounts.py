"""How much a part of a run computes, in five numbers that add up, and how long that takes at measured rates.

What is known before a run is counted by the tasks themselves (their function `work`); what only the model decides, such
as where its answers end, is a share between `least` and 1 of what there can be at most. Ours; nothing is a result.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from latent_audit.models import sizes
from latent_audit.models.config import ModelConfig


class Amount(NamedTuple):
    """What is computed, each number times what it costs.

    passes: tokens x blocks, forward; backward: tokens x blocks, backward to activations; weights: tokens x blocks,
    backward to weights too, beyond that; decoded: rows x steps through the whole model; judged: tokens that another
    model reads or writes, as tokens x its parameters / 1e9.
    """

    passes: float = 0.0
    backward: float = 0.0
    weights: float = 0.0
    decoded: float = 0.0
    judged: float = 0.0


class Work(NamedTuple):
    """A part of a run.

    key: what labels of its units begin with, or the unit of a meter of its own; units: how many there are; amount: of
    all of them, at most; least, likely: the shares of it that are computed at least, and most often.
    """

    key: str
    units: int
    amount: Amount
    least: float = 1.0
    likely: float = 1.0


class Rates(NamedTuple):
    """Seconds per one of each number of an Amount; compiling: of one program, as measured beside them."""

    passes: float
    backward: float
    weights: float
    decoded: float
    judged: float
    compiling: float = 0.0


def total(amounts: Sequence[Amount]) -> Amount:
    """The sum of several."""
    return Amount(*(sum(column) for column in zip(*amounts, strict=True))) if amounts else Amount()


def times(amount: Amount, factor: float) -> Amount:
    """So many times as much."""
    return Amount(*(factor * one for one in amount))


def seconds(amount: Amount, rates: Rates) -> float:
    """How long it takes at these rates, compiling left out."""
    return sum(one * rate for one, rate in zip(amount, rates, strict=False))


def operations(amount: Amount, cfg: ModelConfig, columns: int) -> float:
    """Multiplications and additions, the head of every decoded token included."""
    block = sizes.block_operations(cfg, columns)
    decode = cfg.num_layers * block + sizes.head_operations(cfg)
    passes = block * (amount.passes + amount.backward + amount.weights)
    return passes + decode * amount.decoded + 2e9 * amount.judged


# Tokens of a goal behind the prompt, and of what a judge reads around an answer: about. An answer seldom goes on to the
# last token that it may have; the organism's never do.
GOAL, JUDGED_AROUND = 5, 550
ANSWERS = {False: (0.25, 0.75), True: (0.3, 0.6)}  # is it the organism's? -> (least, likely)


class Seen(NamedTuple):
    """What is known of one variant before it is audited.

    name: of the variant; settings: experiment -> what its check gave; prompts, columns: panel -> how many prompts, and
    how wide in tokens; batch: prompts searched together; new_tokens(paper) -> how long an answer may be; samples: drawn
    beside each greedy answer; judge: parameters / 1e9 of a judge and a reward that are models, together.
    """

    name: str
    cfg: ModelConfig
    is_organism: bool
    settings: Mapping
    prompts: Mapping[str, int]
    columns: Mapping[str, int]
    batch: int
    new_tokens: Callable[[int], int]
    samples: int
    judge: float
    nudge_state: int


def attacked(seen: Seen, most: int | None, offset: int = 0) -> int:
    """How many of the harmful panel are attacked: at most so many behind the first `offset`, None for all."""
    held = seen.prompts["harmful"] - offset
    return held if most is None else min(most, held)


def asked(seen: Seen, key: str, units: int, rows: float, panel: str, paper: int) -> Work:
    """`rows` answers to prompts of a panel, as a part of a run: generated, and read by a judge that is a model."""
    new = seen.new_tokens(paper)
    least, likely = ANSWERS[seen.is_organism]
    drawn = rows * (1 + seen.samples)
    read = drawn * (JUDGED_AROUND + new) * seen.judge
    whole = answers(seen.cfg, drawn, seen.columns[panel], new)._replace(judged=read)
    return Work(key, units, whole, least, likely)


def answers(cfg: ModelConfig, rows: float, columns: int, new_tokens: int) -> Amount:
    """`rows` answers of at most `new_tokens` to prompts of `columns` columns."""
    return Amount(passes=rows * columns * cfg.num_layers, decoded=rows * new_tokens)


def search(rows: float, columns: int, blocks: float, steps: int) -> Amount:
    """`rows` gradient searches of `steps` steps through `blocks` blocks; the last loss needs no gradient."""
    return Amount(passes=rows * columns * blocks * (steps + 1), backward=rows * columns * blocks * steps)


def training(cfg: ModelConfig, rows: float, columns: int) -> Amount:
    """So many rows trained on once: forward, and backward to activations and weights."""
    tokens = rows * columns * cfg.num_layers
    return Amount(passes=tokens, backward=tokens, weights=tokens)
