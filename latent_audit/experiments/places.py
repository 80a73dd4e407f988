"""The directories that a config names beside its workdir: none that is replaced as a whole may hold another's files."""

import pathlib

from latent_audit.errors import InputError
from latent_audit.user_files import path_of


def check(config, workdir: pathlib.Path) -> None:
    """InputError where the export would replace the workdir or the organism, or a workdir lies in what it builds."""
    workdir, built = workdir.absolute(), {}
    for section in ("organism", "zoo"):
        given = config.get(section, {}).get("directory", "")
        if given and not config.get("model", {}).get("path"):
            field = f"{section}.directory"
            built[field] = path_of(field, given).absolute()
            _refuse_inside("--workdir", workdir, field, built[field])
    export = config.get("finetune", {}).get("export", "")
    if not export:
        return
    target = path_of("finetune.export", export).absolute()
    for field, place in (built or {"the organism": workdir / "organism"}).items():
        _refuse_inside("finetune.export", target, field, place)
    for field, place in ({"--workdir": workdir} | built).items():
        _refuse_inside(field, place, "finetune.export", target)


def _refuse_inside(field: str, inner: pathlib.Path, other: str, outer: pathlib.Path) -> None:
    if inner.resolve().is_relative_to(outer.resolve()):
        where = "is" if inner.resolve() == outer.resolve() else "lies inside of"
        raise InputError(f"{field} = {inner} {where} {other} = {outer}; give each a directory of its own")
