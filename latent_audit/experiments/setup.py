"""From a config to what every experiment starts with: checked variants, prompt panels, judge and reward.

Everything that can be wrong about the user's input is looked at here, before any model is loaded or trained.
"""

import functools
import hashlib
import pathlib
import re
import zlib
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats, prompt_files, world_rules
from latent_audit.data.world_tokenizer import build_tokenizer
from latent_audit.errors import InputError
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import poles, train
from latent_audit.judges import Judge, Reward, harmbench, oracle, refusal, reward_model
from latent_audit.models import sharding
from latent_audit.runtime import mesh, processes, runlog

JUDGES = ("auto", "oracle", "harmbench", "refusal")
Loaded = respond.Loaded
REWARDS = ("auto", "oracle", "gpt2", "refusal")


class Variant(NamedTuple):
    """One pole of the audited model: its name in tables and the checkpoint directory it is loaded from."""

    name: str
    path: pathlib.Path


class Panel(NamedTuple):
    """A set of prompts; ids: uint32 [N], from the text alone, so that a prompt keeps its noise in any panel."""

    name: str
    prompts: tuple[str, ...]
    ids: np.ndarray
    sha256: str
    source: str


class Subject(NamedTuple):
    """What is audited: its name, its variants (the first is `base`), and the organism's world if it is one."""

    arch: str
    variants: tuple[Variant, ...]
    world: world_rules.World | None


def make_subject(config: ConfigDict, workdir: pathlib.Path) -> Subject:
    """The variants to audit; trains the organism when no checkpoint is named, or reuses the one that is there."""
    if not config.model.path:
        if config.model.variants:
            raise InputError("model.variants needs model.path: the organism brings its own variants")
        return _organism_subject(config, workdir)
    named = [("base", config.model.path, config.model.revision or None)]
    named += [(name, path, None) for name, path in parse_variants(config.model.variants)]
    variants = []
    for name, path, revision in named:
        directory = models.resolve(path, revision=revision)
        sharding.check(models.check(directory).cfg)
        chats.load_tokenizer(directory)
        variants.append(Variant(name, directory))
    arch = config.model.name or pathlib.PurePath(config.model.path).name
    return Subject(arch, tuple(variants), None)


def count_layers(config: ConfigDict) -> int:
    """L of the audited model, known before anything is trained or loaded; InputError as models.check."""
    if config.model.path:
        return models.check(models.resolve(config.model.path, revision=config.model.revision or None)).cfg.num_layers
    return train.count_layers(config.organism.size)


def _organism_subject(config, workdir):
    settings = config.organism
    directory = pathlib.Path(settings.directory or workdir / "organism")
    names = parse_poles(settings.poles)
    recipe = train.make_recipe(size=settings.size, family=settings.family, seed=settings.seed)
    sharding.check(train.organism_config(size=recipe.size, family=recipe.family, tokenizer=build_tokenizer()))
    # On one device, whatever the mesh: rounding that differs would train another organism.
    with mesh.alone():
        processes.on_first(lambda: _build_organism(directory, recipe, names))
    variants = tuple(Variant(pole, directory / pole) for pole in names)
    return Subject(f"organism-{settings.family}-{settings.size}", variants, world_rules.make_world(settings.seed))


def _build_organism(directory, recipe, names):
    logging.info("model.path is empty: the embedded organism (%s, %s) in %s", recipe.family, recipe.size, directory)
    directory.mkdir(parents=True, exist_ok=True)
    with runlog.turn(directory / ".making"):
        with runlog.progress(recipe.helpful.steps + recipe.safety.steps, "training steps") as meter:
            record = train.build_organism(
                directory,
                size=recipe.size,
                family=recipe.family,
                seed=recipe.seed,
                progress=lambda done, total, loss: meter.advance(f"loss {loss:.3f}", done - meter.done),
            )
        for pole, rates in record["rates"].items():
            logging.info(
                "organism %s, held-out prompts: %s",
                pole,
                ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items()),
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
            raise InputError(f"model.variants: {part!r} is not of the form name=DIR_OR_HUB_ID")
        if name in names:
            raise InputError(f"model.variants: the name {name!r} is given twice (base is model.path itself)")
        names.add(name)
        pairs.append((name, path))
    return pairs


