"""Config files: where the program's own are, how any is read, and how fields of its config are set from text.

A config file is a program of the user's: whatever it does ends in a config or in one line.
"""

import ast
import contextlib
import difflib
import importlib.util
import json
import pathlib
import re
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from latent_audit import user_files
from latent_audit.commandline import presets
from latent_audit.commandline.arguments import COMMANDS
from latent_audit.errors import InputError

# The longest of ours has 8 kB.
MOST_BYTES = 2**20
# What makes a config apart from the fields that all configs start from.
_NO_TASKS = ("__init__", "common")


def _values(text: str) -> tuple:
    """ "(0.1, 0.2)" -> (0.1, 0.2); one value alone, or a word, is a tuple of one."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if text.strip()[:1] in ("(", "[", "{", "'", '"'):
            raise
        value = text
    return tuple(value) if isinstance(value, tuple | list) else (value,)


# Type of a field -> how its text is read, and what is expected of it.
_READERS: dict[type, tuple[Callable[[str], Any], str]] = {
    int: (flags.IntegerParser().parse, "a whole number"),
    float: (flags.FloatParser().parse, "a number"),
    bool: (flags.BooleanParser().parse, "true or false"),
    tuple: (_values, "values in brackets, such as (0.01, 0.02)"),
}


class Loaded(NamedTuple):
    """What a config file gave. task: its name as typed, "sweep:lvs" or a path; config; text: the file's docstring."""

    task: str
    config: ConfigDict
    text: str


def directory() -> pathlib.Path:
    """Where the program's own config files are: inside of an installed package, beside it in a checkout."""
    package = pathlib.Path(__file__).resolve().parents[1]
    return next(place for place in (package / "configs", package.parent / "configs") if (place / "lvs.py").is_file())


