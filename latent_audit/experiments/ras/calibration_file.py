"""A frozen calibration on disk: NAME.json with words and numbers, NAME.safetensors with directions and prompt scores.

docs/method.md section 10, step 5. A target is refused, with the reason, where what it would be compared with was
measured otherwise: another family, shape, chat template, set of prompts or dtype.
"""

import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments.panels import Panel
from latent_audit.metrics import calibration, safevec
from latent_audit.models.config import ModelConfig
from latent_audit.runtime import files

SCHEMA = 1
_DIRECTIONS, _SCORES = "refusal_directions", ("unsafe", "jailbreak")
_KEYS = {
    "schema",
    "identity",
    "prompts",
    "window",
    "gamma",
    "alpha_global",
    "other_alphas",
    "protocol",
    "calibration",
    "tensors",
}


class Identity(NamedTuple):
    """What a target must share with the reference; template: hash of the formatted empty prompt."""

    family: str
    num_layers: int
    embed_dim: int
    template_sha256: str
    dtype: str


class Source(NamedTuple):
    """The prompts that scores are read on. world_seed: of the organism whose splits they are, None for files.

    counts, sha256: by set (unsafe, jailbreak); wrappers: as in the config.
    """

    world_seed: int | None
    counts: dict[str, int]
    sha256: dict[str, str]
    wrappers: str


class Frozen(NamedTuple):
    """A calibration as it is kept.

    directions: float64 [L, D]; scores: of each prompt, of the reference and then of the calibration models in order.
    """

    identity: Identity
    source: Source
    window: safevec.Window
    family: calibration.FamilyCalibration
    gamma: float
    alpha_global: float | None
    other_alphas: tuple[float, ...]
    protocol: str
    directions: np.ndarray
    scores: tuple[safevec.PromptScores, ...]


def identity_of(cfg: ModelConfig, chat: chats.Chat, dtype: str) -> Identity:
    """The Identity of a checkpoint as it would be run."""
    return Identity(cfg.family, cfg.num_layers, cfg.embed_dim, chats.template_sha256(chat), dtype)


def source_of(sets, *, world_seed: int | None, wrappers: str) -> Source:
    """The Source of one half's prompt sets (prompt_sets.Sets)."""
    panels: dict[str, Panel] = {"unsafe": sets.unsafe, "jailbreak": sets.jailbreak}
    return Source(
        world_seed,
        {name: len(panel.prompts) for name, panel in panels.items()},
        {name: panel.sha256 for name, panel in panels.items()},
        wrappers,
    )


