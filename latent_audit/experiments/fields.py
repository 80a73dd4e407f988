"""Checks of config fields by the one table of them (field_table.py), before any compute, and the table as text."""

import contextlib
import difflib
import fnmatch
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from latent_audit.errors import InputError
from latent_audit.field_table import FIELDS, HOLDS, LETTERS, TASK, VALUES, Field
from latent_audit.user_files import check_text, path_of

# Ours: the order in which a training sees its rows is drawn before it begins, and held.
MOST_ROWS = 10**8
TYPES = {
    "whole": "a whole number",
    "number": "a finite number",
    "text": "a text",
    "switch": "True or False",
    "wholes": "a list of whole numbers",
    "numbers": "a list of finite numbers",
    "texts": "a list of texts",
}


def check(config) -> None:
    """InputError for the first field that is unknown, missing, of another type or out of bounds.

    config: of any task in FIELDS; configs that it holds are checked as those of their own tasks.
    """
    values = dict(leaves(config))
    known = dict(rows(config))
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "take it out"
            raise InputError(f"{name} is no field of task {config.task}: {hint} (latent-audit fields TASK lists them)")
        check_value(name, value, known[name])
    missing = [name for name in known if name not in values and name.rpartition(".")[2] not in TASK]
    if missing:
        raise InputError(
            f"the config lacks {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}, which task "
            f"{config.task} reads; start from the config file of that task"
        )


def leaves(config, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted name, value) of every field of a config."""
    for name, value in config.items():
        if isinstance(value, Mapping) or hasattr(value, "items"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def rows(config, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """(dotted name, its row of the table) of every field that a config's task has, those of held configs too."""
    for name, field in (FIELDS[config.task] | TASK).items():
        yield prefix + name, field
    for held in HOLDS.get(config.task, ()):
        if held not in config or config[held].get("task") not in FIELDS:
            raise InputError(f"{prefix}{held} is no config of a task, expected one of {', '.join(FIELDS)}")
        yield from rows(config[held], f"{prefix}{held}.")


def check_value(name: str, value: object, field: Field) -> None:
    """InputError naming the field, the value and what is expected of it."""
    if value is None and field.optional:
        return
    if field.kind in ("wholes", "numbers", "texts"):
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} = {value!r:.200}, expected {expected(field)}")
        if len(value) > VALUES:
            raise InputError(f"{name} holds {len(value)} values, expected at most {VALUES}")
        for item in value:
            if not _fits(item, field, field.kind[:-1]):
                raise InputError(f"{name} holds {item!r:.200}, expected {expected(field)}")
        if len(set(value)) < len(value):
            raise InputError(f"{name} = {value!r:.200} names a value twice")
        return
    if not _fits(value, field, field.kind):
        raise InputError(f"{name} = {value!r:.200}, expected {expected(field)}")
    if field.kind == "text":
        letters, most = len(check_text(name, value, lines=False)), LETTERS if field.most is None else int(field.most)
        if letters > most:
            raise InputError(f"{name} has {letters} letters, expected at most {most}: {value!r:.80} ...")


def _fits(value: object, field: Field, kind: str) -> bool:
    if kind == "switch":
        return isinstance(value, bool)
    if kind == "text":
        return isinstance(value, str) and (not field.choices or value in field.choices)
    if isinstance(value, bool) or not isinstance(value, int if kind == "whole" else int | float):
        return False
    # The order matters: a whole number of a thousand digits is compared, never made a float.
    if not field.least <= value <= field.most:
        return False
    # Computed in float32, where a number below the least normal one is 0.
    return not field.above or value >= field.least + float(np.finfo(np.float32).tiny)


def expected(field: Field) -> str:
    """What a field takes, in words."""
    if field.choices:
        return "one of " + ", ".join(choice or "'' (empty)" for choice in field.choices)
    words = TYPES[field.kind]
    if field.least is not None:
        first = f"above {field.least:g}" if field.above else f"from {_plain(field.least)}"
        words += f" {first} to {_plain(field.most)}" if not field.above else f" {first}, at most {_plain(field.most)}"
    if field.unit:
        words += f" ({field.unit})"
    return words + (", or None" if field.optional else "")


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Begin the InputErrors of what is inside, which knows no config, with the field or the part that they are of."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def lines(config, pattern: str = "") -> list[str]:
    """Every field of a config as lines of text: name, default, what it takes, what it is.

    pattern: only names that hold it, or match it as a shell would (attack.*).
    """
    values = dict(leaves(config))
    wanted = [
        (name, field)
        for name, field in rows(config)
        if name in values and (pattern in name or fnmatch.fnmatchcase(name, pattern)) and name not in TASK
    ]
    width = max((len(name) for name, _ in wanted), default=0)
    return [f"{name:{width}}  {values[name]!r}: {expected(field)}. {field.what}" for name, field in wanted]


def markdown(configs: Mapping[str, object]) -> str:
    """docs/fields.md: the fields of every config, those that several tasks share under the first of them.

    configs: name of the config file -> its config.
    """
    text = (
        "# Fields\n\nGenerated by `latent-audit fields` from latent_audit/field_table.py and the defaults "
        "in configs/. A field is set by `--config.FIELD=VALUE`; a wrong value is refused before anything is computed."
        "\nEvery table lists what a task has beyond, or with another default than, those before it.\n"
    )
    shown: dict[str, object] = {}
    for title, config in configs.items():
        values = dict(leaves(config))
        fresh = [
            (name, field, values[name])
            for name, field in rows(config)
            if name in values and name not in TASK and (name not in shown or shown[name] != (field, values[name]))
        ]
        held = tuple(f"{name}." for name in HOLDS.get(config.task, ()))
        fresh = [row for row in fresh if not row[0].startswith(held)] if held else fresh
        shown |= {name: (field, value) for name, field, value in fresh}
        text += f"\n## {title}\n\n"
        for name in HOLDS.get(config.task, ()):
            text += f"`{name}.*`: every field of task {config[name].task}.\n\n"
        if fresh:
            text += "| field | default | takes | what |\n|---|---|---|---|\n"
            text += "".join(
                f"| `{name}` | `{value!r}` | {expected(field)} | {field.what} |\n" for name, field, value in fresh
            )
    return text


def names(field: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """ "a,b" -> ("a", "b"), each once; InputError for none, or one that is not among `known`."""
    named = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not named or any(name not in known for name in named):
        raise InputError(f"{field} = {text!r}, expected some of {', '.join(known)}")
    return named


def check_rows(counts: Mapping[str, int]) -> None:
    """InputError where the rows of a whole training, the product of these fields, are more than can be drawn."""
    if math.prod(counts.values()) > MOST_ROWS:
        raise InputError(
            f"{' times '.join(f'{name} = {count}' for name, count in counts.items())} rows are drawn for a training, "
            f"at most {MOST_ROWS}"
        )


def check_batches(config, *more: str) -> None:
    """prompt_batch, and what else is named in `more`, is laid out over mesh.data: a multiple of it, or InputError."""
    data = config.get("mesh", {}).get("data", 1)
    for field in ("prompt_batch", *more):
        if config[field] % data:
            raise InputError(f"{field} = {config[field]}, expected a multiple of mesh.data = {data}")


def check_places(config, workdir: pathlib.Path) -> None:
    """InputError where an export would replace the workdir or an organism, or a workdir lies in what is built."""
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