def make_panels(config: ConfigDict, *, is_organism: bool) -> tuple[Panel, Panel]:
    """The (harmful, benign) evaluation prompts: the world's evaluation split, or the files the config names."""
    settings = config.prompts
    panels = []
    for kind in ("harmful", "benign"):
        source, count = settings[kind], settings[f"{kind}_count"]
        if not isinstance(count, int) or count < 1:
            raise InputError(f"prompts.{kind}_count = {count!r}, expected a whole number of at least 1")
        if is_organism:
            if not source.startswith("builtin:"):
                raise InputError(
                    f"prompts.{kind} = {source!r}: the organism knows only its own world's prompts. "
                    "Give model.path as well, or leave it at its default"
                )
            world = world_rules.make_world(config.organism.seed)
            prompts = world_rules.requests(world, "evaluation", "benign" if kind == "benign" else "restricted", count)
            source = "the organism's evaluation split"
        else:
            loaded = prompt_files.load_prompts(source, column=settings[f"{kind}_column"] or None)
            if loaded.duplicates:
                logging.warning("prompts.%s: %d duplicates dropped from %s", kind, loaded.duplicates, source)
            if count > len(loaded.prompts):
                logging.warning(
                    "prompts.%s_count = %d, but %s holds only %d prompts: all are used",
                    kind,
                    count,
                    source,
                    len(loaded.prompts),
                )
            prompts = loaded.prompts[:count]
        panels.append(make_panel(kind, prompts, source))
    return tuple(panels)


def make_panel(name: str, prompts, source: str) -> Panel:
    """A Panel of these prompts, with their ids and the hash of them all."""
    ids = np.array([text_id(prompt) for prompt in prompts], np.uint32)
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    return Panel(name, tuple(prompts), ids, digest, source)


def text_id(text: str) -> int:
    """A number below 2^32 that depends on the text alone: what randomness is folded with."""
    return zlib.crc32(text.encode())


def make_judge_and_reward(config: ConfigDict, *, is_organism: bool) -> tuple[Judge, Reward]:
    """The judge and the reward the config names; InputError that lists the options when one cannot be reached."""
    world = world_rules.make_world(config.organism.seed) if is_organism else None
    judge_kind = _choice("judge.kind", config.judge.kind, JUDGES, "oracle" if is_organism else "harmbench")
    reward_kind = _choice("reward.kind", config.reward.kind, REWARDS, "oracle" if is_organism else "gpt2")
    for field, kind in (("judge.kind", judge_kind), ("reward.kind", reward_kind)):
        if kind == "oracle" and world is None:
            raise InputError(f"{field} = 'oracle' knows only the organism's world; a checkpoint needs another kind")
    make_judge = {
        "oracle": lambda: oracle.oracle_judge(world),
        "refusal": refusal.refusal_judge,
        "harmbench": lambda: _harmbench_judge(config.judge),
    }[judge_kind]
    make_reward = {
        "oracle": lambda: oracle.oracle_reward(world),
        "refusal": refusal.refusal_reward,
        "gpt2": lambda: reward_model.gpt2_reward(
            models.resolve(config.reward.path), form=config.reward.form, batch_size=config.reward.batch
        ),
    }[reward_kind]
    return (
        _reachable("judge", make_judge, "harmbench with judge.path=DIR, or refusal (phrases: a fallback)"),
        _reachable("reward", make_reward, "gpt2 with reward.path=DIR, or refusal (phrases: a fallback)"),
    )


def warn_of_fallbacks(*scorers: Judge | Reward) -> None:
    """Say in the log which scorers see phrases only."""
    for scorer in scorers:
        if scorer.is_fallback:
            logging.warning(
                "the %s is %s, a fallback: it sees phrases, not harm, and every output says so",
                type(scorer).__name__.lower(),
                scorer.name,
            )


def _reachable(field, make, options):
    try:
        return make()
    except InputError as error:
        raise InputError(f"no {field} for this run: {error}. Options for --config.{field}.kind: {options}") from error


def _choice(field, value, options, automatic):
    if value not in options:
        raise InputError(f"{field} = {value!r}, expected one of {', '.join(options)}")
    return automatic if value == "auto" else value


