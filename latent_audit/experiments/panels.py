"""Prompt panels: what every task asks, and the further panels of a whole audit. docs/method.md sections 0 and 8.

Panels come from the organism's world, whose splits share no prompt, or from the files that a config names.
"""

import dataclasses
import hashlib
import os
import types
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from latent_audit.data import builtin_facts, pair_files, prompt_files, world_rules, wrappers
from latent_audit.errors import InputError
from latent_audit.experiments import fields

HARMFUL, BENIGN = "harmful", "benign"
WRAPPED, OVER_REFUSAL, FACTS = "wrapped-", "over-refusal", "facts"
# What a heretic configuration calls them, where its address names no section.
HERETIC = {HARMFUL: "bad_prompts", BENIGN: "good_prompts"}


class Panel(NamedTuple):
    """A set of prompts; ids: uint32 [N], from the text alone, so that a prompt keeps its noise in any panel.

    clusters: int [N], equal for prompts that share a noun (the organism's) or a category (a file's), else apart;
    docs/method.md section 0. behaviors: what the judge is asked about each, the prompt itself where it is no attack on
    top of a request; targets: the opening that searches aim at, "" for everybody's; origin: columns read and rows
    dropped, for the record. docs/prompts.md.
    """

    name: str
    prompts: tuple[str, ...]
    ids: np.ndarray
    sha256: str
    source: str
    clusters: np.ndarray
    behaviors: tuple[str, ...]
    targets: tuple[str, ...]
    origin: Mapping[str, object] = types.MappingProxyType({})


def make_panel(
    name: str,
    prompts: Iterable[str],
    source: str,
    groups: Sequence[str] = (),
    *,
    behaviors: Sequence[str] = (),
    targets: Sequence[str] = (),
    origin: Mapping[str, object] = types.MappingProxyType({}),
) -> Panel:
    """A Panel of these prompts, with their ids and the hash of them all.

    groups: for each prompt what it shares with others of its cluster, "" for nothing; none at all for no clusters.
    behaviors, targets: as in Panel; none at all for the prompts themselves, and for everybody's target.
    """
    prompts = tuple(prompts)
    ids = np.array([text_id(prompt) for prompt in prompts], np.uint32)
    return Panel(
        name,
        prompts,
        ids,
        _digest(prompts),
        source,
        cluster_numbers(groups or [""] * len(prompts)),
        tuple(behaviors) or prompts,
        tuple(targets) or ("",) * len(prompts),
        origin,
    )


def panel_of(name: str, loaded: prompt_files.PromptSet, chosen: slice, source: str) -> Panel:
    """The Panel of a part of a loaded set."""
    parts = {"behaviors": loaded.behaviors[chosen], "targets": loaded.targets[chosen]}
    return make_panel(name, loaded.prompts[chosen], source, loaded.groups[chosen], **parts, origin=loaded.describe())


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def describe(panel: Panel) -> dict:
    """For the record of a run: how many prompts of which hash and source, and its own behaviours and targets."""
    record = {"n": len(panel.prompts), "sha256": panel.sha256, "source": panel.source, **panel.origin}
    if panel.behaviors != panel.prompts:
        record["behaviors_sha256"] = _digest(panel.behaviors)
    if any(panel.targets):
        record["targets_sha256"] = _digest(panel.targets)
    return record


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
    of_each = ("prompts", "ids", "clusters", "behaviors", "targets")
    return panel._replace(**{name: getattr(panel, name)[chosen] for name in of_each})


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
    else:
        check_labels(config)
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
        panels[kind] = panel_of(kind, loaded, chosen, source)
    prompt_files.check_disjoint(
        panels[BENIGN],
        panels[HARMFUL],
        called=("harmless", "harmful"),
        remedy="take them out of one of the two, or of one file give each panel its rows by prompts.harmful_label and "
        "prompts.benign_label",
    )
    return panels


def load_named(config: ConfigDict, kind: str, offset: int = 0) -> prompt_files.PromptSet:
    """All prompts behind the first `offset` of the source that prompts.harmful or prompts.benign names.

    The columns of behaviours, contexts, targets and clusters, and what is joined, are asked for in the harmful prompts'
    source; those of the harmless ones are recognised.
    """
    section = config.prompts
    names = ("behavior_column", "context_column", "target_column", "cluster_column") if kind == HARMFUL else ()
    return load(
        f"prompts.{kind}",
        section[kind],
        column=section[f"{kind}_column"] or None,
        label=section[f"{kind}_label"] or None,
        label_column=section.label_column or None,
        joined=[part.strip() for part in section.joined.split(",") if part.strip()] if kind == HARMFUL else [],
        section=HERETIC[kind],
        offset=offset,
        **{name: section[name] or None for name in names},
    )


