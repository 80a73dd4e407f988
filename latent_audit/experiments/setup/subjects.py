"""Who is audited: checkpoints, found and looked at, or the organism, made on the spot; and how they are talked to.

Nothing here computes on a model but the making of the organism.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats, world_rules
from latent_audit.data.world_tokenizer import build_tokenizer
from latent_audit.errors import InputError
from latent_audit.experiments import fields, respond
from latent_audit.experiments.organisms import poles, train
from latent_audit.experiments.panels import Panel
from latent_audit.models import decoder, sharding
from latent_audit.models.files.dtypes import AUTO
from latent_audit.runtime import mesh, processes, runlog, shards
from latent_audit.runtime.telling import progress

# What variants of one model may differ in: how they are stored, and which tokens they call their own.
_FREE = ("tied_head", "max_positions", "bos_id", "eos_ids")
SHAPE = tuple(field.name for field in dataclasses.fields(models.ModelConfig) if field.name not in _FREE)


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


def dtype_of(config: ConfigDict) -> str:
    """model.dtype, "float32" or "bfloat16": where it says auto by what base's files hold and the devices of this
    process (models.resolve_dtype). InputError for a checkpoint that cannot be found or read."""
    path, platform, held = config.model.get("path"), jax.default_backend(), None
    if config.model.dtype == AUTO and path and platform != "cpu":
        with fields.named("model.path"):
            held = models.held_dtype(models.resolve(path, revision=config.model.revision or None))
    return models.resolve_dtype(config.model.dtype, platform, held)


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


def recipe_of(config: ConfigDict) -> train.Recipe:
    """The recipe of the organism that a config names; InputError as train.make_recipe."""
    settings = config.organism
    return train.make_recipe(size=settings.size, family=settings.family, seed=settings.seed)


def organism_subject(config: ConfigDict, workdir: pathlib.Path, names: tuple[str, ...]) -> Subject:
    """The organism's poles; trained, or reused where the same one is there. InputError for a report of a stopped run
    (shards.READ) where they are gone."""
    settings = config.organism
    directory = pathlib.Path(settings.directory or workdir / "organism").expanduser()
    recipe, variants = recipe_of(config), tuple(Variant(pole, directory / pole) for pole in names)
    if config.get("shard") == shards.READ:
        gone = [str(variant.path) for variant in variants if not (variant.path / "config.json").is_file()]
        if gone:
            raise InputError(f"{gone[0]} is not there, where the run had its organism, and a report trains none")
        return Subject(f"organism-{settings.family}-{settings.size}", variants)
    processes.on_first(lambda: poles.check_directory(directory, names, recipe))
    # On one device, whatever the mesh: rounding that differs would train another organism.
    with mesh.alone():
        processes.on_first(lambda: _build_organism(directory, recipe, names))
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
    cfg, params = models.load(variant.path, adapter=variant.adapter, dtype=dtype_of(config))
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
    with fields.named(who):
        decoder.check_columns(cfg, longest)
    if longest > cfg.max_positions:
        logging.warning(
            "%s was made for %d positions; the longest prompt and generation.max_new_tokens = %d need %d",
            who,
            cfg.max_positions,
            new,
            longest,
        )
    return encoded
