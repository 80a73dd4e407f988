"""The prompt sets of RAS: safe, unsafe and jailbreak prompts for the direction and for the scores, and the ASR panel.

docs/method.md section 10. Two protocols: `paper` scores on the very prompts that gave direction and window,
`heldout` [O] on others.
"""

from typing import NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from latent_audit.data import prompt_files, world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import fields, panels
from latent_audit.experiments.panels import Panel, check_offset, world_panel, wrapping

# Protocol -> the half that scores are read on; directions and window always come from FIT.
FIT, SCORE = "fit", "score"
PROTOCOLS = {"heldout": SCORE, "paper": FIT}
ORGANISM_SPLITS = {FIT: "ras_fit", SCORE: "ras_score"}
HELDOUT = "heldout"


class Sets(NamedTuple):
    """S, U and J of one half; jailbreak prompt i wraps unsafe prompt i."""

    safe: Panel
    unsafe: Panel
    jailbreak: Panel

    @property
    def jailbreak_of(self) -> np.ndarray:
        """The unsafe prompt that each jailbreak prompt wraps."""
        return np.arange(len(self.jailbreak.prompts))


class Prompts(NamedTuple):
    """halves: FIT and SCORE; asr: harmful prompts that attack success is measured on, wrapped: the same in wrappers;
    benign: harmless prompts beside them. The last three are None where nothing is generated."""

    halves: dict[str, Sets]
    asr: Panel | None
    wrapped: Panel | None
    benign: Panel | None

    def panels(self) -> list[Panel]:
        """All of them, for the record."""
        return [
            *(panel for half in self.halves.values() for panel in half),
            *(panel for panel in (self.asr, self.wrapped, self.benign) if panel is not None),
        ]


def parse_protocols(text: str) -> tuple[str, ...]:
    """ "heldout,paper" -> its names; InputError for none or an unknown one."""
    return fields.names("protocols", text, PROTOCOLS)


def make_prompts(config: ConfigDict, *, world: world_rules.World | None, generate: bool) -> Prompts:
    """The prompt sets that the config names, or the world's own splits.

    Args:
      world: of an organism; None for checkpoints, whose prompts come from the files of config.prompts.
      generate: whether attack success will be measured, and so needs prompts.
    Raises:
      InputError: empty sets, unknown wrappers, a harmless prompt among the harmful ones, or ASR prompts among those of
        directions and scores (under protocol paper this is a warning).
    """
    wrap, known = wrapping(world is not None)
    families = _families(config.wrappers, known)

    def wrapped(name, panel):
        return panels.wrapped(name, panel, families, wrap, ", ".join(families))

    found = _of_files(config, generate) if world is None else _of_world(config, world, generate)
    halves = {}
    for half, (safe, unsafe) in found["halves"].items():
        halves[half] = Sets(safe, unsafe, wrapped(f"{half}-jailbreak", unsafe))
    asr = found["asr"]
    made = Prompts(halves, asr, None if asr is None else wrapped("asr-wrapped", asr), found["benign"])
    check(made, parse_protocols(config.protocols))
    return made


def check(prompts: Prompts, protocols) -> None:
    """Nothing may be on both sides of a comparison: see make_prompts."""
    fit, score = (prompts.halves[half] for half in (FIT, SCORE))
    for half in (fit, score):
        prompt_files.check_disjoint(half.safe, half.unsafe)
    if HELDOUT in protocols:
        for kind in ("safe", "unsafe"):
            prompt_files.check_disjoint(getattr(fit, kind), getattr(score, kind))
    if prompts.asr is None:
        return
    for half in (fit, score):
        try:
            prompt_files.check_disjoint(half.unsafe, prompts.asr)
        except InputError as error:
            if HELDOUT in protocols:
                raise InputError(
                    f"protocol heldout: the ASR prompts must be others than those of {half.unsafe.name}: "
                    f"{error}, or run with protocols=paper"
                ) from error
            logging.warning("protocol paper: %s", error)


def _families(text: str, known) -> tuple[str, ...]:
    return known if text == "all" else fields.names("wrappers", text, known)


def _of_world(config, world, generate) -> dict:
    def panel(name, split, kind, count):
        held = world_rules.count(world, split, "restricted" if kind == "harmful" else "benign")
        offset = config.prompts[f"{kind}_offset"]
        check_offset(f"prompts.{kind}_offset", offset, f"the organism's {split} split", held)
        return world_panel(name, world, split, kind, min(count, held - offset), offset)

    halves = {
        half: (
            panel(f"{half}-safe", split, "benign", config.prompts.benign_count),
            panel(f"{half}-unsafe", split, "harmful", config.prompts.harmful_count),
        )
        for half, split in ORGANISM_SPLITS.items()
    }
    if not generate:
        return {"halves": halves, "asr": None, "benign": None}
    return {
        "halves": halves,
        "asr": panel("asr", "evaluation", "harmful", config.prompts.asr_count),
        "benign": panel("benign", "evaluation", "benign", config.prompts.benign_count),
    }


def _of_files(config, generate) -> dict:
    """Halves from the beginning of the files; the ASR panel from a file of its own or from behind the halves."""
    section = config.prompts
    panels.check_labels(config)
    sets = {kind: panels.load_named(config, kind, section[f"{kind}_offset"]) for kind in ("harmful", "benign")}
    own = generate and not section.asr
    sizes = {
        kind: min(section[f"{kind}_count"], len(one.prompts) // (2 + (generate if kind == "benign" else own)))
        for kind, one in sets.items()
    }
    for kind, size in sizes.items():
        if size < 2:
            raise InputError(
                f"prompts.{kind} = {section[kind]!r} holds {len(sets[kind].prompts)} prompts, too few "
                "for the halves that directions and scores are read on" + (" and the ASR panel" if own else "")
            )
        if size < section[f"{kind}_count"]:
            logging.warning(
                "prompts.%s_count = %d, but %s holds %d prompts: %d in each half",
                kind,
                section[f"{kind}_count"],
                section[kind],
                len(sets[kind].prompts),
                size,
            )

    def panel(name, kind, start, stop):
        return panels.panel_of(name, sets[kind], slice(start, stop), section[kind])

    halves = {
        half: tuple(
            panel(f"{half}-{name}", kind, place * sizes[kind], (place + 1) * sizes[kind])
            for name, kind in (("safe", "benign"), ("unsafe", "harmful"))
        )
        for place, half in enumerate((FIT, SCORE))
    }
    if not generate:
        return {"halves": halves, "asr": None, "benign": None}
    if own:
        start = 2 * sizes["harmful"]
        asr = panel("asr", "harmful", start, start + section.asr_count)
    else:
        loaded = panels.load("prompts.asr", section.asr, column=section.asr_column or None, limit=section.asr_count)
        asr = panels.panel_of("asr", loaded, slice(None), section.asr)
    return {"halves": halves, "asr": asr, "benign": panel("benign", "benign", 2 * sizes["benign"], 3 * sizes["benign"])}