def load(field: str, source: str, **options) -> prompt_files.PromptSet:
    """prompt_files.load_prompts with its errors named by the field, and what was dropped and what is judged told."""
    with fields.named(field):
        loaded = prompt_files.load_prompts(source, **options)
    tell_dropped(field, loaded)
    for note in loaded.notes:
        logging.warning("%s: %s", field, note)
    if "behavior" in loaded.columns:
        logging.info(
            "%s: %s is put to the model, %s is what is judged",
            field,
            loaded.columns["prompt"],
            loaded.columns["behavior"],
        )
    if "target" in loaded.columns and (bare := loaded.targets.count("")):
        logging.warning("%s: %d prompts have no target: the fixed one is theirs", field, bare)
    if len(loaded.prompts) > 1 and loaded.groups[0] and len(set(loaded.groups)) == 1:
        logging.warning(
            "%s: all prompts are of one %s, %r: its interval would be that of one cluster, so each is its own",
            field,
            loaded.columns["cluster"],
            loaded.groups[0],
        )
        loaded = dataclasses.replace(loaded, groups=("",) * len(loaded.groups))
    return loaded


def tell_dropped(field: str, loaded: prompt_files.PromptSet | pair_files.Pairs) -> None:
    """Say in the log which rows of a source were not taken, if any."""
    if dropped := loaded.dropped_in_words():
        logging.warning("%s: rows dropped from %s: %s", field, loaded.source, dropped)


def check_labels(config: ConfigDict) -> None:
    """InputError where one label of one source is to be both harmful and harmless."""
    section = config.prompts
    harmful, benign = (prompt_files.labels_of(section[f"{kind}_label"]) for kind in (HARMFUL, BENIGN))
    one, other = (section[kind].strip() for kind in (HARMFUL, BENIGN))
    try:
        same = one == other or os.path.samefile(one, other)
    except (OSError, ValueError):
        same = False
    both = harmful & benign or ({prompt_files.ALL_LABELS} & (harmful | benign) if harmful and benign else set())
    if same and both:
        raise InputError(
            f"prompts.harmful_label = {section.harmful_label!r} and prompts.benign_label = {section.benign_label!r} "
            f"both take {', '.join(sorted(both))} of {one}: a label is of one panel; give each its own"
        )


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
    plain = _unseen(config, panels[HARMFUL], world)
    for family in _families(section.wrappers, known):
        panels[WRAPPED + family] = wrapped(WRAPPED + family, plain, [family], wrap, f"{plain.source}, in our own words")
    if section.over_refusal:
        if world is not None:
            raise InputError("panel.over_refusal needs model.path: the organism knows only its own world")
        loaded = load("panel.over_refusal", section.over_refusal, label=section.over_refusal_label or None)
        first = section.over_refusal_offset
        check_offset("panel.over_refusal_offset", first, section.over_refusal, len(loaded.prompts))
        chosen = slice(first, first + section.over_refusal_count)
        panels[OVER_REFUSAL] = panel_of(OVER_REFUSAL, loaded, chosen, section.over_refusal)
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


def wrapped(name: str, plain: Panel, families: Sequence[str], wrap, source: str) -> Panel:
    """The requests of a panel in these wrappers by turns: another prompt, the same behaviour to judge."""
    prompts = [wrap(families[index % len(families)], prompt) for index, prompt in enumerate(plain.prompts)]
    made = make_panel(name, prompts, source)
    return made._replace(**{field: getattr(plain, field) for field in ("clusters", "behaviors", "targets", "origin")})


def _families(text: str, known) -> tuple[str, ...]:
    if text in ("all", ""):
        return known if text else ()
    return fields.names("panel.wrappers", text, known)


def _unseen(config, harmful, world) -> Panel:
    """Requests to wrap: those at panel.wrapped_offset, by default none of the harmful panel."""
    count, offset = config.panel.wrapped_count, config.panel.wrapped_offset
    if world is not None:
        with fields.named("panel.wrapped_offset + panel.wrapped_count"):
            return world_panel("jailbreak", world, "jailbreak", HARMFUL, count, offset or 0)
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
    return panel_of(HARMFUL, whole, slice(behind, behind + count), source)