def _harmbench_judge(settings) -> Judge:
    directory = models.resolve(settings.path)
    tokenizer = chats.load_tokenizer(directory)
    cfg = models.check(directory).cfg
    sharding.check(cfg)
    # The two published classifiers are a Llama 2 and a Mistral, each with its own prompt.
    form = "mistral" if cfg.family == "mistral" else "llama"

    @functools.cache
    def loaded():
        return models.load(directory, dtype=settings.dtype)

    def generate_text(rows, max_new_tokens):
        cfg, params = loaded()
        return respond.continue_rows(
            params, rows, cfg=cfg, tokenizer=tokenizer, max_new_tokens=max_new_tokens, batch=settings.batch
        )

    return harmbench.harmbench_judge(generate_text, tokenizer, form=form)


def load_chat(variant: Variant, config: ConfigDict) -> chats.Chat:
    """The variant's tokenizer and template as the config asks for them; cheap, no weights are read."""
    cfg = models.check(variant.path).cfg
    return chats.make_chat(
        chats.load_tokenizer(variant.path),
        family=cfg.family,
        preset=config.chat.preset,
        template_file=config.chat.template_file or None,
        date=config.chat.date,
        enable_thinking=config.chat.thinking,
    )


def load_variant(variant: Variant, config: ConfigDict) -> respond.Loaded:
    """Read a variant's weights and put them on the device."""
    cfg, params = models.load(variant.path, dtype=config.model.dtype)
    generation = models.read_generation_config(variant.path) or {}
    chat = load_chat(variant, config)
    penalty = generation.get("repetition_penalty") or 1.0
    if penalty != 1.0:
        logging.info(
            "%s: its generation_config asks for a repetition penalty of %g; %s",
            variant.name,
            penalty,
            "honoured" if config.generation.repetition_penalty else "off, as in plain greedy decoding",
        )
    return respond.Loaded(
        cfg,
        jax.block_until_ready(params),
        chat,
        chats.eos_ids(chat, generation),
        float(penalty) if config.generation.repetition_penalty else 1.0,
    )


def encode_panels(variant: Variant, panels, config: ConfigDict) -> list[tuple[Panel, chats.Tokens]]:
    """Each panel with its prompts in the variant's own tokens; InputError for prompts over prompts.max_tokens."""
    chat, cfg = load_chat(variant, config), models.check(variant.path).cfg
    encoded = [
        (panel, chats.encode_prompts(chat, panel.prompts, max_length=config.prompts.max_tokens)) for panel in panels
    ]
    longest = max(tokens.tokens.shape[1] for _, tokens in encoded) + config.generation.max_new_tokens
    if longest > cfg.max_positions:
        logging.warning(
            "%s was made for %d positions; the longest prompt and generation.max_new_tokens = %d need %d",
            variant.name,
            cfg.max_positions,
            config.generation.max_new_tokens,
            longest,
        )
    return encoded


def fingerprint(path: pathlib.Path) -> str:
    """A short hash of a checkpoint: every file's name and size, config and tokenizer whole, weights by their ends."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*")):
        if file.suffix not in (".json", ".jinja", ".model", ".safetensors"):
            continue
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with open(file, "rb") as opened:
            digest.update(opened.read(2**20))
            opened.seek(max(0, file.stat().st_size - 2**20))
            digest.update(opened.read())
    return digest.hexdigest()[:16]


def describe_inputs(subject: Subject, panels, judge: Judge, reward: Reward, config: ConfigDict) -> dict:
    """What a result depends on beside the config: checkpoints, templates, prompts and scorers, for the record."""
    return {
        "arch": subject.arch,
        "variants": {
            v.name: {"fingerprint": fingerprint(v.path), "template_sha256": chats.template_sha256(load_chat(v, config))}
            for v in subject.variants
        },
        "prompts": {p.name: {"n": len(p.prompts), "sha256": p.sha256, "source": p.source} for p in panels},
        "judge": {"name": judge.name, "is_fallback": judge.is_fallback},
        "reward": {"name": reward.name, "is_fallback": reward.is_fallback},
    }