def register() -> None:
    """Make `configs`, as config files import each other, the program's own: another one in reach does not win."""
    home = directory()
    there = sys.modules.get("configs")
    if there is not None and home in (pathlib.Path(place).resolve() for place in getattr(there, "__path__", ())):
        return
    for name in [name for name in sys.modules if name == "configs" or name.startswith("configs.")]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        "configs", home / "__init__.py", submodule_search_locations=[str(home)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["configs"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def tasks() -> list[str]:
    """Names of the tasks: those of the config files."""
    return sorted(path.stem for path in directory().glob("*.py") if path.stem not in _NO_TASKS)


def summary(task: str) -> str:
    """The first line of a task's docstring."""
    return _docstring((directory() / f"{task}.py").read_text(encoding="utf-8")).partition("\n")[0]


def _docstring(text: str) -> str:
    return ast.get_docstring(ast.parse(text)) or ""


def load(named: str) -> Loaded:
    """The config of a task ("lvs", "sweep:lvs") or of a config file (its path, PATH:ARGUMENT).

    Raises InputError that says where for a file that cannot be read or run, and for what is no config.
    """
    register()
    path, argument = _find(named)
    text = user_files.read_text("--config", path, most=MOST_BYTES)
    with _guarded(path), contextlib.redirect_stdout(sys.stderr):
        code = compile(text, str(path), "exec", dont_inherit=True)
        module = types.ModuleType("config_file")
        module.__file__ = str(path)
        sys.modules["config_file"] = module
        exec(code, module.__dict__)
        get_config = module.__dict__.get("get_config")
        if not callable(get_config):
            raise InputError(f"--config={path} has no function get_config(), which returns the config")
        config = get_config() if argument is None else get_config(argument)
        return Loaded(named, _checked(config, path), _docstring(text))


def _find(named: str) -> tuple[pathlib.Path, str | None]:
    """(path of the config file, what stands behind the colon); InputError with the nearest name for no task."""
    word, colon, argument = named.partition(":")
    if word in tasks():
        if colon and word == "sweep":
            _check_swept(argument)
        return directory() / f"{word}.py", argument if colon else None
    if "/" not in word and not named.endswith(".py") and ".py:" not in named and not pathlib.Path(word).is_file():
        raise InputError(f"no task {word!r}; {nearest(word, [*tasks(), *COMMANDS], 'latent-audit ls')}")
    head, found, argument = named.rpartition(".py:")
    file = f"{head}.py" if found else named
    path = user_files.path_of("--config", file)
    if not path.exists() and path.stem in tasks():
        raise InputError(f"--config={file}: no such file here; as a task of this program it is called {path.stem}")
    if found and path.is_file() and path.resolve() == directory() / "sweep.py":
        _check_swept(argument)
    return path, argument if found else None


def _check_swept(base: str) -> None:
    from configs import sweep

    swept = [name for name in tasks() if name != "sweep" and task_of(name) in sweep.PLOTS]
    if base not in swept:
        raise InputError(f"sweep:{base}: no task that can be swept; {nearest(base, swept)}")


def task_of(name: str) -> str | None:
    """The task that a config file sets, without running it: its own name, or that of the audit it is a part of."""
    text = (directory() / f"{name}.py").read_text(encoding="utf-8")
    named = re.search(r'(?:base_config\(|config\.task = )"(\w+)"', text)
    return named[1] if named else "audit" if "alone(" in text else None


def nearest(word: str, known: list[str], ask: str = "") -> str:
    """What to say of a word that is not among `known`: the nearest two, or all; ask: a command that lists them."""
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    listed = f"`{ask}` lists them" if ask else f"expected one of {', '.join(known)}"
    return f"did you mean {' or '.join(map(repr, near))}? {listed}" if near else listed


@contextlib.contextmanager
def _guarded(path: pathlib.Path):  # type: ignore[no-untyped-def]
    """Whatever a config file raises is the user's to mend: an InputError with its line."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        line, trace = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None, error.__traceback__
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(path) else line
            trace = trace.tb_next
        where = f"{path}:{line}" if line else str(path)
        text = " ".join(str(error).split())[:300]
        raise InputError(f"--config={where} raised {type(error).__name__}{f': {text}' if text else ''}") from error


def _checked(config: Any, path: pathlib.Path) -> ConfigDict:
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config={path}: get_config() returned {type(config).__name__}, expected an ml_collections.ConfigDict"
        )
    if not isinstance(config.get("task"), str):
        raise InputError(f"--config={path}: the config has no task; start from one of configs/, such as configs/lvs.py")
    try:
        json.dumps(config.to_dict())
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"--config={path}: the config holds what no JSON file can: {error}") from error
    config.lock()
    return config


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of every field."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {f"{prefix}{name}": value}
    return found


def set_fields(config: ConfigDict, given: Mapping[str, str | bool]) -> None:
    """Set fields by their dotted names, in place; InputError for one that is not there or a text of another type.

    A preset that is among them, or that the config file names, is applied before, so that every other field given here
    counts whatever the preset says of it.
    """
    presets.apply_named(config, given)
    known = leaves(config)
    for field, text in given.items():
        if field == "task":
            raise InputError("config.task cannot be set: a config file is made for its task; name the other task")
        if field not in known:
            inside = [name for name in known if name.startswith(f"{field}.")]
            if inside:
                raise InputError(f"config.{field} is a section: set one of its fields, such as config.{inside[0]}")
            raise InputError(f"config.{field}: there is no such field; {_near_field(field, list(known))}")
        _set(config, field, text)


def _near_field(field: str, known: list[str]) -> str:
    # A field in another section, or without its section, is nearer than its letters say.
    last = [name for name in known if name.rpartition(".")[2] == field.rpartition(".")[2]]
    near = difflib.get_close_matches(field, last or known, n=1, cutoff=0.0 if last else 0.5)
    return f"did you mean config.{near[0]}?" if near else "`latent-audit fields TASK` lists them"


def _set(config: ConfigDict, field: str, text: str | bool) -> None:
    *sections, name = field.split(".")
    section = config
    for one in sections:
        section = section[one]
    kind = section.get_type(name)
    if isinstance(text, bool) and kind is not bool:
        raise InputError(f"config.{field} has no value, expected --config.{field}=VALUE")
    reader, expected = _READERS.get(kind, (str, "text"))
    if text == "None":
        if kind is str:
            raise InputError(f"config.{field} = 'None', expected text; leave it empty for none")
        # Where a field may be None is said, and checked, with everything else that it may be (field_table.py).
        section[name] = None
        return
    try:
        section[name] = text if isinstance(text, bool) else reader(text)
    except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise InputError(f"config.{field} = {str(text)[:200]!r}, expected {expected}") from error


# Where a model named on the command line goes, by task; a task of one model has it in model.path.
_MODEL_FIELDS = {"survey": "models", "ras": "targets", "sweep": "base.model.path"}
_NO_MODEL = {
    "ras_regression": "set --config.calibration_file=FILE, --config.before=DIR and --config.after=DIR",
    "claims": "it measures organisms of its own; set --config.seeds=N for how many",
    "impostors": "it makes organisms of its own; set --config.seeds=N for how many",
}


def set_model(config: ConfigDict, model: str, given: Mapping[str, str | bool]) -> None:
    """Set the field that says which model, in place; InputError for a task without one, or where it is given twice."""
    if config.task in _NO_MODEL:
        raise InputError(f"{config.task} takes no MODEL, and {model!r} was given: {_NO_MODEL[config.task]}")
    if not model.strip():
        raise InputError("MODEL is empty, expected a checkpoint directory or a hub id; leave it out for the organism")
    field = _MODEL_FIELDS.get(config.task, "model.path")
    if field not in leaves(config):
        raise InputError(f"{config.task} takes no MODEL, and {model!r} was given: its config has no field {field}")
    if field in given:
        raise InputError(f"the model is given twice: {model!r} and --config.{field}={given[field]}; leave one out")
    _set(config, field, model)


def models_of(config: ConfigDict) -> list[str]:
    """What a config audits, as typed; none for the organism."""
    fields = {"ras": ("reference", "targets"), "ras_regression": ("before", "after")}.get(
        config.task, (_MODEL_FIELDS.get(config.task, "model.path"),)
    )
    known = leaves(config)
    texts = [str(known.get(field) or "") for field in fields]
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]
