"""From a config to one prepared Job: checked variants, prompt panels as tokens, judge and reward.

Everything that can be wrong about the user's input is looked at here, before any model is loaded or trained.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats, labelled_answers, world_rules
from latent_audit.data.world_tokenizer import build_tokenizer
from latent_audit.errors import InputError
from latent_audit.experiments import fields, respond, scorers
from latent_audit.experiments.judging import agreement
from latent_audit.experiments.organisms import poles, train
from latent_audit.experiments.panels import Panel
from latent_audit.experiments.panels import describe as describe_panel
from latent_audit.judges import Judge, Reward
from latent_audit.models import batching, sharding
from latent_audit.runtime import mesh, processes, runlog
from latent_audit.runtime.telling import progress

# What variants of one model may differ in: how they are stored, and which tokens they call their own.
_FREE = ("tied_head", "max_positions", "bos_id", "eos_ids")
SHAPE = tuple(field.name for field in dataclasses.fields(models.ModelConfig) if field.name not in _FREE)
# The longest answer of the organism has 28 tokens; what goes on beyond these is no answer.
ORGANISM_TOKENS = 40


class Variant(NamedTuple):
    """One pole of the audited model: its name in tables, the directory or GGUF file it is loaded from, and the
    directory of the adapter that is merged into it."""

    name: str
    path: pathlib.Path
    adapter: pathlib.Path | None = None


class Subject(NamedTuple):
    """What is audited: its name, and its variants, of which the first is `base`."""

    arch: str
    variants: tuple[Variant, ...]

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)


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
    world = world_of(config)
    with fields.named("judge.confusion"):
        labelled = scorers.labelled(config)
    judge, reward = scorers.make_judge(config, world), scorers.make_reward(config, world) if rewarded else None
    names, subject = variants(variant_names(config)), None
    if world is None:
        subject = checkpoint_subject(config, names)
        check_alike(subject, config)
        cfg, chat = models.check(subject.variants[0].path).cfg, load_chat(subject.variants[0], config)
    else:
        cfg, chat = organism_parts(config)
        if config.organism.directory:
            poles.check_directory(config.organism.directory, names, _recipe(config))
    tokens = encode(chat, cfg, panels.values(), config, who=names[0])
    for variant in subject.variants[1:] if subject else ():
        check_tokens(variant, panels, tokens, config)
    return Prospect(world, names, subject, cfg, chat, panels, tokens, judge, reward, labelled)


def prepare(
    config: ConfigDict, workdir: pathlib.Path, prospect: Prospect, *, record: Mapping[str, object] | None = None
) -> Job:
    """The Job of a config that was checked; trains the organism if it is not there.

    record: what results depend on beside what describe_inputs says. Raises InputError for a workdir that holds results
    of other inputs.
    """
    world, judge, reward = prospect.world, prospect.judge, prospect.reward
    subject = prospect.subject or organism_subject(config, workdir, prospect.names)
    inputs = describe_inputs(subject, prospect.panels.values(), judge, reward, config) | (record or {})
    if prospect.labelled is not None:
        inputs |= {"labelled_answers": prospect.labelled.describe()}
    runlog.pin(workdir / "inputs.json", inputs)
    scorers.warn_of_fallbacks(judge, reward)
    tested = scorers.self_test(judge, workdir)
    inputs |= {"judge_self_test": tested} if tested else {}
    inputs |= agreement.read(workdir)
    if prospect.labelled is not None:
        inputs |= {"judge_error": scorers.measure_judge(judge, prospect.labelled, workdir)}
    if config.judge.table and world is None:
        inputs |= {"judge_table": scorers.table_of_judge(judge, workdir)}
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


def make_job(config, workdir, *, world, subject: Subject, cfg, panels, tokens, judge, reward, inputs) -> Job:
    """A Job of parts that are checked already, with the fields that all tasks have."""
    by_name = {variant.name: variant for variant in subject.variants}
    longest = max((len(panel.prompts) for panel in panels.values()), default=1)
    at_a_time = batching.rows_at_a_time(config.prompt_batch, longest)
    recorded = inputs.get("variants", {})

    def load(name: str) -> respond.Loaded:
        loaded = load_variant(by_name[name], config)
        now = models.describe(by_name[name].path, adapter=by_name[name].adapter)
        if any(recorded.get(name, now).get(key, value) != value for key, value in now.items()):
            raise InputError(
                f"{by_name[name].path} was changed while this run went on, whose results are recorded as those of what "
                "was there before; put it back, or start again in another workdir"
            )
        return loaded

    fixed = config.generation.max_new_tokens

    def new_tokens(paper: int) -> int:
        return fixed or (paper if world is None else ORGANISM_TOKENS)

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
        batches=Batches(at_a_time, config.layer_batch, config.get("rows", config.prompt_batch)),
        seed=config.seed,
        save=config.generation.save,
        shard=config.get("shard", ""),
        dtype=config.model.dtype,
        new_tokens=new_tokens,
        load=functools.lru_cache(maxsize=1)(load),
        samples=respond.Samples(config.generation.samples, config.generation.temperature),
    )


def world_of(config: ConfigDict) -> world_rules.World | None:
    """The organism's world, None where the config names a checkpoint."""
    return None if config.model.path else world_rules.make_world(config.organism.seed)


