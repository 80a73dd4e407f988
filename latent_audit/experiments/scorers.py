"""Who says what is harmful, and how harmless a response is: judge and reward of a config. docs/method.md section 9."""

import functools
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats, labelled_answers, tokenizer_files, world_rules
from latent_audit.data.answers import builtin
from latent_audit.errors import InputError
from latent_audit.experiments import respond
from latent_audit.experiments.judging import asking, memory
from latent_audit.experiments.judging.once import once
from latent_audit.judges import UNTESTED, Judge, Reward, classifier, endpoint, oracle, refusal, reward_model
from latent_audit.judges import self_test as tests
from latent_audit.metrics import first_token, judge_error, judge_table
from latent_audit.models import sharding, sizes
from latent_audit.runtime import free_memory, runlog
from latent_audit.text import counted

# Of an endpoint at a time, where judge.batch does not say.
REQUESTS = 8

# Behind the other columns of metrics.csv and audit.csv: a share with the judge's errors taken out, and its interval.
CORRECTED = ("corrected", "corrected_lo", "corrected_hi")


def make_judge(config: ConfigDict, world: world_rules.World | None) -> Judge:
    """The judge the config names; InputError that lists the options when it cannot be reached."""
    section = config.judge
    kind = _kind("judge", section.kind, world, otherwise="classifier")
    make = {
        "oracle": lambda: oracle.oracle_judge(world),
        "refusal": refusal.refusal_judge,
        "classifier": lambda: classifier_judge(section),
        "endpoint": lambda: endpoint.make_judge(endpoint_of(section), section.form),
    }[kind]
    options = (
        "classifier with judge.path=DIR, endpoint with judge.url and judge.model, or refusal (phrases: a fallback)"
    )
    judge = _reachable("judge", make, options)
    if kind == "classifier":
        tell_of_memory(config)
    return judge._replace(is_untested=judge.is_model and not section.self_test)


def make_reward(config: ConfigDict, world: world_rules.World | None) -> Reward:
    """The reward the config names, and the one beside it; InputError that lists the options for one out of reach."""
    section = config.reward
    kind = _kind("reward", section.kind, world, otherwise="gpt2")
    reward = _reward(section, kind, world)
    if not section.beside:
        return reward
    if section.beside == kind:
        raise InputError(f"reward.beside = {kind!r} is the reward itself; expected another kind, or '' for none")
    return reward._replace(beside=_reward(section, _kind("reward", section.beside, world, otherwise="gpt2"), world))


def _reward(section, kind, world) -> Reward:
    make = {
        "oracle": lambda: oracle.oracle_reward(world),
        "refusal": refusal.refusal_reward,
        "first_token": lambda: Reward(f"first token, {section.openings} openings", False, None, section.openings),
        "gpt2": lambda: reward_model.gpt2_reward(
            models.resolve(section.path), form=section.form, batch_size=section.batch or None
        ),
    }[kind]
    return _reachable("reward", make, "gpt2 with reward.path=DIR, first_token, or refusal (phrases: a fallback)")


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


def describe(scorer: Judge | Reward) -> dict[str, object]:
    """A judge or reward for the record of what a run depends on."""
    return {"name": scorer.name, "is_fallback": scorer.is_fallback, **getattr(scorer, "record", {})}


def warn_of_fallbacks(*scorers: Judge | Reward | None) -> None:
    """Say in the log which scorers see phrases only, and that a judge was not tested."""
    for scorer in scorers:
        if scorer is not None and scorer.is_fallback:
            logging.warning(
                "the %s is %s, a fallback: it sees phrases, not harm, and every output says so",
                type(scorer).__name__.lower(),
                scorer.name,
            )
        if getattr(scorer, "is_untested", False):
            logging.warning("%s: %s", scorer.name, UNTESTED)


def classifier_judge(section: ConfigDict) -> Judge:
    """A judge from a checkpoint, looked at here and loaded when it is first asked; docs/method.md section 9.

    section: path (as models.resolve, or with an adapter, DIR+ADAPTER), form, dtype, batch. Raises InputError for a
    checkpoint that cannot be read, has no form or another one than is asked for, or whose tokenizer or template lacks
    what the form needs.
    """
    path, adapter = models.split_adapter(section.path)
    directory = models.resolve(path)
    merged = models.resolve_adapter(adapter) if adapter else None
    tokenizer = chats.load_tokenizer(directory)
    cfg = models.check(directory, adapter=merged).cfg
    tokenizer_files.check_vocabulary(tokenizer, cfg.vocab_size)
    sharding.check(cfg)
    models.check_whole(directory, adapter=merged)
    called = directory.name if directory.is_file() else pathlib.PurePath(path).name
    # Of a hub id the path is a snapshot, whose name says nothing; so is an adapter's.
    name = " + ".join([models.title(directory, called), *([pathlib.PurePath(adapter).name] if adapter else [])])
    form = classifier.choose_form(section.form, name=name, family=cfg.family, template=tokenizer.chat_template)

    @functools.cache
    def params():
        memory.check_room(cfg, section.dtype, parts=_model_parts())
        return models.load(directory, adapter=merged, dtype=section.dtype)[1]

    @functools.cache
    def opening():
        question = classifier.make_question(form, tokenizer, reference=section.form == "reference")
        return classifier.opening_of(form, tokenizer, question)

    def generate_text(rows, max_new_tokens):
        return asking.continue_rows(
            params(),
            rows,
            cfg=cfg,
            tokenizer=tokenizer,
            max_new_tokens=max_new_tokens,
            batch=section.batch,
            opening=opening(),
        )

    def next_probabilities(rows):
        found = np.zeros((len(rows), cfg.vocab_size), np.float32)
        for numbers, tokens, mask in asking.in_blocks(rows, tokenizer=tokenizer, batch=section.batch):
            said = first_token.log_probability(params(), jnp.asarray(tokens), jnp.asarray(mask), cfg=cfg)
            found[numbers] = np.exp(said)[: len(numbers)]
        return found

    judge = classifier.make_judge(
        form,
        tokenizer,
        name=name,
        generate_text=generate_text,
        next_probabilities=next_probabilities,
        reference=section.form == "reference",
        record={"checkpoint": models.describe(directory, adapter=merged)},
    )
    return judge._replace(judge=once(judge.judge))


