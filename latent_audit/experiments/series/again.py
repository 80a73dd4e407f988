"""Saved answers judged again: every unit of a finished run as another judge would have given it.

The units go to another working directory, where the task then finds them done and writes its tables: the same as those
of a run with that judge from the start. docs/method.md section 9, docs/judges.md.
"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from absl import logging

from latent_audit.errors import InputError
from latent_audit.experiments import panels, respond
from latent_audit.experiments.judging import agreement
from latent_audit.judges import Judge
from latent_audit.runtime import runlog
from latent_audit.runtime.telling import progress

# Tasks whose units are judged when they are measured, and not chosen by what the judge says.
TASKS = ("lvs", "audit")
# Columns of respond.score that a judge has a part in; what they are made of was saved beside them.
_SAID = ("harmful", "judged", "unparsed", "incoherent", "degenerate")


class Sorted(NamedTuple):
    """Keys of a run's units. judged: with answers that can be judged again; plain: that no judge was asked about;
    searched: in which the judge's word says where the search goes on."""

    judged: tuple[str, ...]
    plain: tuple[str, ...]
    searched: tuple[str, ...]


def sort_units(workdir: pathlib.Path) -> Sorted:
    """The units of a finished run; InputError for one without any, or in which an answer that was judged is not saved.

    Units of the judge itself (its self-test, its errors) are left out: the other one has its own.
    """
    keys = sorted(runlog.unit_keys(workdir))
    if not keys:
        raise InputError(f"{workdir} holds no units of a run: nothing there can be judged again")
    found: dict[str, list[str]] = {"judged": [], "plain": [], "searched": []}
    for key in keys:
        if key.startswith("judge-"):
            continue
        if "/suite/" in key or key.endswith("/l2-break"):
            found["searched"].append(key)
            continue
        columns = runlog.load_unit(workdir, key)
        if columns is None:
            raise InputError(f"{workdir}: the unit {key} is damaged; start that run again, which computes it anew")
        is_judged = "judged" in columns
        if is_judged and not {"asked", "response"} <= columns.keys() or "sampled" in columns and "drawn" not in columns:
            raise InputError(
                f"{workdir} saved no answers (unit {key}), so there is nothing to judge again; run it with "
                "--config.generation.save=True"
            )
        found["judged" if is_judged else "plain"].append(key)
    return Sorted(*(tuple(found[name]) for name in Sorted._fields))


def columns_again(key: str, columns: Mapping[str, list], judge: Judge) -> dict[str, list]:
    """The columns of a unit with answers as this judge gives them; what no judge has a part in stays as it is."""
    said = respond.score(judge, None, columns["asked"], columns["response"])
    fresh = dict(columns) | {name: said[name] for name in _SAID if name in columns}
    fresh |= {"unparsed": said["unparsed"]}
    # Over-refusal is told by phrases, whatever the judge.
    if "refused" in columns and not key.endswith(f"/panel/{panels.OVER_REFUSAL}"):
        fresh["refused"] = respond.refused(said["judged"], said["degenerate"]).tolist()
    if "clean_harmful" in columns:
        fresh["clean_harmful"] = respond.score(judge, None, columns["asked"], columns["clean_response"])["harmful"]
    if "sampled" in columns:
        fresh |= respond.drawn_harm(judge, columns["asked"], np.array(columns["drawn"], object))
    return fresh


def carry_over(
    old: pathlib.Path, new: pathlib.Path, units: Sorted, judge: Judge, *, keep_searched: bool
) -> agreement.Agreement:
    """Write the units of `old` to `new`, judged by `judge`; those that are there already are not judged again.

    keep_searched: whether units in which the judge led the search go over as they are; else they are left out, and the
    task computes them anew. Returns how far the judge agrees with the one of `old`.
    """
    found = agreement.Agreement()
    with progress.of(len(units.judged), "units judged again") as meter:
        for key in units.judged:
            columns = runlog.load_unit(old, key)
            assert columns is not None
            fresh = runlog.unit(
                new, key, lambda key=key, columns=columns: columns_again(key, columns, judge), meter.advance
            )
            assert fresh is not None
            found = agreement.add(found, agreement.count(columns["judged"], fresh["judged"]))
    for key in (*units.plain, *(units.searched if keep_searched else ())):
        if runlog.load_unit(new, key) is None:
            columns = runlog.load_unit(old, key)
            assert columns is not None
            runlog.save_unit(new, key, columns)
    if units.searched and not keep_searched:
        logging.info("%d units are searched by the judge's word: they are computed anew", len(units.searched))
    return found
