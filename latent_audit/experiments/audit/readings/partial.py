"""What is there of an audit that was stopped: the experiments, variants and rows that its report rests on.

A cell has the prompts whose units are there, and its n says how many; a cell, a variant or an experiment without any is
absent. Nothing is filled in.
"""

import dataclasses
from collections.abc import Mapping

from latent_audit.errors import InputError
from latent_audit.experiments.audit.bench import Bench


def what_is_there(bench: Bench, measured: Mapping[str, Mapping]) -> tuple[Bench, dict[str, dict]]:
    """(the bench of the variants that were begun, experiment -> variant -> what was measured of it and can be read).

    measured: as the experiments' `measure` give it; None, or no rows, of what is not there. The bench says in `lacking`
    what nothing is there of. Raises InputError where nothing of base is there, with which the others are compared.
    """
    found = {}
    for experiment, of_variants in measured.items():
        rows = {name: _readable(experiment, one) for name, one in of_variants.items()}
        if rows := {name: one for name, one in rows.items() if one is not None and len(one)}:
            found[experiment] = rows
    names = [name for name in bench.names if any(name in of_variants for of_variants in found.values())]
    if bench.names[0] not in names:
        raise InputError(
            f"there is nothing to report yet: no answer of {bench.names[0]} is there, and the first unit of it is "
            f"{bench.names[0]}/clean-harmful/p00000. Start the run again with the same command: it goes on"
        )
    lacking = [name for name in bench.names if name not in names] + [name for name in measured if name not in found]
    subject = bench.subject._replace(variants=tuple(bench.variant(name) for name in names))
    said = f" Nothing is there yet of: {', '.join(lacking)}." if lacking else ""
    return dataclasses.replace(bench, subject=subject, lacking=f"Units of the run are missing.{said}"), found


def _readable(experiment: str, rows):
    """Of the latent attack the rows whose prompt's clean answer is there, which each is compared with."""
    if experiment != "latent" or rows.empty:
        return rows
    asked = rows.loc[rows["exp"] == "clean-harmful", "prompt"]
    rows = rows[(rows["exp"] != "lvs") | rows["prompt"].isin(asked)].reset_index(drop=True)
    # Clean answers alone have none of the columns that name a cell.
    return rows.reindex(columns=list(dict.fromkeys([*rows.columns, "budget", "attack"])))