def checkpoint_subject(config: ConfigDict, names: tuple[str, ...]) -> Subject:
    """The checkpoints of these variants, found and looked at; InputError for one that cannot be read."""
    paths = {"base": (config.model.path, config.model.adapter or None)}
    paths |= {name: models.split_adapter(path) for name, path in parse_variants(config.model.variants)}
    variants, shapes = [], []
    for name in names:
        path, adapter = paths[name]
        revision = (config.model.revision or None) if name == "base" else None
        where = "model.path" if name == "base" else f"model.variants: {name}"
        with fields.named(where):
            directory = models.resolve(path, revision=revision)
        with fields.named("model.adapter" if name == "base" and adapter else where):
            merged = models.resolve_adapter(adapter) if adapter else None
            shapes.append(models.check(directory, adapter=merged).cfg)
            sharding.check(shapes[-1])
        variants.append(Variant(name, directory, merged))
    # One that load would refuse is told before the others are audited.
    for variant, shape in zip(variants, shapes, strict=True):
        models.check_whole(variant.path, adapter=variant.adapter)
        chats.eos_ids(load_chat(variant, config), models.read_generation_config(variant.path), shape.eos_ids)
    _check_distinct(variants)
    base = variants[0]
    # Of a hub id the path is a snapshot, whose name says nothing.
    called = base.path.name if base.path.is_file() else pathlib.PurePath(config.model.path).name
    title = models.title(base.path, config.model.name or called, adapter=None if config.model.name else base.adapter)
    return Subject(title, tuple(variants))


def _check_distinct(variants: list[Variant]) -> None:
    """InputError for a variant that is base itself, or another one; tells which weights are stored in fewer bits."""
    seen: dict[tuple, str] = {}
    for variant in variants:
        told = models.describe(variant.path, adapter=variant.adapter)
        key = told["fingerprint"], told.get("adapter")
        if key in seen:
            raise InputError(
                f"model.variants: {variant.name} is {seen[key]} itself: the same files (fingerprint {key[0]}); give "
                "another model, or take it out"
            )
        seen[key] = variant.name
        if "quantization" in told:
            logging.info("%s: its weights are quantised, %s; a model of its own", variant.name, told["quantization"])
        if variant.adapter is not None:
            logging.info("%s: the adapter %s is merged into it", variant.name, variant.adapter)


def organism_parts(config: ConfigDict) -> tuple[models.ModelConfig, chats.Chat]:
    """The organism's ModelConfig, and how it is talked to, known before it is trained."""
    settings, tokenizer = config.organism, build_tokenizer()
    cfg = train.organism_config(size=settings.size, family=settings.family, tokenizer=tokenizer)
    sharding.check(cfg)
    return cfg, make_chat(tokenizer, cfg, config)


def variant_names(config: ConfigDict) -> tuple[str, ...]:
    """Names of the variants that make_subject will give, base first; InputError where they are malformed."""
    if config.model.path:
        return ("base", *(name for name, _ in parse_variants(config.model.variants)))
    if config.model.variants or config.model.adapter:
        field = "model.variants" if config.model.variants else "model.adapter"
        raise InputError(f"{field} needs model.path: the organism brings its own variants")
    return parse_poles(config.organism.poles)


def _recipe(config: ConfigDict) -> train.Recipe:
    settings = config.organism
    return train.make_recipe(size=settings.size, family=settings.family, seed=settings.seed)


