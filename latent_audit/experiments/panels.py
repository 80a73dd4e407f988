"""Prompt panels: what every task asks, and the further panels of a whole audit. docs/method.md sections 0 and 8.

Panels come from the organism's world, whose splits share no prompt, or from the files that a config names.
"""

import hashlib
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from latent_audit.data import builtin_facts, prompt_files, world_rules, wrappers
from latent_audit.errors import InputError
from latent_audit.experiments import fields

HARMFUL, BENIGN = "harmful", "benign"
WRAPPED, OVER_REFUSAL, FACTS = "wrapped-", "over-refusal", "facts"


class Panel(NamedTuple):
    """A set of prompts; ids: uint32 [N], from the text alone, so that a prompt keeps its noise in any panel."""

    name: str
    prompts: tuple[str, ...]
    ids: np.ndarray
    sha256: str
    source: str


def make_panel(name: str, prompts: Iterable[str], source: str) -> Panel:
    """A Panel of these prompts, with their ids and the hash of them all."""
    prompts = tuple(prompts)
    ids = np.array([text_id(prompt) for prompt in prompts], np.uint32)
    return Panel(name, prompts, ids, hashlib.sha256("\n".join(prompts).encode()).hexdigest(), source)


def text_id(text: str) -> int:
    """A number below 2^32 that depends on the text alone: what randomness is folded with."""
    return zlib.crc32(text.encode())


def world_panel(name: str, world: world_rules.World, split: str, kind: str, count: int) -> Panel:
    """The first `count` harmful or benign requests of a split of the world; InputError if it has fewer."""
    kind = "restricted" if kind == HARMFUL else "benign"
    return make_panel(name, world_rules.requests(world, split, kind, count), f"the organism's {split} split")


def check_builtin(config: ConfigDict) -> None:
    """InputError if prompts are named for the organism, which knows only its own world's."""
    for kind in (HARMFUL, BENIGN):
        if not config.prompts[kind].startswith("builtin:"):
            raise InputError(
                f"prompts.{kind} = {config.prompts[kind]!r}: the organism knows only its own world's prompts. Give "
                "model.path as well, or leave it at its default"
            )


def request_panels(config: ConfigDict, world: world_rules.World | None) -> dict[str, Panel]:
    """{"harmful": ..., "benign": ...}: the world's evaluation split, or the files that the config names.

    Raises InputError as prompt_files.load_prompts, and for a harmless prompt that is among the harmful ones.
    """
    section, panels = config.prompts, {}
    if world is not None:
        check_builtin(config)
    for kind in (HARMFUL, BENIGN):
        source, count = section[kind], section[f"{kind}_count"]
        if world is not None:
            with fields.named(f"prompts.{kind}_count"):
                panels[kind] = world_panel(kind, world, "evaluation", kind, count)
            continue
        with fields.named(f"prompts.{kind}"):
            loaded = prompt_files.load_prompts(source, column=section[f"{kind}_column"] or None)
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
        panels[kind] = make_panel(kind, loaded.prompts[:count], source)
    prompt_files.check_disjoint(panels[BENIGN], panels[HARMFUL])
    return panels


def audit_panels(config: ConfigDict, world: world_rules.World | None) -> dict[str, Panel]:
    """Name -> panel: harmful, benign, wrapped-FAMILY of every family, facts, and over-refusal where a source is given.

    Wrapped are requests that are not in the harmful panel: the world's `jailbreak` split, or the prompts of the file
    behind it; a file without such is wrapped from its start, with a warning. Raises InputError as request_panels, and
    for unknown families.
    """
    panels, section = request_panels(config, world), config.panel
    wrap, known = wrapping(world is not None)
    requests, source = _unseen(config, panels[HARMFUL], world)
    for family in _families(section.wrappers, known):
        prompts = [wrap(family, request) for request in requests]
        panels[WRAPPED + family] = make_panel(WRAPPED + family, prompts, f"{source}, in our own words")
    if section.over_refusal:
        if world is not None:
            raise InputError("panel.over_refusal needs model.path: the organism knows only its own world")
        with fields.named("panel.over_refusal"):
            loaded = prompt_files.load_prompts(
                section.over_refusal, label=section.over_refusal_label or None, limit=section.over_refusal_count
            )
        panels[OVER_REFUSAL] = make_panel(OVER_REFUSAL, loaded.prompts, section.over_refusal)
    panels[FACTS] = make_panel(FACTS, builtin_facts.FACTS, "built-in facts") if world is None else fact_panel(world)
    return panels


def fact_panel(world: world_rules.World) -> Panel:
    """The organism's held-out questions of fact."""
    return make_panel(FACTS, [question for question, _ in world_rules.facts(world, "heldout")], "held-out facts")


def wrapping(is_organism: bool):
    """(wrap(family, prompt) -> prompt, names of the families) of jailbreak wrappers, the organism's own or ours."""
    if is_organism:
        return world_rules.wrap, world_rules.FAMILIES
    return (lambda family, prompt: wrappers.WRAPPERS[family].format(p=prompt)), tuple(wrappers.WRAPPERS)


def _families(text: str, known) -> tuple[str, ...]:
    if text in ("all", ""):
        return known if text else ()
    return fields.names("panel.wrappers", text, known)


def _unseen(config, harmful, world) -> tuple[tuple[str, ...], str]:
    """(requests that are not in the harmful panel, where they are from)."""
    count = config.panel.wrapped_count
    if world is not None:
        with fields.named("panel.wrapped_count"):
            requests = world_rules.requests(world, "jailbreak", "restricted", count)
        return tuple(requests), "the organism's jailbreak split"
    source = config.prompts.harmful
    whole = prompt_files.load_prompts(source, column=config.prompts.harmful_column or None).prompts
    behind = whole[len(harmful.prompts) :][:count]
    if behind:
        return behind, source
    logging.warning(
        "%s holds no prompt behind the %d of the panel: its first ones are wrapped, so that the same requests are put "
        "plainly and wrapped",
        source,
        len(harmful.prompts),
    )
    return whole[:count], source
