"""How long a score takes beside generating and judging answers to the same prompts, both warm, on this machine.

docs/method.md section 10; arXiv 2606.25750 reports 40 to 475 times. The second case stands for real ones: 256 tokens
and a judge of 12 layers, whose weights are random, since only its time counts.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from latent_audit import models
from latent_audit.data import chats
from latent_audit.experiments import respond
from latent_audit.experiments.judging import asking
from latent_audit.experiments.panels import part
from latent_audit.experiments.ras import cosines
from latent_audit.judges import Judge
from latent_audit.judges import classifier as classifiers
from latent_audit.metrics import safevec
from latent_audit.models.families import config_from_hf

LONG_ANSWER, JUDGE_LAYERS, JUDGE_WIDTH, FEW_PROMPTS = 256, 12, 128, 8
REPEATS = 3


class Case(NamedTuple):
    """Seconds are medians of REPEATS warm runs; load: of the model's weights, which both need once."""

    name: str
    prompts: int
    tokens: int
    ras_seconds: float
    generate_seconds: float
    judge_seconds: float
    ratio: float
    load_seconds: float


def measure(
    load: Callable[[], respond.Loaded],
    sets,
    tokens: dict[str, chats.Tokens],
    refusal,
    window,
    judge: Judge,
    *,
    batch: int,
    max_new_tokens: int,
    seed: int,
) -> list[Case]:
    """Both cases for one model; sets: prompt_sets.Sets whose U and J are scored and answered.

    The first case is the model as it is with the run's own judge; the second needs the organism's kind of size only in
    that it is run here at all.
    """
    began = time.perf_counter()
    loaded = load()
    load_seconds = time.perf_counter() - began
    panels = (sets.unsafe, sets.jailbreak)
    own = _case(
        "as it is, its own judge",
        loaded,
        panels,
        tokens,
        refusal,
        window,
        judge,
        batch=batch,
        max_new_tokens=max_new_tokens,
        load_seconds=load_seconds,
    )
    few = [part(panel, FEW_PROMPTS) for panel in panels]
    cut = {panel.name: chats.Tokens(*(array[:FEW_PROMPTS] for array in tokens[panel.name])) for panel in panels}
    # Without an end token every answer is as long as asked for.
    long = _case(
        f"{LONG_ANSWER} tokens, judge of {JUDGE_LAYERS} layers",
        loaded._replace(eos_ids=()),
        few,
        cut,
        refusal,
        window,
        classifier(loaded.chat.tokenizer, seed),
        batch=FEW_PROMPTS,
        max_new_tokens=LONG_ANSWER,
        load_seconds=load_seconds,
    )
    return [own, long]


def _case(name, loaded, panels, tokens, refusal, window, judge, *, batch, max_new_tokens, load_seconds) -> Case:
    def score():
        return safevec.score(
            *(cosines.read_refusal(loaded, tokens[panel.name], refusal, batch=batch) for panel in panels), window
        )

    def answer():
        return [
            respond.answers(loaded, *tokens[panel.name], batch=batch, max_new_tokens=max_new_tokens) for panel in panels
        ]

    def judged(texts):
        return [np.asarray(judge.judge(panel.behaviors, some)) for panel, some in zip(panels, texts, strict=True)]

    (scored, _), (answered, texts) = _timed(score), _timed(answer)
    judging, _ = _timed(lambda: judged(texts))
    return Case(
        name,
        sum(len(panel.prompts) for panel in panels),
        max_new_tokens,
        scored,
        answered,
        judging,
        (answered + judging) / scored,
        load_seconds,
    )


def _timed(run):
    """(median seconds of REPEATS runs after a first one, what the last returned)."""
    found, seconds = run(), []
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), found


def classifier(tokenizer, seed: int, *, layers: int = JUDGE_LAYERS, width: int = JUDGE_WIDTH) -> Judge:
    """A HarmBench-style judge with random weights: the work of a real one of this size, its words mean nothing."""
    cfg = config_from_hf(
        {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_hidden_layers": layers,
            "hidden_size": width,
            "intermediate_size": 5 * width // 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": width // 4,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
        }
    )
    params = jax.jit(models.init_params, static_argnums=1)(jax.random.key(seed), cfg)

    def generate_text(rows, max_new_tokens):
        asking.continue_rows(
            params, rows, cfg=cfg, tokenizer=tokenizer, max_new_tokens=max_new_tokens, batch=FEW_PROMPTS
        )
        return ["no"] * len(rows)

    form = classifiers.FORMS["harmbench-llama"]
    return classifiers.make_judge(
        form, tokenizer, name="random weights", generate_text=generate_text, next_probabilities=lambda rows: rows
    )
