"""An audit's numbers by depth, for tools that draw curves: TensorBoard's event files and Weights & Biases.

W&B's library is optional and imported when it is asked for. A step is a residual state: 0 is the embedding, i + 1 what
block i puts out; what has no state stands at step 0.
"""

import datetime
import importlib
import os
import pathlib
import types
from collections.abc import Iterator

from latent_audit import text
from latent_audit.errors import InputError
from latent_audit.exports import event_file
from latent_audit.exports.audited import Run
from latent_audit.runtime import files

# Of a line of audit.csv, as far as they are there; 'control' is noise or a random direction.
NUMBERS = ("value", "lo", "hi", "control")
# Of these the detail says something of one cell, of all others which number it is.
CELLS = ("lvs", "latent_asr", "suite_asr")


def points(run: Run) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of every number of the variant's lines, by tag and step."""
    found = {}
    for line in run.lines:
        tag = line["measure"]
        tag += f", {line['detail']}" if line["detail"] and tag not in CELLS else ""
        tag += "" if line["budget"] is None else f"/budget {line['budget']:g}"
        for number in NUMBERS:
            if line[number] is not None:
                found[f"{text.printable(tag)}/{number}", step_of(line["layer"])] = float(line[number])
    for (tag, step), value in sorted(found.items()):
        yield tag, step, value


def step_of(layer: str | None) -> int:
    """The residual state that a layer's name names; 0 for none, and for several.

    >>> step_of("embedding"), step_of("L3"), step_of(None), step_of("L1, L2")
    (0, 4, 0, 0)
    """
    return int(layer[1:]) + 1 if layer and layer[0] == "L" and layer[1:].isdigit() else 0


def write_tensorboard(run: Run, directory: pathlib.Path) -> None:
    """The event file of the run in `directory`, in place of an earlier one of the same run and variant."""
    when = datetime.datetime.fromisoformat(run.when).timestamp()
    verdict = f"{text.printable(run.verdict['label'])}: {text.printable(run.verdict['sentence'])}"
    data = event_file.file_of(points(run), [("verdict", verdict)], when=when)
    # TensorBoard draws all files of a folder as one run: a folder for each variant, and one name for a run's file.
    directory.mkdir(parents=True, exist_ok=True)
    files.write_bytes(directory / f"events.out.tfevents.{int(when)}.latent_audit", data)


def wandb_library() -> types.ModuleType:
    """The library of Weights & Biases; InputError with the remedy where it is absent."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise InputError("--wandb needs wandb, which is not installed here: pip install wandb") from error


def write_wandb(run: Run, directory: pathlib.Path, config: dict) -> None:
    """A run of Weights & Biases, kept in `directory` and uploaded nowhere unless WANDB_MODE says so."""
    wandb = wandb_library()
    directory.mkdir(parents=True, exist_ok=True)
    by_step: dict[int, dict[str, float]] = {}
    for tag, step, value in points(run):
        by_step.setdefault(step, {})[tag] = value
    logged = wandb.init(
        project="latent-audit",
        name=f"{run.record['task']} {run.model}",
        dir=str(directory),
        config=config,
        mode=os.environ.get("WANDB_MODE", "offline"),
        # Of this process and its directory nothing is taken along.
        settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
    )
    for step, values in sorted(by_step.items()):
        logged.log(values, step=step)
    told = ("label", "sentence", "robust_up_to", "hollow_from")
    logged.summary.update({key: run.verdict.get(key) for key in told})
    logged.finish()
