"""From a config to one prepared Job: checked variants, prompt panels as tokens, judge and reward.

Everything that can be wrong about the user's input is looked at here, before any model is loaded or trained.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats, labelled_answers, world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import fields, respond, scorers
from latent_audit.experiments.judging import agreement
from latent_audit.experiments.organisms import poles
from latent_audit.experiments.panels import Panel
from latent_audit.experiments.panels import describe as describe_panel
from latent_audit.experiments.setup import subjects
from latent_audit.experiments.setup.subjects import Subject, Variant
from latent_audit.judges import Judge, Reward
from latent_audit.models import batching
from latent_audit.runtime import runlog, shards

# The longest answer of the organism has 28 tokens; what goes on beyond these is no answer.
ORGANISM_TOKENS = 40


class Batches(NamedTuple):
    """How much is computed at a time; results do not depend on it.

    prompts: in one search; layers: residual states whose pushed prompts are answered together; rows: answers under
    vectors that are generated together.
    """

    prompts: int
    layers: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Job:
    """What every unit of a run shares.

    world: of an organism, None for a checkpoint; cfg: of base, whose shape all variants have; tokens: by panel name, in
    base's tokens, which serve all variants; reward: None where nothing is scored by one; inputs: the record of what
    results depend on beside the config; save: whether responses are kept; shard: see runtime/shards.py;
    new_tokens(paper) -> how long a response may be; load(name) -> respond.Loaded of a variant, one kept at a time;
    samples: what is drawn beside the greedy answers.
    """

    workdir: pathlib.Path
    world: world_rules.World | None
    subject: Subject
    cfg: models.ModelConfig
    panels: Mapping[str, Panel]
    tokens: Mapping[str, chats.Tokens]
    judge: Judge
    reward: Reward | None
    inputs: dict
    batches: Batches
    seed: int
    save: bool
    shard: str
    dtype: str
    new_tokens: Callable[[int], int]
    load: Callable[[str], respond.Loaded]
    samples: respond.Samples = dataclasses.field(default=respond.Samples(), kw_only=True)

    @property
    def names(self) -> list[str]:
        return [variant.name for variant in self.subject.variants]

    def variant(self, name: str) -> Variant:
        return self.subject.variant(name)


class Prospect(NamedTuple):
    """What a config asks for, looked at before anything is trained or written: prepare makes a Job of it.

    names: of the variants; subject: None for an organism, which may be still to be trained; cfg, chat, tokens: base's.
    """

    world: world_rules.World | None
    names: tuple[str, ...]
    subject: Subject | None
    cfg: models.ModelConfig
    chat: chats.Chat
    panels: Mapping[str, Panel]
    tokens: Mapping[str, chats.Tokens]
    judge: Judge
    reward: Reward | None
    labelled: labelled_answers.Labelled | None


def check(
    config: ConfigDict,
    panels: Mapping[str, Panel],
    *,
    rewarded: bool = True,
    variants: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda every: every,
) -> Prospect:
    """What can be wrong about models, prompts and scorers of a config; nothing is trained, loaded or written.

    Args:
      panels: by name; every variant is asked the same.
      rewarded: whether responses are scored by a reward beside the judge.
      variants: which of the subject's variants the task takes, by name, e.g. all but one; may raise InputError.
    Raises InputError for scorers that cannot be reached, checkpoints that cannot be read or are not alike, and prompts
    too long for them.
    """
    world = subjects.world_of(config)
    with fields.named("judge.confusion"):
        labelled = scorers.labelled(config)
    judge, reward = scorers.make_judge(config, world), scorers.make_reward(config, world) if rewarded else None
    names, subject = variants(subjects.variant_names(config)), None
    if world is None:
        subject = subjects.checkpoint_subject(config, names)
        subjects.check_alike(subject, config)
        cfg, chat = models.check(subject.variants[0].path).cfg, subjects.load_chat(subject.variants[0], config)
    else:
        cfg, chat = subjects.organism_parts(config)
        if config.organism.directory:
            poles.check_directory(config.organism.directory, names, subjects.recipe_of(config))
    tokens = subjects.encode(chat, cfg, panels.values(), config, who=names[0])
    for variant in subject.variants[1:] if subject else ():
        subjects.check_tokens(variant, panels, tokens, config)
    return Prospect(world, names, subject, cfg, chat, panels, tokens, judge, reward, labelled)


def prepare(
    config: ConfigDict, workdir: pathlib.Path, prospect: Prospect, *, record: Mapping[str, object] | None = None
) -> Job:
    """The Job of a config that was checked; trains the organism if it is not there, but for a report (shards.READ).

    record: what results depend on beside what describe_inputs says. Raises InputError for a workdir that holds results
    of other inputs.
    """
    world, judge, reward = prospect.world, prospect.judge, prospect.reward
    subject = prospect.subject or subjects.organism_subject(config, workdir, prospect.names)
    inputs = describe_inputs(subject, prospect.panels.values(), judge, reward, config) | (record or {})
    if prospect.labelled is not None:
        inputs |= {"labelled_answers": prospect.labelled.describe()}
    runlog.pin(workdir / "inputs.json", inputs)
    scorers.warn_of_fallbacks(judge, reward)
    mine = config.get("shard") != shards.READ
    tested = scorers.self_test(judge, workdir, mine=mine)
    inputs |= {"judge_self_test": tested} if tested else {}
    inputs |= agreement.read(workdir)
    if prospect.labelled is not None:
        inputs |= {"judge_error": scorers.measure_judge(judge, prospect.labelled, workdir, mine=mine)}
    if config.judge.table and world is None:
        inputs |= {"judge_table": scorers.table_of_judge(judge, workdir, mine=mine)}
    return make_job(
        config,
        workdir,
        world=world,
        subject=subject,
        cfg=prospect.cfg,
        panels=prospect.panels,
        tokens=prospect.tokens,
        judge=judge,
        reward=reward,
        inputs=inputs,
    )


def prompts_at_a_time(config: ConfigDict, panels: Mapping[str, Panel]) -> int:
    """Prompts that are searched or asked together."""
    longest = max((len(panel.prompts) for panel in panels.values()), default=1)
    return batching.rows_at_a_time(config.prompt_batch, longest)


def answer_length(config: ConfigDict, world: world_rules.World | None) -> Callable[[int], int]:
    """new_tokens(paper) -> how long an answer may be: as configured, the organism's, or as the paper has it."""
    fixed = config.generation.max_new_tokens
    return lambda paper: fixed or (paper if world is None else ORGANISM_TOKENS)


