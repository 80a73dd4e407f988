"""Which models a RAS run is about: the zoo's members, or the checkpoints a config names. docs/method.md section 10."""

import pathlib
import re
import threading
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import fields
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Work
from latent_audit.experiments.organisms import construct, kinds, poles, train, zoo
from latent_audit.experiments.ras import calibration_file
from latent_audit.experiments.setup import outlooks, subjects
from latent_audit.models.files.dtypes import AUTO
from latent_audit.runtime import side_by_side
from latent_audit.runtime.telling import progress

# What the config calls a checkpoint; members of a zoo are of the kinds of organisms/zoo.py, how they were made.
REFERENCE, CALIBRATION, TARGET = "reference", "calibration", "target"


class Model(NamedTuple):
    """A model to score. calibrates: its ASR sets the scale; asr: given by the user, a share, or None; measured: whether
    its ASR is to be measured here."""

    name: str
    kind: str
    path: pathlib.Path
    calibrates: bool
    asr: float | None = None
    measured: bool = True


class Group(NamedTuple):
    """One family: its models, the reference first; world: of an organism, None for checkpoints."""

    family: str
    models: tuple[Model, ...]
    world: world_rules.World | None

    @property
    def subject(self) -> subjects.Subject:
        """The same as what an audit takes."""
        return subjects.Subject(self.family, tuple(subjects.Variant(one.name, one.path) for one in self.models))