def tell_of_memory(config: ConfigDict) -> None:
    """Warn where the model and its classifier do not lie on an accelerator together; nothing on a CPU."""
    found = free_memory.device_bytes()
    model = config.get("model", {})
    if found is None or not model.get("path"):
        return
    needed = [
        sizes.weight_bytes(models.check(models.resolve(path)).cfg, dtype)
        for path, dtype in ((models.split_adapter(config.judge.path)[0], config.judge.dtype), (model.path, model.dtype))
    ]
    said = memory.words_of_two(*needed, found[0], parts=_model_parts())
    if said:
        logging.warning("%s", said)


def _model_parts() -> int:
    return dict(jax.sharding.get_abstract_mesh().shape).get("model", 1)


def endpoint_of(section: ConfigDict) -> endpoint.Endpoint:
    """Where the judge section's endpoint is asked."""
    return endpoint.Endpoint(
        section.url, section.model, section.key_variable, float(section.timeout), section.batch or REQUESTS
    )


def self_test(judge: Judge, workdir, *, key: str = "judge-self-test", mine: bool = True) -> dict[str, int]:
    """How a judge that is a model did on the sixteen obvious pairs, run once; {} for one that need not be tested.

    key: of the unit that keeps it; mine: as runlog.unit, {} where it is not there. Raises InputError for a judge that
    fails: nothing is kept of it then.
    """
    if not judge.is_model or judge.is_untested:
        return {}

    def ask() -> dict[str, list]:
        found = tests.run(judge)
        tests.check(judge, found)
        return {name: [count] for name, count in found.items()}

    said = runlog.unit(workdir, key, ask, lambda *args, **options: None, mine=mine)
    if said is None:
        return {}
    found = {name: int(counts[0]) for name, counts in said.items()}
    logging.info("the judge's self-test: %d of %d obvious pairs right", found["right"], found["asked"])
    return found


def labelled(config: ConfigDict) -> labelled_answers.Labelled | None:
    """The answers that judge.confusion names, None where it is empty; InputError as labelled_answers.load."""
    return labelled_answers.load(config.judge.confusion) if config.judge.confusion.strip() else None


def measure_judge(judge: Judge, answers: labelled_answers.Labelled, workdir, *, mine: bool = True) -> dict | None:
    """Run the judge on labelled answers, or read back what it said; the record of judge_error.describe.

    mine: as runlog.unit, None where it is not there.

    Harmful counts as everywhere, judged so and coherent: what is measured is the whole rule, not the judge alone.
    """

    def ask() -> dict[str, list]:
        called = respond.harmful(judge, answers.prompts, answers.responses)
        return {"label": answers.labels.tolist(), "called": called.tolist()}

    said = runlog.unit(workdir, "judge-confusion", ask, lambda *args, **options: None, mine=mine)
    if said is None:
        return None
    table = judge_error.count(np.array(said["label"], bool), np.array(said["called"], bool))
    logging.info("the judge on labelled answers: %s", judge_in_words(table))
    return judge_error.describe(table)


def table_of_judge(judge: Judge, workdir, *, mine: bool = True) -> dict | None:
    """Run the judge on the built-in labelled answers, or read back what it said; the record of judge_table.describe.

    mine: as runlog.unit, None where it is not there.
    """
    answers = builtin.answers()

    def ask() -> dict[str, list]:
        called = respond.harmful(judge, [one.prompt for one in answers], [one.response for one in answers])
        return {"called": called.tolist()}

    said = runlog.unit(workdir, "judge-table", ask, lambda *args, **options: None, mine=mine)
    if said is None:
        return None
    return judge_table.describe(answers, said["called"])


def judge_in_words(table: judge_error.Confusion) -> str:
    """What a judge catches and clears, as counts with exact intervals."""
    rates = judge_error.rates(table)
    caught = counted(table.caught, table.harmful, *rates["sensitivity"][1:])
    cleared = counted(table.cleared, table.harmless, *rates["specificity"][1:])
    said = f"calls {caught} harmful ones harmful and {cleared} harmless ones harmless"
    return said if judge_error.can_correct(table) else f"{said}; shares {judge_error.CANNOT}"


def confusion_of(inputs: Mapping) -> judge_error.Confusion | None:
    """The confusion table in a job's inputs, None where the judge was not measured."""
    record = inputs.get("judge_error")
    return record and judge_error.Confusion(*(record[name] for name in judge_error.Confusion._fields))


def with_corrected(table: pd.DataFrame, inputs: Mapping, judged: pd.Series) -> pd.DataFrame:
    """The table with CORRECTED of rows whose `successes` of `n` the judge counted (judged: bool), others as they are.

    NaN where the judge was not measured, or cannot correct.
    """
    confusion = confusion_of(inputs)
    found = table.reindex(columns=list(dict.fromkeys([*table.columns, *CORRECTED])))
    if confusion is None:
        return found
    for row in found.index[judged & found["successes"].notna()]:
        share = judge_error.corrected(int(found.at[row, "successes"]), int(found.at[row, "n"]), confusion)
        found.loc[row, list(CORRECTED)] = tuple(share)
    return found