def make_job(config, workdir, *, world, subject: Subject, cfg, panels, tokens, judge, reward, inputs) -> Job:
    """A Job of parts that are checked already, with the fields that all tasks have."""
    by_name = {variant.name: variant for variant in subject.variants}
    recorded = inputs.get("variants", {})

    def load(name: str) -> respond.Loaded:
        if config.get("shard") == shards.READ:
            raise InputError(f"{name} would have to be loaded, and a report loads no model: start the run again")
        loaded = subjects.load_variant(by_name[name], config)
        now = models.describe(by_name[name].path, adapter=by_name[name].adapter)
        if any(recorded.get(name, now).get(key, value) != value for key, value in now.items()):
            raise InputError(
                f"{by_name[name].path} was changed while this run went on, whose results are recorded as those of what "
                "was there before; put it back, or start again in another workdir"
            )
        return loaded

    return Job(
        workdir=workdir,
        world=world,
        subject=subject,
        cfg=cfg,
        panels=panels,
        tokens=tokens,
        judge=judge,
        reward=reward,
        inputs=inputs,
        batches=Batches(prompts_at_a_time(config, panels), config.layer_batch, config.get("rows", config.prompt_batch)),
        seed=config.seed,
        save=config.generation.save,
        shard=config.get("shard", ""),
        dtype=subjects.dtype_of(config),
        new_tokens=answer_length(config, world),
        load=functools.lru_cache(maxsize=1)(load),
        samples=respond.Samples(config.generation.samples, config.generation.temperature),
    )


def describe_inputs(subject: Subject, panels, judge: Judge | None, reward: Reward | None, config: ConfigDict) -> dict:
    """What a result depends on beside the config: checkpoints, templates, prompts and scorers, for the record."""
    record = {
        "arch": subject.arch,
        "variants": {
            variant.name: models.describe(variant.path, adapter=variant.adapter)
            | chats.describe(subjects.load_chat(variant, config))
            for variant in subject.variants
        },
        "prompts": {panel.name: describe_panel(panel) for panel in panels},
    }
    for name, scorer in (("judge", judge), ("reward", reward)):
        if scorer is not None:
            record[name] = scorers.describe(scorer)
    if reward is not None and reward.beside is not None:
        record["reward"]["beside"] = reward.beside.name
    return record
