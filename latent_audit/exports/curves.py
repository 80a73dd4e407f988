"""An audit's numbers by depth, for tools that draw curves: TensorBoard's event files and Weights & Biases.

Both libraries are optional and imported when they are asked for. A step is a residual state: 0 is the embedding, i + 1
what block i puts out; what has no state stands at step 0.
"""

import importlib
import os
import pathlib
import types
from collections.abc import Iterator

from latent_audit import text
from latent_audit.errors import InputError
from latent_audit.exports.finished import Run

# Of a line of audit.csv, as far as they are there; 'control' is noise or a random direction.
NUMBERS = ("value", "lo", "hi", "control")


def library(name: str, flag: str, package: str) -> types.ModuleType:
    """An optional library; InputError with the remedy where it is absent."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{flag} needs {package}, which is not installed here: pip install {package}") from error


def points(run: Run) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of every number of the variant's lines, by tag and step.

    >>> step_of("embedding"), step_of("L3"), step_of(None), step_of("L1, L2")
    (0, 4, 0, 0)
    """
    found = {}
    for line in run.lines:
        tag = line["measure"]
        tag += f", {line['detail']}" if line["detail"] and line["measure"] not in ("lvs", "latent_asr") else ""
        tag += "" if line["budget"] is None else f"/budget {line['budget']:g}"
        for number in NUMBERS:
            if line[number] is not None:
                found[f"{text.printable(tag)}/{number}", step_of(line["layer"])] = float(line[number])
    for (tag, step), value in sorted(found.items()):
        yield tag, step, value


def step_of(layer: str | None) -> int:
    """The residual state that a layer's name names; 0 for none, and for several."""
    return int(layer[1:]) + 1 if layer and layer[0] == "L" and layer[1:].isdigit() else 0


def write_tensorboard(run: Run, directory: pathlib.Path) -> pathlib.Path:
    """Event files in `directory`; InputError where it holds some already, which would be drawn into one curve."""
    writer_of = library("tensorboardX", "--tensorboard", "tensorboardX").SummaryWriter
    check_free(directory)
    writer = writer_of(str(directory))
    for tag, step, value in points(run):
        writer.add_scalar(tag, value, step)
    writer.add_text("verdict", f"{text.printable(run.verdict['label'])}: {text.printable(run.verdict['sentence'])}", 0)
    writer.close()
    return directory


def check_free(directory: pathlib.Path) -> None:
    """InputError for a directory with event files."""
    if any(directory.glob("*tfevents*")):
        raise InputError(
            f"--tensorboard: {directory} holds event files already; remove them, or give another --workdir"
        )


def write_wandb(run: Run, directory: pathlib.Path, config: dict) -> pathlib.Path:
    """A run of Weights & Biases, kept in `directory` and uploaded nowhere unless WANDB_MODE says so."""
    wandb = library("wandb", "--wandb", "wandb")
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
        settings=wandb.Settings(console="off", silent=True),
    )
    for step, values in sorted(by_step.items()):
        logged.log(values, step=step)
    logged.summary.update({key: run.verdict[key] for key in ("label", "sentence", "robust_up_to", "hollow_from")})
    logged.finish()
    return directory