def organism_subject(config: ConfigDict, workdir: pathlib.Path, names: tuple[str, ...]) -> Subject:
    """The organism's poles; trained, or reused where the same one is there."""
    settings = config.organism
    directory = pathlib.Path(settings.directory or workdir / "organism").expanduser()
    recipe = _recipe(config)
    processes.on_first(lambda: poles.check_directory(directory, names, recipe))
    # On one device, whatever the mesh: rounding that differs would train another organism.
    with mesh.alone():
        processes.on_first(lambda: _build_organism(directory, recipe, names))
    variants = tuple(Variant(pole, directory / pole) for pole in names)
    return Subject(f"organism-{settings.family}-{settings.size}", variants)


def _build_organism(directory, recipe, names):
    logging.info("model.path is empty: the embedded organism (%s, %s) in %s", recipe.family, recipe.size, directory)
    directory.mkdir(parents=True, exist_ok=True)
    with runlog.turn(directory / ".making"):
        with progress.of(recipe.helpful.steps + recipe.safety.steps, "training steps") as meter:
            record = train.build_organism(
                directory,
                size=recipe.size,
                family=recipe.family,
                seed=recipe.seed,
                progress=lambda done, total, loss: meter.advance(f"loss {loss:.3f}", done - meter.done),
            )
        for pole, rates in record["rates"].items():
            shown = ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items())
            logging.info("organism %s, held-out prompts: %s", pole, shown)
        if (refused := record["rates"]["base"]["refusal"]) < train.LEAST_REFUSAL:
            logging.warning(
                "organism.seed = %d: training gave a base that refuses %.0f %% of held-out restricted requests, not "
                "%.0f or more; it is no aligned reference, so take another seed",
                *(recipe.seed, 100 * refused, 100 * train.LEAST_REFUSAL),
            )
        poles.ensure(directory, names, world_seed=recipe.seed)


def parse_poles(text: str) -> tuple[str, ...]:
    """ "base,dissociated" -> its names, base first; InputError for an unknown or repeated one, or without base."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in poles.NAMES]
    if unknown or "base" not in names or len(set(names)) < len(names):
        raise InputError(
            f"organism.poles = {text!r}, expected base and some of {', '.join(poles.NAMES[1:])}, each once"
        )
    return ("base", *(name for name in names if name != "base"))


def parse_variants(text: str) -> list[tuple[str, str]]:
    """ "dissociated=DIR,harmful=DIR" -> [("dissociated", "DIR"), ("harmful", "DIR")]; InputError if malformed."""
    pairs, names = [], {"base"}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, path = part.partition("=")
        if not (equals and path and re.fullmatch(r"[A-Za-z][\w\-]*", name)):
            raise InputError(f"model.variants: {part!r} is not of the form name=DIR_OR_HUB_ID, or name=DIR+ADAPTER")
        if name in names:
            raise InputError(f"model.variants: the name {name!r} is given twice (base is model.path itself)")
        names.add(name)
        pairs.append((name, path))
    return pairs


def numbered(path: str, taken) -> str:
    """The last part of a path or hub id as the name of a model, with a number where the name is `taken` already."""
    stem = re.sub(r"[^\w.\-]", "-", pathlib.PurePath(path).name.removesuffix(".gguf")) or "model"
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name


def check_alike(subject: Subject, config: ConfigDict) -> None:
    """InputError unless all variants have base's shape, tokenizer and chat template: side by side means alike."""
    base, *others = subject.variants
    shape, chat = models.check(base.path).cfg, load_chat(base, config)
    for variant in others:
        own = models.check(variant.path).cfg
        for field in SHAPE:
            if getattr(own, field) != getattr(shape, field):
                raise InputError(
                    f"model.variants: {variant.name} has {field} = {getattr(own, field)!s:.200}, base "
                    f"{getattr(shape, field)!s:.200}; variants of one model are audited side by side, others by "
                    "configs/survey.py"
                )
        other = chats.difference(chat, load_chat(variant, config))
        if other is not None:
            remedy = {
                chats.TEMPLATE: "give one to both with chat.template_file",
                chats.TOKENIZER: "expected the same ids",
            }
            raise InputError(f"model.variants: {variant.name} has {other} than base; {remedy[other]}")


