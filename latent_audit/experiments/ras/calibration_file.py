"""A frozen calibration on disk: NAME.json with words and numbers, NAME.safetensors with directions and prompt scores.

docs/method.md section 10, step 5. A target is refused, with the reason, where what it would be compared with was
measured otherwise: another family, shape, chat template, set of prompts or dtype.
"""

import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments.panels import Panel
from latent_audit.experiments.ras.prompt_sets import PROTOCOLS
from latent_audit.metrics import calibration, safevec
from latent_audit.models.config import ModelConfig
from latent_audit.models.families import FAMILIES
from latent_audit.models.fields import shown
from latent_audit.models.headers import listed
from latent_audit.models.weights import DTYPES
from latent_audit.runtime import files
from latent_audit.text import printable
from latent_audit.user_files import path_of, read_bytes, read_json

SCHEMA = 3
_DIRECTIONS, _SCORES = "refusal_directions", ("unsafe", "jailbreak")
_AGAIN = "calibrate again with configs/ras.py"
_MOST_RECORD_BYTES, _MOST_TENSOR_BYTES = 2**24, 2**28
# How far a direction's length may lie from 1, a cosine beyond it, and a mean from what its scores give: means over the
# window and over prompts are taken in another order here.
_UNIT, _BEYOND, _ROUNDING = 1e-3, 1e-6, 1e-9


class Rule(NamedTuple):
    """What a value of the record must be, and that in words."""

    holds: Callable[[Any], bool]
    words: str


def _whole(least: int, most: int) -> Rule:
    return Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
        f"a whole number from {least} to {most}",
    )


