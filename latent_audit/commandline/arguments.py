"""The words of a command line, sorted: what each is for, without knowing any config yet."""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from latent_audit import user_files
from latent_audit.errors import InputError

# Words that stand where a task does and ask for something else.
COMMANDS = (
    *("ls", "fields", "columns", "doctor", "compare", "compare-paper", "rejudge", "report"),
    *("export", "push", "help"),
)
FLAGS = ("--config", "--workdir", "--quick", "--limit", "--dry-run", "--help", "--version")
# Flags of one command alone; the last two take a value.
OWN_FLAGS = {
    **dict.fromkeys(("--model-card", "--inspect", "--tensorboard", "--wandb", "--with-answers"), ("export",)),
    "--variant": ("export", "push"),
    "--repo": ("push",),
}
MOST = 1_000_000  # prompts
_WHAT = {
    "--config": "a task's config file, such as configs/lvs.py",
    "--workdir": "a directory",
    "--variant": "the name of a variant of the run",
    "--repo": "OWNER/NAME of a model repository",
}
_FIELD = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)


class Arguments(NamedTuple):
    """What was typed. words: all that are no flags, in their order; fields: config field -> its text, in their order;
    True and False where it was given as --config.FIELD and --noconfig.FIELD; of one given again the last counts, and
    `repeated` says so in words. None and "" differ: not given, and empty.
    """

    words: tuple[str, ...] = ()
    fields: dict[str, str | bool] = {}
    repeated: tuple[str, ...] = ()
    config: str | None = None
    workdir: str | None = None
    quick: bool = False
    limit: int | None = None
    dry_run: bool = False
    help: bool = False
    version: bool = False
    model_card: bool = False
    inspect: bool = False
    tensorboard: bool = False
    wandb: bool = False
    with_answers: bool = False
    variant: str | None = None
    repo: str | None = None


def read(argv: Sequence[str]) -> Arguments:
    """argv without the program's name -> Arguments; InputError for an unknown flag, or one of FLAGS given twice."""
    found: dict[str, str | bool | int] = {}
    words: list[str] = []
    fields: dict[str, str | bool] = {}
    repeated: list[str] = []
    rest = list(argv)
    while rest:
        word = user_files.check_text("the command line", rest.pop(0))
        if word == "--":
            words += rest
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
        elif field := _FIELD.fullmatch(word):
            before, value = fields.pop(field[2], None), _field_value(word, field)
            fields[field[2]] = value
            if before not in (None, value):
                repeated.append(f"config.{field[2]} is given twice: the last, {value!r}, counts, not {before!r}")
        else:
            name, equals, text = word.partition("=")
            name = "--help" if name == "-h" else "--" + name.lstrip("-")
            if name in found:
                raise InputError(f"{name} is given twice, the second time as {word!r}; leave one out")
            found[name] = _flag_value(name, text if equals else None, rest)
    for name in found:
        if name in OWN_FLAGS and (not words or words[0] not in OWN_FLAGS[name]):
            raise InputError(f"{name} is a flag of `latent-audit {'` and `'.join(OWN_FLAGS[name])}` alone")
    return Arguments(
        tuple(words),
        fields,
        tuple(repeated),
        **{name.lstrip("-").replace("-", "_"): value for name, value in found.items()},  # type: ignore[arg-type]
    )


def _field_value(word: str, field: re.Match[str]) -> str | bool:
    if not field[2]:
        raise InputError(f"{word!r} names no field, expected --config.FIELD=VALUE")
    if field[1] and field[3] is not None:
        raise InputError(f"{word!r}: --noconfig.FIELD takes no value")
    return not field[1] if field[3] is None else field[3]


def _flag_value(name: str, value: str | None, rest: list[str]) -> str | bool | int:
    """The value of a flag that is no field; takes the next word for one that needs a value and has none."""
    if name == "--limit":
        text = rest.pop(0) if value is None and rest else value or ""
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST:
            raise InputError(f"--limit={text}: expected a whole number of prompts from 1 to {MOST}")
        return int(text)
    if name in ("--config", "--workdir", "--variant", "--repo"):
        if value is None and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        if not value or not value.strip():
            what = _WHAT[name]
            raise InputError(f"{name} is empty, expected {name}=VALUE with {what}")
        return value
    if name in FLAGS or name in OWN_FLAGS:
        if value is not None:
            raise InputError(f"{name}={value}: this flag takes no value")
        return True
    near = difflib.get_close_matches(name, (*FLAGS, *OWN_FLAGS), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"unknown flag {name}; {hint}Fields of a config are set as --config.FIELD=VALUE")