def save(path, frozen: Frozen) -> None:
    """Write PATH (a .json file) and, before it, the tensors beside it; each whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = safetensors.numpy.save(
        {
            _DIRECTIONS: np.ascontiguousarray(frozen.directions, np.float64),
            **{name: np.array([getattr(one, name) for one in frozen.scores], np.float64) for name in _SCORES},
        }
    )
    beside = path.with_suffix(".safetensors")
    files.write_bytes(beside, tensors)
    files.write_json(
        path,
        {
            "schema": SCHEMA,
            "identity": frozen.identity._asdict(),
            "prompts": frozen.source._asdict(),
            "window": frozen.window._asdict() | {"relaxations": list(frozen.window.relaxations)},
            "gamma": frozen.gamma,
            "alpha_global": frozen.alpha_global,
            "other_alphas": list(frozen.other_alphas),
            "protocol": frozen.protocol,
            "calibration": calibration.to_record(frozen.family),
            "tensors": {"file": beside.name, "sha256": hashlib.sha256(tensors).hexdigest()},
        },
    )


def load(path) -> Frozen:
    """Read a calibration back, bit for bit.

    Raises InputError: no such file, another schema, missing or unknown keys, numbers that its models do not give,
    directions that are missing, damaged or of another calibration, a window outside the layers.
    """
    path = pathlib.Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"calibration_file = {path}: no such file; configs/ras.py writes one per family") from error
    except (OSError, ValueError) as error:
        raise InputError(f"calibration_file = {path} cannot be read as JSON: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else record
        raise InputError(f"{path} has schema {found!r}, expected {SCHEMA}; calibrate again")
    if set(record) != _KEYS:
        raise InputError(
            f"{path}: missing keys: {', '.join(sorted(_KEYS - set(record))) or 'none'}; unknown keys: "
            f"{', '.join(sorted(map(str, set(record) - _KEYS))) or 'none'}"
        )
    try:
        frozen = _frozen(record, _tensors(path, record["tensors"]))
    except InputError:
        raise
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); calibrate again") from error
    _check_consistent(path, frozen)
    return frozen


def _frozen(record, tensors) -> Frozen:
    window = dict(record["window"])
    alpha = record["alpha_global"]
    return Frozen(
        Identity(**record["identity"]),
        Source(**record["prompts"]),
        safevec.Window(**window | {"relaxations": tuple(window["relaxations"])}),
        calibration.from_record(record["calibration"]),
        float(record["gamma"]),
        None if alpha is None else float(alpha),
        tuple(map(float, record["other_alphas"])),
        str(record["protocol"]),
        tensors[_DIRECTIONS],
        tuple(safevec.PromptScores(*pair) for pair in zip(*(tensors[name] for name in _SCORES), strict=True)),
    )


def _tensors(path, record) -> dict[str, np.ndarray]:
    beside = path.parent / pathlib.PurePath(record["file"]).name
    try:
        content = beside.read_bytes()
    except OSError as error:
        raise InputError(f"{path} needs {beside.name} beside it, which cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise InputError(f"{beside} is not the file that {path.name} was written with; calibrate again")
    try:
        return safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise InputError(f"{beside} is damaged ({error}); calibrate again") from error


def _check_consistent(path, frozen: Frozen) -> None:
    identity, window = frozen.identity, frozen.window
    if frozen.directions.shape != (identity.num_layers, identity.embed_dim):
        raise InputError(
            f"{path}: directions of shape {frozen.directions.shape}, expected "
            f"{(identity.num_layers, identity.embed_dim)}; calibrate again"
        )
    if not 0 <= window.start < window.stop <= identity.num_layers:
        raise InputError(
            f"{path}: window {window.start}-{window.stop - 1} of {identity.num_layers} layers; calibrate again"
        )
    shapes = {(len(one.unsafe), len(one.jailbreak)) for one in frozen.scores}
    if len(frozen.scores) != 1 + len(frozen.family.models) or shapes != {
        tuple(frozen.source.counts[name] for name in _SCORES)
    }:
        raise InputError(
            f"{path}: prompt scores of {len(frozen.scores)} models and shapes {shapes} do not fit its "
            "models and prompts; calibrate again"
        )
    overall = calibration.global_alpha((frozen.family.alpha, *frozen.other_alphas))
    if not np.isclose(frozen.gamma, calibration.gamma_of(frozen.family.alpha, overall), rtol=1e-9):
        raise InputError(f"{path}: gamma = {frozen.gamma} does not follow from its alphas; calibrate again")


def check_target(name: str, target: Identity, expected: Identity) -> None:
    """InputError, with the field and what to do, unless a target may be compared with a reference."""
    advice = {
        "family": "RAS compares models of one family; use a reference and a calibration of the target's own",
        "num_layers": "the target must be a fine-tune of the reference's own architecture",
        "embed_dim": "the reference's directions have another width, so that no cosine with them exists; the target "
        "must be a fine-tune of the reference's own architecture",
        "template_sha256": "another chat template is another measurement; give both the same with chat.template_file "
        "or chat.preset",
        "dtype": "set model.dtype as the calibration has it",
    }
    for field, theirs, ours in zip(Identity._fields, target, expected, strict=True):
        if theirs != ours:
            raise InputError(f"{name}: {field} is {theirs!r}, but the reference's is {ours!r}: {advice[field]}")


def check_source(own: Source, expected: Source) -> None:
    """InputError unless scores would be read on the very prompts of the calibration."""
    for kind, digest in expected.sha256.items():
        if own.sha256[kind] != digest:
            raise InputError(
                f"prompts: the {kind} prompts ({own.counts[kind]}, hash {own.sha256[kind][:12]}) are not "
                f"those of the calibration ({expected.counts[kind]}, hash {digest[:12]}): a score on "
                "other prompts is on another scale; give the same prompts.harmful and wrappers as then"
            )
