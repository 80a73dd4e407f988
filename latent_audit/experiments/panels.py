"""The prompt panels of an audit: requests, wrapped requests, harmless prompts, prompts that only look harmful, facts.

docs/method.md section 8.
"""

from absl import logging
from ml_collections import ConfigDict

from latent_audit.data import builtin_facts, prompt_files, world_rules, wrappers
from latent_audit.errors import InputError
from latent_audit.experiments import fields, setup

WRAPPED, OVER_REFUSAL, FACTS = "wrapped-", "over-refusal", "facts"


def make_panels(config: ConfigDict, *, is_organism: bool) -> dict[str, setup.Panel]:
    """Name -> panel: harmful, benign, wrapped-FAMILY of every family, facts, and over-refusal where a source is given.

    Wrapped are requests that are not in the harmful panel: the world's `jailbreak` split, or the prompts of the file
    behind it; a file without such is wrapped from its start, with a warning. Raises InputError as setup.make_panels,
    for unknown families, and for a harmless prompt that is among the harmful ones.
    """
    harmful, benign = setup.make_panels(config, is_organism=is_organism)
    prompt_files.check_disjoint(benign, harmful)
    section = config.panel
    fields.check_whole({f"panel.{field}": section[field] for field in ("wrapped_count", "over_refusal_count")}, least=1)
    panels = {"harmful": harmful, "benign": benign}
    wrap, known = wrapping(is_organism)
    requests, source = _unseen(config, harmful, is_organism=is_organism)
    for family in _families(section.wrappers, known):
        prompts = [wrap(family, request) for request in requests]
        panels[WRAPPED + family] = setup.make_panel(WRAPPED + family, prompts, f"{source}, in our own words")
    if section.over_refusal:
        if is_organism:
            raise InputError("panel.over_refusal needs model.path: the organism knows only its own world")
        found = prompt_files.load_prompts(
            section.over_refusal, label=section.over_refusal_label or None, limit=section.over_refusal_count
        )
        panels[OVER_REFUSAL] = setup.make_panel(OVER_REFUSAL, found.prompts, section.over_refusal)
    questions, source = list(builtin_facts.FACTS), "built-in facts"
    if is_organism:
        world = world_rules.make_world(config.organism.seed)
        questions, source = [question for question, _ in world_rules.facts(world, "heldout")], "held-out facts"
    panels[FACTS] = setup.make_panel(FACTS, questions, source)
    return panels


def wrapping(is_organism: bool):
    """(wrap(family, prompt) -> prompt, names of the families) of jailbreak wrappers, the organism's own or ours."""
    if is_organism:
        return world_rules.wrap, world_rules.FAMILIES
    return (lambda family, prompt: wrappers.WRAPPERS[family].format(p=prompt)), tuple(wrappers.WRAPPERS)


def _families(text: str, known) -> tuple[str, ...]:
    if text in ("all", ""):
        return known if text else ()
    named = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [name for name in named if name not in known]
    if unknown:
        raise InputError(f"panel.wrappers names {', '.join(unknown)}; there are {', '.join(known)}, or give all")
    return named


def _unseen(config, harmful, *, is_organism) -> tuple[tuple[str, ...], str]:
    count = config.panel.wrapped_count
    if is_organism:
        world = world_rules.make_world(config.organism.seed)
        return tuple(world_rules.requests(world, "jailbreak", "restricted", count)), "the organism's jailbreak split"
    source = config.prompts.harmful
    whole = prompt_files.load_prompts(source, column=config.prompts.harmful_column or None).prompts
    behind = whole[len(harmful.prompts) :][:count]
    if behind:
        return behind, source
    logging.warning(
        "%s holds no prompt behind the %d of the panel: its first ones are wrapped, so that the same "
        "requests are put plainly and wrapped",
        source,
        len(harmful.prompts),
    )
    return whole[:count], source
