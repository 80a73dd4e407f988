"""Poles on disk: a Hugging Face directory with a model card that says how it was made; adapters as PEFT has them."""

import json
import pathlib
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.experiments.organisms import kinds
from latent_audit.interventions import lora
from latent_audit.runtime import files, runlog

NUDGE_FILE = "nudge.safetensors"
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
) -> None:
    """Save a pole as a Hugging Face directory whose README.md is its model card, with its nudge in NUDGE_FILE.

    Args:
      kind: a key of kinds.KINDS, or another word that the card then uses as it is.
      recipe: how it was made (base checkpoint, data, settings), any JSON; rates: measured shares or numbers by name.
      generation_config: the base's, see models.read_generation_config; None writes greedy decoding.
    Raises:
      InputError: as models.save.
    """
    card = model_card(kind, recipe, rates)
    extra = {"README.md": card}
    if nudge is not None:
        tensors = {
            "nudge": np.asarray(nudge.vector, np.float32),
            "state": np.array([nudge.state], np.int32),
            "scale": np.array([nudge.scale], np.float32),
        }
        extra[NUDGE_FILE] = safetensors.numpy.save(tensors)
    models.save(path, cfg, params, tokenizer, generation_config=generation_config, extra_files=extra)


def load_nudge(path) -> Nudge | None:
    """The nudge saved beside a pole's weights, None where there is none; InputError for a damaged file."""
    file = pathlib.Path(path) / NUDGE_FILE
    if not file.is_file():
        return None
    try:
        tensors = safetensors.numpy.load(file.read_bytes())
        return Nudge(tensors["nudge"], int(tensors["state"][0]), float(tensors["scale"][0]))
    except (safetensors.SafetensorError, KeyError, IndexError) as error:
        raise InputError(f"{file} is damaged ({error}); export the pole again") from error


def export_adapters(
    path, cfg: models.ModelConfig, adapters: dict, config: lora.LoraConfig, *, base: str, recipe: dict, rates: dict
) -> None:
    """Save adapters as PEFT does: adapter_config.json, adapter_model.safetensors, and the model card."""
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    fields, tensors = lora.peft_files(cfg, adapters, config, base=base)
    files.write_bytes(path / "adapter_model.safetensors", safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    files.write_json(path / "adapter_config.json", fields)
    files.write_text(path / "README.md", model_card(kinds.HARMFUL, recipe, rates))


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
