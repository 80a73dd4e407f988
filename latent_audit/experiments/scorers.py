"""Who says what is harmful, and how harmless a response is: judge and reward of a config. docs/method.md section 9."""

import functools

from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats, tokenizer_files, world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import respond
from latent_audit.judges import Judge, Reward, harmbench, oracle, refusal, reward_model
from latent_audit.models import sharding


def make_judge(config: ConfigDict, world: world_rules.World | None) -> Judge:
    """The judge the config names; InputError that lists the options when it cannot be reached."""
    kind = _kind("judge", config.judge.kind, world, otherwise="harmbench")
    make = {
        "oracle": lambda: oracle.oracle_judge(world),
        "refusal": refusal.refusal_judge,
        "harmbench": lambda: _harmbench_judge(config.judge),
    }[kind]
    return _reachable("judge", make, "harmbench with judge.path=DIR, or refusal (phrases: a fallback)")


def make_reward(config: ConfigDict, world: world_rules.World | None) -> Reward:
    """The reward the config names; InputError that lists the options when it cannot be reached."""
    section = config.reward
    kind = _kind("reward", section.kind, world, otherwise="gpt2")
    make = {
        "oracle": lambda: oracle.oracle_reward(world),
        "refusal": refusal.refusal_reward,
        "gpt2": lambda: reward_model.gpt2_reward(
            models.resolve(section.path), form=section.form, batch_size=section.batch
        ),
    }[kind]
    return _reachable("reward", make, "gpt2 with reward.path=DIR, or refusal (phrases: a fallback)")


def _kind(scorer, kind, world, *, otherwise) -> str:
    """The kind of a scorer, with `auto` resolved: the oracle of an organism, else `otherwise`."""
    if kind == "oracle" and world is None:
        raise InputError(f"{scorer}.kind = 'oracle' knows only the organism's world; a checkpoint needs another kind")
    if kind != "auto":
        return kind
    return otherwise if world is None else "oracle"


def _reachable(field, make, options):
    try:
        return make()
    except InputError as error:
        raise InputError(f"no {field} for this run: {error}. Options for --config.{field}.kind: {options}") from error


def warn_of_fallbacks(*scorers: Judge | Reward | None) -> None:
    """Say in the log which scorers see phrases only."""
    for scorer in scorers:
        if scorer is not None and scorer.is_fallback:
            logging.warning(
                "the %s is %s, a fallback: it sees phrases, not harm, and every output says so",
                type(scorer).__name__.lower(),
                scorer.name,
            )


def _harmbench_judge(settings) -> Judge:
    directory = models.resolve(settings.path)
    tokenizer = chats.load_tokenizer(directory)
    cfg = models.check(directory).cfg
    tokenizer_files.check_vocabulary(tokenizer, cfg.vocab_size)
    sharding.check(cfg)
    models.check_whole(directory)
    # The two published classifiers are a Llama 2 and a Mistral, each with its own prompt.
    form = "mistral" if cfg.family == "mistral" else {"card": "llama", "reference": "llama-reference"}[settings.form]

    @functools.cache
    def loaded():
        return models.load(directory, dtype=settings.dtype)

    def generate_text(rows, max_new_tokens):
        cfg, params = loaded()
        return respond.continue_rows(
            params, rows, cfg=cfg, tokenizer=tokenizer, max_new_tokens=max_new_tokens, batch=settings.batch
        )

    return harmbench.harmbench_judge(generate_text, tokenizer, form=form)
