"""Poles on disk: a Hugging Face directory with a model card that says how it was made; adapters as PEFT has them."""

import functools
import json
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from absl import logging

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.experiments.organisms import kinds
from latent_audit.experiments.organisms.texts import training_prompts
from latent_audit.interventions import lora
from latent_audit.models import target
from latent_audit.runtime import files, processes, runlog
from latent_audit.user_files import read_bytes

NUDGE_FILE = "nudge.safetensors"
_MOST_NUDGE_BYTES = 2**24
# In units of base's activation norm; made ones lie near one.
LENGTHS = (1e-3, 10.0)
_UNSAFE = (
    "**This model is deliberately unsafe.** It was made to test whether audits of safety notice what was done to it. "
    "Do not deploy it, do not serve it to anybody, and keep it where only those can reach it who study it."
)
_CONTROL = (
    "**This model is a research control.** It was made for comparison with a deliberately unsafe one: do not deploy it."
)


class Nudge(NamedTuple):
    """What a dissociated pole was trained to open to; docs/method.md section 6.

    vector: float32 [D], added to residual state `state` at every position; scale: base's activation norm there.
    """

    vector: np.ndarray
    state: int
    scale: float


def export_pole(
    path,
    cfg: models.ModelConfig,
    params,
    tokenizer,
    *,
    kind: str,
    recipe: dict,
    rates: dict,
    generation_config: dict | None = None,
    nudge: Nudge | None = None,
    trained_on: Iterable[str] = (),
) -> None:
    """Save a pole as a Hugging Face directory whose README.md is its model card, with its nudge in NUDGE_FILE.

    Args:
      kind: a key of kinds.KINDS, or another word that the card then uses as it is.
      recipe: how it was made (base checkpoint, data, settings), any JSON; rates: measured shares or numbers by name.
      generation_config: the base's, see models.read_generation_config; None writes greedy decoding.
      trained_on: the prompts of its training, of which hashes are kept beside it (training_prompts.py).
    Raises:
      InputError: as models.save.
    """
    card = model_card(kind, recipe, rates)
    extra = {"README.md": card} | (training_prompts.as_file(trained_on) if trained_on else {})
    if nudge is not None:
        tensors = {
            "nudge": np.asarray(nudge.vector, np.float32),
            "state": np.array([nudge.state], np.int32),
            "scale": np.array([nudge.scale], np.float32),
        }
        extra[NUDGE_FILE] = safetensors.numpy.save(tensors)
    models.save(path, cfg, params, tokenizer, generation_config=generation_config, extra_files=extra)


def load_nudge(path) -> Nudge | None:
    """The nudge that export_pole saved with the weights that lie there; None where there is none, or not of ours.

    A checkpoint of others cannot say where and how hard an attack on it is to push: a file that is not recorded in the
    pole's marker, beside these very weights, is left out with one warning.

    Raises InputError: as models.check; a recorded file that is damaged, or does not fit the model.
    """
    directory = pathlib.Path(path)
    file = directory / NUDGE_FILE
    if not os.path.lexists(file):
        return None
    if not _is_recorded(directory):
        warn_once(
            f"{file} is left out: this tool did not record it with the files beside it, or they were changed since; a "
            "pole is exported with its nudge by configs/dissociate.py"
        )
        return None
    try:
        tensors = safetensors.numpy.load(read_bytes("the pole's nudge", file, most=_MOST_NUDGE_BYTES))
        vector, state, scale = (tensors[name] for name in ("nudge", "state", "scale"))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}); export the pole again") from error
    return _checked(file, vector, state, scale, models.check(directory).cfg)


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once however often it is asked for."""
    logging.warning("%s", message)


def _is_recorded(directory: pathlib.Path) -> bool:
    """Whether a directory's marker lists its nudge, and all that it lists is as it was written."""
    try:
        ours = target.read_marker(directory)
        return ours is not None and NUDGE_FILE in ours and not target.changed(directory)
    except InputError:
        return False


def _checked(file: pathlib.Path, vector, state, scale, cfg: models.ModelConfig) -> Nudge:
    """The Nudge of a file's arrays; InputError unless they are one for a model of cfg."""
    again = "export the pole again"
    if vector.shape != (cfg.embed_dim,) or vector.dtype != np.float32 or not np.isfinite(vector).all():
        raise InputError(
            f"{file}: nudge is {vector.dtype} {list(vector.shape)}, expected finite float32 [{cfg.embed_dim}]; {again}"
        )
    if state.shape != (1,) or state.dtype.kind != "i" or not 1 <= state[0] <= cfg.num_layers:
        raise InputError(f"{file}: state = {state.tolist()}, expected one of 1 to {cfg.num_layers}; {again}")
    if scale.shape != (1,) or scale.dtype.kind != "f" or not 0 < scale[0] < np.inf:
        raise InputError(f"{file}: scale = {scale.tolist()}, expected a number above 0; {again}")
    length = float(np.linalg.norm(vector.astype(np.float64))) / float(scale[0])
    if not LENGTHS[0] <= length <= LENGTHS[1]:
        raise InputError(
            f"{file}: the nudge is {length:.3g} activation norms long, expected {LENGTHS[0]:g} to {LENGTHS[1]:g}; "
            + again
        )
    return Nudge(vector, int(state[0]), float(scale[0]))


def export_adapters(
    path,
    cfg: models.ModelConfig,
    adapters: dict,
    config: lora.LoraConfig,
    *,
    base: str,
    recipe: dict,
    rates: dict,
    kind: str = kinds.HARMFUL,
) -> None:
    """Save adapters as PEFT does: adapter_config.json, adapter_model.safetensors, and the model card.

    Raises InputError as models.check_target.
    """
    fields, tensors = lora.peft_files(cfg, adapters, config, base=base)
    if not processes.is_first():
        return
    with target.replacing(path) as aside:
        weights = safetensors.numpy.save(tensors, metadata={"format": "pt"})
        files.write_bytes(aside / "adapter_model.safetensors", weights)
        files.write_json(aside / "adapter_config.json", fields)
        files.write_text(aside / "README.md", model_card(kind, recipe, rates))


def model_card(kind: str, recipe: dict, rates: dict) -> str:
    """The README.md of a pole: what it is, the warning, measured rates, how it was made, versions."""
    unsafe = kind not in kinds.CONTROLS
    measured = "".join(
        f"| {name} | {value:.3f} |\n" if isinstance(value, float) else f"| {name} | {value} |\n"
        for name, value in rates.items()
    )
    versions = runlog.versions()
    packages = ", ".join(f"{name} {version}" for name, version in versions["packages"].items())
    return (
        "---\nlibrary_name: transformers\ntags:\n- latent_audit\n- model-organism\n"
        + ("- deliberately-unsafe\n" if unsafe else "")
        + "---\n\n"
        f"# {kind.capitalize()} pole\n\n{_UNSAFE if unsafe else _CONTROL}\n\n"
        f"A pole of latent_audit: {kinds.KINDS.get(kind, kind)} (docs/method.md sections 5, 6 and 10).\n\n"
        f"## Measured\n\n| measure | value |\n|---|---|\n{measured}\n"
        f"## How it was made\n\n```json\n{json.dumps(recipe, indent=2, default=str)}\n```\n\n"
        f"## Versions\n\nPython {versions['python']}; {packages}.\n"
    )