def _choice(known: Iterable[str]) -> Rule:
    words = tuple(known)
    return Rule(lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_NUMBER


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_LETTERS and value == printable(value)


# Far beyond any slope, so that no sum of them overflows; names and reasons are a line.
_MOST_NUMBER, _MOST_LETTERS = 1e300, 2000
_LINE = Rule(_is_line, f"a line of printable text of at most {_MOST_LETTERS} characters")
_SHA = Rule(lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)), "64 hex digits")
_PLAIN = Rule(_is_number, "a finite number")
_MODEL = {
    "name": _LINE,
    "unsafe": _PLAIN,
    "jailbreak": Rule(_is_number, "a number: both sets of prompts are scored"),
    "asr": Rule(lambda value: _is_number(value) and 0 <= value <= 1, "a share from 0 to 1"),
}
_MAYBE = Rule(lambda value: value is None or _is_number(value), "a finite number, or null for none")
_COUNT, _LAYER = _whole(1, 10**7), _whole(0, 1000)
# The whole of the record: every key with the rule of its value, [rule] for a list of such.
_RECORD = {
    "schema": _whole(SCHEMA, SCHEMA),
    "identity": {
        "family": _choice(FAMILIES),
        "num_layers": _whole(1, 1000),
        "embed_dim": _whole(1, 2**20),
        "template_sha256": _SHA,
        "dtype": _choice(DTYPES),
    },
    "prompts": {
        "world_seed": Rule(lambda v: v is None or _whole(0, 2**32 - 1).holds(v), "null, or a whole number of 32 bits"),
        "counts": dict.fromkeys(_SCORES, _COUNT),
        "sha256": dict.fromkeys(_SCORES, _SHA),
        "ids_sha256": dict.fromkeys(_SCORES, _SHA),
        "wrappers": _LINE,
    },
    "window": {"start": _LAYER, "stop": _LAYER, "relaxations": [_LINE], "reason": _LINE},
    "gamma": Rule(lambda value: _is_number(value) and value > 0, "a number above 0"),
    "alpha_global": _MAYBE,
    "other_alphas": [_PLAIN],
    "protocol": _choice(PROTOCOLS),
    "calibration": {
        "schema": _whole(calibration.SCHEMA, calibration.SCHEMA),
        "reference": _MODEL,
        "models": [_MODEL],
        "b": _PLAIN,
        "alpha": _MAYBE,
        "high_asr": [_LINE],
        "slope_models": [_LINE],
        "notes": [_LINE],
    },
    "tensors": {"file": _LINE, "sha256": _SHA},
    "sha256": _SHA,
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

    counts, sha256: by set (unsafe, jailbreak); ids_sha256: of the same prompts as the reference reads them, see
    ids_of; wrappers: as in the config.
    """

    world_seed: int | None
    counts: dict[str, int]
    sha256: dict[str, str]
    ids_sha256: dict[str, str]
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


def source_of(sets, ids_sha256: dict[str, str], *, world_seed: int | None, wrappers: str) -> Source:
    """The Source of one half's prompt sets (prompt_sets.Sets)."""
    panels: dict[str, Panel] = {"unsafe": sets.unsafe, "jailbreak": sets.jailbreak}
    return Source(
        world_seed,
        {name: len(panel.prompts) for name, panel in panels.items()},
        {name: panel.sha256 for name, panel in panels.items()},
        ids_sha256,
        wrappers,
    )


def ids_of(encoded: Iterable[chats.Tokens]) -> dict[str, str]:
    """By set, the SHA-256 of the ids that a model reads of its prompts, padding left out.

    encoded: of the unsafe and of the jailbreak prompts. Two readings of one tokenizer write the same text, and the same
    template, in other ids.
    """
    found = {}
    for name, (tokens, mask) in zip(_SCORES, encoded, strict=True):
        rows = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
        found[name] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return found


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
    record = {
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
    }
    files.write_json(path, record | {"sha256": digest(record)})


def digest(record: dict) -> str:
    """SHA-256 of a record without its own: window and names follow from nothing else in it."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def load(path) -> Frozen:
    """Read a calibration back, bit for bit.

    Raises InputError: no such file, another schema, missing or unknown keys, a value of another type or outside its
    bounds; directions or scores that are missing, damaged, of another calibration or not finite; and whatever does not
    follow from the rest: b, alpha and gamma from the models, the models' means from the prompts' scores, directions of
    unit length, the window within the layers; and, last, a record that is not the one whose sha256 it holds.
    """
    path = path_of("calibration_file", path)
    if not os.path.lexists(path):
        raise InputError(f"calibration_file = {path}: no such file; configs/ras.py writes one per family")
    record = read_json("calibration_file", path, kind=dict, most=_MOST_RECORD_BYTES)
    if record.get("schema") != SCHEMA or isinstance(record["schema"], bool):
        raise InputError(f"{path} has schema {shown(record.get('schema'))}, expected {SCHEMA}; {_AGAIN}")
    _check_schema(path, "", record, _RECORD)
    try:
        family = calibration.from_record(record["calibration"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); {_AGAIN}") from error
    frozen = _frozen(record, family, _tensors(path, record["tensors"], record["identity"], record["prompts"], family))
    _check_consistent(path, frozen)
    if record["sha256"] != digest(record):
        raise InputError(f"{path} was changed since it was written: its sha256 is that of another record; {_AGAIN}")
    return frozen


def _check_schema(path, where: str, record, expected) -> None:
    """InputError unless a value is what `expected` says: an object's fields, a list's kind of item, or a rule."""
    if isinstance(expected, dict):
        keys = set(record) if isinstance(record, dict) else set()
        if keys != set(expected):
            at = f"{path}: {where or 'the file'}"
            raise InputError(
                f"{at}: missing keys: {listed(sorted(set(expected) - keys)) or 'none'}; unknown keys: "
                f"{listed(sorted(keys - set(expected))) or 'none'}; {_AGAIN}"
            )
        for key, inner in expected.items():
            _check_schema(path, f"{where}.{key}" if where else key, record[key], inner)
    elif isinstance(expected, list):
        if not isinstance(record, list):
            raise InputError(f"{path}: {where} = {shown(record)}, expected a list; {_AGAIN}")
        for item in record:
            _check_schema(path, where, item, expected[0])
    elif not expected.holds(record):
        raise InputError(f"{path}: {where} = {shown(record)}, expected {expected.words}; {_AGAIN}")


def _frozen(record, family: calibration.FamilyCalibration, tensors) -> Frozen:
    window = record["window"]
    alpha = record["alpha_global"]
    return Frozen(
        Identity(**record["identity"]),
        Source(**record["prompts"]),
        safevec.Window(**window | {"relaxations": tuple(window["relaxations"])}),
        family,
        float(record["gamma"]),
        None if alpha is None else float(alpha),
        tuple(map(float, record["other_alphas"])),
        record["protocol"],
        tensors[_DIRECTIONS],
        tuple(safevec.PromptScores(*pair) for pair in zip(*(tensors[name] for name in _SCORES), strict=True)),
    )


def _tensors(path, record, identity, prompts, family: calibration.FamilyCalibration) -> dict[str, np.ndarray]:
    """The arrays beside a record, of the file it names and of the shapes that it says."""
    if record["file"] != path.with_suffix(".safetensors").name:
        raise InputError(
            f"{path} needs {shown(record['file'])} beside it, expected {path.with_suffix('.safetensors').name}; keep "
            "the two files under one name"
        )
    beside = path.with_suffix(".safetensors")
    try:
        content = read_bytes("tensors", beside, most=_MOST_TENSOR_BYTES)
    except InputError as error:
        raise InputError(f"{path} needs {beside.name} beside it: {error}") from error
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise InputError(f"{beside} is not the file that {path.name} was written with; {_AGAIN}")
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{beside} is damaged ({error}); {_AGAIN}") from error
    wanted = {_DIRECTIONS: (identity["num_layers"], identity["embed_dim"])}
    wanted |= {name: (1 + len(family.models), prompts["counts"][name]) for name in _SCORES}
    if set(tensors) != set(wanted):
        raise InputError(
            f"{beside} holds {listed(sorted(tensors)) or 'nothing'}, expected {', '.join(wanted)}; {_AGAIN}"
        )
    for name, shape in wanted.items():
        if tensors[name].shape != shape or tensors[name].dtype != np.float64 or not np.isfinite(tensors[name]).all():
            raise InputError(
                f"{beside}: {name} is {tensors[name].dtype} {list(tensors[name].shape)}, expected finite float64 "
                f"{list(shape)}, as identity, prompts and calibration say; {_AGAIN}"
            )
    return tensors


def _check_consistent(path, frozen: Frozen) -> None:
    identity, window = frozen.identity, frozen.window
    if not window.start < window.stop <= identity.num_layers:
        raise InputError(f"{path}: window {window.start}-{window.stop - 1} of {identity.num_layers} layers; {_AGAIN}")
    lengths = np.linalg.norm(frozen.directions, axis=1)
    inside = np.arange(identity.num_layers)
    # Outside the window a layer may have no direction at all, which is a row of zeros.
    needed = ((inside >= window.start) & (inside < window.stop)) | (lengths > 0)
    if not (np.abs(lengths[needed] - 1) <= _UNIT).all():
        worst = int(np.argmax(np.where(needed, np.abs(lengths - 1), -1)))
        raise InputError(
            f"{path}: the direction of layer {worst} has length {lengths[worst]:.6g}, expected unit vectors; {_AGAIN}"
        )
    for model, scores in zip((frozen.family.reference, *frozen.family.models), frozen.scores, strict=True):
        for name in _SCORES:
            values, stored = getattr(scores, name), getattr(model, name)
            if np.abs(values).max() > 1 + _BEYOND:
                raise InputError(f"{path}: {model.name}: {name} scores beyond -1 to 1 are no cosines; {_AGAIN}")
            if stored is None or abs(float(values.mean()) - stored) > _ROUNDING:
                raise InputError(
                    f"{path}: {model.name}: {name} = {stored}, but its prompts' scores have the mean "
                    f"{float(values.mean()):.9g}; {_AGAIN}"
                )
    overall = calibration.global_alpha((frozen.family.alpha, *frozen.other_alphas))
    if not _agree(frozen.alpha_global, overall):
        raise InputError(f"{path}: alpha_global = {frozen.alpha_global}, but its alphas give {overall}; {_AGAIN}")
    gamma = calibration.gamma_of(frozen.family.alpha, overall)
    if not _agree(frozen.gamma, gamma):
        raise InputError(
            f"{path}: gamma = {frozen.gamma} does not follow from its alphas, which give {gamma}; {_AGAIN}"
        )


def _agree(stored: float | None, expected: float | None) -> bool:
    if stored is None or expected is None:
        return stored is expected
    return math.isclose(stored, expected, rel_tol=1e-9)


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


def check_ids(name: str, own: dict[str, str], expected: Source) -> None:
    """InputError unless a target reads the calibration's prompts as the reference did; own: ids_of its tokens."""
    for kind, digest in expected.ids_sha256.items():
        if own[kind] != digest:
            raise InputError(
                f"{name} writes the {kind} prompts in other tokens than the reference did (hash of their ids "
                f"{own[kind][:12]}, of the reference's {digest[:12]}): a score on other tokens is on another scale; "
                "give it the tokenizer files and the chat template of the reference"
            )