def parse_models(text: str, field: str) -> list[tuple[str, float | None]]:
    """ "DIR:0.93,owner/name" -> [("DIR", 0.93), ("owner/name", None)]; InputError for an ASR outside [0, 1]."""
    named = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        path, colon, share = part.rpartition(":")
        if not (colon and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?|nan|inf", share.strip(), re.IGNORECASE)):
            named.append((part, None))
            continue
        try:
            value = float(share)
        except ValueError as error:
            raise InputError(f"{field}: {part!r} is not of the form ID_OR_DIR:ASR") from error
        if not (path and 0 <= value <= 1):
            raise InputError(f"{field}: ASR = {share} of {path or 'nothing'!r}, expected a share between 0 and 1")
        named.append((path, value))
    return named


def name_models(config: ConfigDict) -> tuple[tuple[str, str, str, float | None], ...]:
    """(name, kind, path or id, ASR) of every checkpoint the config names, the reference first.

    Names are the last parts of the paths, numbered where they repeat. Raises InputError: no or several references, a
    model given twice, no targets, or without calibration_file fewer than two calibration models.
    """
    given = {
        kind: parse_models(config[field], field)
        for kind, field in ((REFERENCE, "reference"), (CALIBRATION, "calibration"), (TARGET, "targets"))
    }
    if config.calibration_file:
        if given[REFERENCE] or given[CALIBRATION]:
            raise InputError(
                "calibration_file holds reference and calibration already; leave these two "
                "empty, or leave calibration_file"
            )
        if not given[TARGET]:
            raise InputError("targets is empty, expected checkpoints to score, separated by commas")
    else:
        if len(given[REFERENCE]) != 1:
            raise InputError(
                f"reference = {config.reference!r} names {len(given[REFERENCE])} models, expected the one "
                "aligned model of the family"
            )
        if len(given[CALIBRATION]) < 2:
            raise InputError(
                f"calibration = {config.calibration!r} names {len(given[CALIBRATION])} models, expected "
                "at least 2 of the reference's family with different attack success, as ID_OR_DIR:ASR or, "
                "to have it measured, as ID_OR_DIR"
            )
    named = {}
    paths = [path for some in given.values() for path, _ in some]
    repeated = sorted({path for path in paths if paths.count(path) > 1})
    if repeated:
        raise InputError(f"named twice among reference, calibration and targets: {', '.join(repeated)}")
    for kind, some in given.items():
        for path, asr in some:
            name = subjects.numbered(path, named)
            named[name] = (name, kind, path, asr)
    return tuple(named.values())


def checkpoints(config: ConfigDict, expected: calibration_file.Identity | None = None) -> Group:
    """The group of the checkpoints that the config names, each one found and looked at, no weights read.

    expected: the identity of a frozen calibration's reference; None: the first named is the reference. Raises
    InputError as name_models, and where one is of another family, shape or template than the reference.
    """
    wanted = (REFERENCE, CALIBRATION, *((TARGET,) if config.measure_targets else ()))
    group = tuple(
        Model(name, kind, models.resolve(path), kind == CALIBRATION, asr, asr is None and kind in wanted)
        for name, kind, path, asr in name_models(config)
    )
    identities = [identity(model, config) for model in group]
    for model, of_model in zip(group, identities, strict=True):
        calibration_file.check_target(model.name, of_model, expected or identities[0])
    # One that load would refuse is told before the others are measured.
    for model in group:
        models.check_whole(model.path)
    return Group(identities[0].family, group, None)


def identity(model: Model, config: ConfigDict) -> calibration_file.Identity:
    """What of a model must agree with the reference's; InputError for a checkpoint that cannot be read."""
    return calibration_file.identity_of(
        models.check(model.path).cfg,
        subjects.load_chat(subjects.Variant(model.name, model.path), config),
        dtype_of(config),
    )


def dtype_of(config: ConfigDict) -> str:
    """model.dtype of a whole group, "float32" or "bfloat16".

    Where it says auto: as a frozen calibration was made, on whose scale scores are; else by what the reference's files
    hold (models.resolve_dtype), and float32 for the zoo. InputError for a calibration or reference that cannot be read.
    """
    if config.model.dtype == AUTO and config.calibration_file:
        return calibration_file.load(config.calibration_file).identity.dtype
    held, platform = None, jax.default_backend()
    reference = parse_models(config.get("reference", ""), "reference")
    if config.model.dtype == AUTO and reference and platform != "cpu":
        with fields.named("reference"):
            held = models.held_dtype(models.resolve(reference[0][0]))
    return models.resolve_dtype(config.model.dtype, platform, held)


def with_dtype(config: ConfigDict) -> ConfigDict:
    """The config with model.dtype as dtype_of has it, the same for every model of the group."""
    config = config.copy_and_resolve_references()
    config.model.dtype = dtype_of(config)
    return config


def parse_families(text: str) -> tuple[str, ...]:
    """ "llama,qwen3" -> its names; InputError for none or an unknown one."""
    return fields.names("families", text, train.FAMILIES)


def check_zoos(config: ConfigDict) -> None:
    """InputError for a zoo.directory in which the zoo can neither be made nor taken up."""
    directory = pathlib.Path(config.zoo.directory).expanduser()
    for family in parse_families(config.families):
        zoo.check_directory(directory / family, family=family, size=config.organism.size, seed=config.organism.seed)


def work(config: ConfigDict, cfg: models.ModelConfig, workdir: pathlib.Path) -> list[Work]:
    """What the making of the members that are not there computes."""
    directory = pathlib.Path(config.zoo.directory or workdir / "zoo").expanduser()
    recipe = train.make_recipe(size=config.organism.size, seed=config.organism.seed)
    found = []
    for family in parse_families(config.families):
        home, label = directory / family, f"members of the zoo {family}"
        made = [
            *(outlooks.trained(cfg, recipe, f"{label} {zoo.REFERENCE}", 1) if not (home / "organism").exists() else []),
            outlooks.constructed(cfg, construct.ORGANISM, f"{label} dissociated", poles.SELECTION_PROMPTS, units=1),
            *(
                Work(
                    f"{label} {training.saved[-1].name}",
                    len(training.saved),
                    amounts.training(cfg, training.saved[-1].step * training.batch_size, outlooks.TRAINED_COLUMNS),
                )
                for training in zoo.TRAININGS
            ),
        ]
        found += [one for one in made if not (home / f"{one.key.rsplit(' ', 1)[1]}.json").exists()]
    return found


def zoos(config: ConfigDict, workdir: pathlib.Path) -> list[Group]:
    """One group per family of the zoo, built or taken as it is; dissociated members calibrate nothing: they are the
    question."""
    families, settings = parse_families(config.families), config.organism
    train.make_recipe(size=settings.size, seed=settings.seed)
    directory = pathlib.Path(config.zoo.directory or workdir / "zoo").expanduser()
    failed = threading.Event()

    def build(family):
        members = zoo.build(directory / family, family=family, size=settings.size, seed=settings.seed, advance=advance)
        scored = tuple(
            Model(one.name, one.kind, one.path, one.name != zoo.REFERENCE and one.kind != kinds.DISSOCIATED)
            for one in members
        )
        return Group(family, scored, world_rules.make_world(settings.seed))

    with progress.of(len(families) * len(zoo.names()), "members of the zoo") as meter:
        advance = side_by_side.heeding(meter.advance, failed)
        return side_by_side.of_each(build, families, failed)