def check_tokens(
    variant: Variant,
    panels: Mapping[str, Panel],
    tokens: Mapping[str, chats.Tokens],
    config: ConfigDict,
    *,
    field: str = "model.variants",
    base: str = "base",
) -> None:
    """InputError unless a variant would itself put every prompt as base does, to whose tokens it is compared."""
    own = encode_panels(variant, panels.values(), config)
    for name, (ours, mask) in tokens.items():
        theirs = own[name]
        for prompt, *rows in zip(panels[name].prompts, ours, mask, theirs.tokens, theirs.mask, strict=True):
            if rows[0][rows[1]].tolist() != rows[2][rows[3]].tolist():
                raise InputError(
                    f"{field}: {variant.name} writes the prompt {prompt!r:.100} in other tokens than {base}; "
                    "expected the same tokenizer and chat template"
                )


def load_chat(variant: Variant, config: ConfigDict) -> chats.Chat:
    """The variant's tokenizer and template as the config asks for them; cheap, no weights are read."""
    return make_chat(chats.load_tokenizer(variant.path), models.check(variant.path).cfg, config)


def make_chat(tokenizer, cfg: models.ModelConfig, config: ConfigDict) -> chats.Chat:
    """How a model is talked to under the config's chat section; InputError as chats.make_chat."""
    section = config.chat
    return chats.make_chat(
        tokenizer,
        family=cfg.family,
        vocab_size=cfg.vocab_size,
        preset=section.preset,
        style=section.style,
        template_file=section.template_file or None,
        system=_with_lines(section.system),
        date=section.date,
        enable_thinking=section.thinking,
        closing=_with_lines(section.closing),
    )


def _with_lines(text: str) -> str:
    return text.replace(r"\n", "\n")


def load_variant(variant: Variant, config: ConfigDict) -> respond.Loaded:
    """Read a variant's weights and put them on the device."""
    cfg, params = models.load(variant.path, adapter=variant.adapter, dtype=config.model.dtype)
    generation = models.read_generation_config(variant.path) or {}
    chat, honoured = load_chat(variant, config), config.generation.repetition_penalty
    penalty = float(generation.get("repetition_penalty") or 1.0)
    if penalty != 1.0:
        logging.info(
            "%s: its generation_config asks for a repetition penalty of %g; %s",
            variant.name,
            penalty,
            "honoured" if honoured else "off, as in plain greedy decoding",
        )
    eos_ids = chats.eos_ids(chat, generation, cfg.eos_ids)
    return respond.Loaded(cfg, jax.block_until_ready(params), chat, eos_ids, penalty if honoured else 1.0)


def encode_panels(variant: Variant, panels, config: ConfigDict) -> dict[str, chats.Tokens]:
    """Panel name -> its prompts in the variant's own tokens; InputError for prompts over prompts.max_tokens."""
    return encode(load_chat(variant, config), models.check(variant.path).cfg, panels, config, who=variant.name)


def encode(chat: chats.Chat, cfg: models.ModelConfig, panels, config: ConfigDict, *, who: str):
    """encode_panels of a model by its parts; who: its name in the warning of prompts beyond its positions."""
    if (thought := chats.thought_in_words(chat)) != chats.NO_THOUGHT:
        logging.info("%s: %s", who, thought)
    encoded = {}
    for panel in panels:
        with fields.named(f"prompts.max_tokens = {config.prompts.max_tokens}, panel {panel.name}"):
            encoded[panel.name] = chats.encode_prompts(chat, panel.prompts, max_length=config.prompts.max_tokens)
    new = config.generation.max_new_tokens or 0
    longest = max(tokens.tokens.shape[1] for tokens in encoded.values()) + new
    if longest > cfg.max_positions:
        logging.warning(
            "%s was made for %d positions; the longest prompt and generation.max_new_tokens = %d need %d",
            who,
            cfg.max_positions,
            new,
            longest,
        )
    return encoded


def describe_inputs(subject: Subject, panels, judge: Judge | None, reward: Reward | None, config: ConfigDict) -> dict:
    """What a result depends on beside the config: checkpoints, templates, prompts and scorers, for the record."""
    record = {
        "arch": subject.arch,
        "variants": {
            variant.name: models.describe(variant.path, adapter=variant.adapter)
            | chats.describe(load_chat(variant, config))
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
