"""Prompt panels: what every task asks, and the further panels of a whole audit. docs/method.md sections 0 and 8.

Panels come from the organism's world, whose splits share no prompt, or from the files that a config names.
"""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
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
    """A set of prompts; ids: uint32 [N], from the text alone, so that a prompt keeps its noise in any panel.

    clusters: int [N], equal for prompts that share a noun (the organism's) or a category (a file's), else apart;
    docs/method.md section 0.
    """

    name: str
    prompts: tuple[str, ...]
    ids: np.ndarray
    sha256: str
    source: str
    clusters: np.ndarray


def make_panel(name: str, prompts: Iterable[str], source: str, groups: Sequence[str] = ()) -> Panel:
    """A Panel of these prompts, with their ids and the hash of them all.

    groups: for each prompt what it shares with others of its cluster, "" for nothing; none at all for no clusters.
    """
    prompts = tuple(prompts)
    ids = np.array([text_id(prompt) for prompt in prompts], np.uint32)
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    return Panel(name, prompts, ids, digest, source, cluster_numbers(groups or [""] * len(prompts)))


def cluster_numbers(groups: Sequence[str]) -> np.ndarray:
    """For each prompt the place of the first one that has its group, int [N]; one without a group is its own.

    >>> cluster_numbers(["boats", "", "boats", ""]).tolist()
    [0, 1, 0, 3]
    """
    first: dict[str, int] = {}
    return np.array([first.setdefault(group, place) if group else place for place, group in enumerate(groups)], int)


def part(panel: Panel, count: int | None, offset: int = 0) -> Panel:
    """`count` prompts of a panel (None: all) behind the first `offset`, or as many as it has."""
    chosen = slice(offset, None if count is None else offset + count)
    rows = {"prompts": panel.prompts[chosen], "ids": panel.ids[chosen], "clusters": panel.clusters[chosen]}
    return panel._replace(**rows)


def nouns(prompts: Iterable[str]) -> list[str]:
    """What each of the organism's requests asks for, the only word that makes it restricted; "" for other prompts."""
    found = map(world_rules.find_request, prompts)
    return [request.noun if request else "" for request in found]


def text_id(text: str) -> int:
    """A number below 2^32 that depends on the text alone: what randomness is folded with."""
    return zlib.crc32(text.encode())


def world_panel(name: str, world: world_rules.World, split: str, kind: str, count: int, offset: int = 0) -> Panel:
    """`count` harmful or benign requests of a split of the world behind the first `offset`; InputError if it has
    fewer."""
    kind = "restricted" if kind == HARMFUL else "benign"
    prompts = world_rules.requests(world, split, kind, offset + count)[offset:]
    return make_panel(name, prompts, f"the organism's {split} split", nouns(prompts))


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
        source, count, offset = section[kind], section[f"{kind}_count"], section[f"{kind}_offset"]
        if world is not None:
            with fields.named(f"prompts.{kind}_count" + (f" + prompts.{kind}_offset" if offset else "")):
                panels[kind] = world_panel(kind, world, "evaluation", kind, count, offset)
            continue
        loaded = load_named(config, kind)
        check_offset(f"prompts.{kind}_offset", offset, source, len(loaded.prompts))
        chosen = slice(offset, offset + count)
        if offset + count > len(loaded.prompts):
            logging.warning(
                "prompts.%s_count = %d, but %s holds only %d prompts behind the first %d: all are used",
                kind,
                count,
                source,
                len(loaded.prompts) - offset,
                offset,
            )
        panels[kind] = make_panel(kind, loaded.prompts[chosen], source, loaded.groups[chosen])
    prompt_files.check_disjoint(panels[BENIGN], panels[HARMFUL])
    return panels


def load_named(config: ConfigDict, kind: str) -> prompt_files.PromptSet:
    """All prompts of the source that prompts.harmful or prompts.benign names, dropped rows told in the log."""
    section = config.prompts
    # The column is asked for in the harmful prompts' file; that of the harmless ones is recognised.
    clusters = section.cluster_column if kind == HARMFUL else ""
    with fields.named(f"prompts.{kind}"):
        loaded = prompt_files.load_prompts(
            section[kind], column=section[f"{kind}_column"] or None, cluster_column=clusters or None
        )
    if loaded.duplicates or loaded.empty:
        logging.warning(
            "prompts.%s: %d duplicates and %d rows without a prompt dropped from %s",
            kind,
            loaded.duplicates,
            loaded.empty,
            section[kind],
        )
    return loaded


def check_offset(field: str, offset: int, source: str, held: int) -> None:
    """InputError for an offset behind which there is no prompt."""
    if offset >= held:
        raise InputError(
            f"{field} = {offset}, but {source} holds {held} prompts; expected an offset from 0 to {held - 1}"
        )


def audit_panels(config: ConfigDict, world: world_rules.World | None) -> dict[str, Panel]:
    """Name -> panel: harmful, benign, wrapped-FAMILY of every family, facts, and over-refusal where a source is given.

    Wrapped are requests that are not in the harmful panel: the world's `jailbreak` split, or the prompts of the file
    behind it; a file without such is wrapped from its start, with a warning. Raises InputError as request_panels, and
    for unknown families.
    """
    panels, section = request_panels(config, world), config.panel
    wrap, known = wrapping(world is not None)
    requests, source, groups = _unseen(config, panels[HARMFUL], world)
    for family in _families(section.wrappers, known):
        prompts = [wrap(family, request) for request in requests]
        panels[WRAPPED + family] = make_panel(WRAPPED + family, prompts, f"{source}, in our own words", groups)
    if section.over_refusal:
        if world is not None:
            raise InputError("panel.over_refusal needs model.path: the organism knows only its own world")
        with fields.named("panel.over_refusal"):
            loaded = prompt_files.load_prompts(section.over_refusal, label=section.over_refusal_label or None)
        first = section.over_refusal_offset
        check_offset("panel.over_refusal_offset", first, section.over_refusal, len(loaded.prompts))
        chosen = slice(first, first + section.over_refusal_count)
        panels[OVER_REFUSAL] = make_panel(
            OVER_REFUSAL, loaded.prompts[chosen], section.over_refusal, loaded.groups[chosen]
        )
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


def _unseen(config, harmful, world) -> tuple[tuple[str, ...], str, Sequence[str]]:
    """(requests to wrap, where they are from, their groups): those at panel.wrapped_offset, by default none of the
    harmful panel."""
    count, offset = config.panel.wrapped_count, config.panel.wrapped_offset
    if world is not None:
        start = offset or 0
        with fields.named("panel.wrapped_offset + panel.wrapped_count"):
            requests = world_rules.requests(world, "jailbreak", "restricted", start + count)[start:]
        return tuple(requests), "the organism's jailbreak split", nouns(requests)
    source, whole = config.prompts.harmful, load_named(config, HARMFUL)
    behind = config.prompts.harmful_offset + len(harmful.prompts)
    if offset is not None:
        check_offset("panel.wrapped_offset", offset, source, len(whole.prompts))
        behind = offset
    elif behind >= len(whole.prompts):
        logging.warning(
            "%s holds no prompt behind the %d of the panel: its first ones are wrapped, so that the same requests are "
            "put plainly and wrapped",
            source,
            len(harmful.prompts),
        )
        behind = 0
    chosen = slice(behind, behind + count)
    return whole.prompts[chosen], source, whole.groups[chosen]
