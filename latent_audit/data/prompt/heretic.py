"""A heretic configuration (github.com/p-e-w/heretic) as a source of prompts: its sections name data sets.

[bad_prompts], [good_prompts] and the two *_evaluation_prompts say `dataset`, `split` (a part such as train[:400]) and
`column`; newer ones may also say config, commit, prefix, suffix and system_prompt, or hold several such tables.
"""

import pathlib
import tomllib
from typing import Any, NamedTuple

from latent_audit import user_files
from latent_audit.errors import InputError

SUFFIX = ".toml"
_MOST_BYTES = 2**22
_TEXTS = ("dataset", "split", "column", "config", "commit", "prefix", "suffix", "system_prompt")


class Part(NamedTuple):
    """One data set of a section. dataset: a path or a hub id; the others as in the file, "" where it is silent."""

    dataset: str
    split: str = ""
    column: str = ""
    config: str = ""
    commit: str = ""
    prefix: str = ""
    suffix: str = ""
    system_prompt: str = ""

    def around(self, prompt: str) -> str:
        """The prompt as heretic puts it to a model: a space apart from prefix and suffix."""
        return " ".join(text for text in (self.prefix, prompt, self.suffix) if text)


def read(path: pathlib.Path, section: str) -> list[Part]:
    """The data sets of a section, in order.

    Raises InputError: no TOML file, a section that is not there (those with a data set are listed), or one of another
    form.
    """
    where = f"the configuration {path}"
    try:
        value = tomllib.loads(user_files.read_text("the file of prompts", path, most=_MOST_BYTES))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{where} is no TOML: {' '.join(str(error).split())[:200]}") from error
    there = [name for name, item in value.items() if _tables(item)]
    if not section or section not in there:
        listed = ", ".join(f"{path}:{name}" for name in there) or "none"
        raise InputError(
            f"{where}: {f'no section [{section}] names' if section else 'it leaves a choice of sections that name'} a "
            f"data set; there are {listed}"
        )
    return [_part(f"{where}, [{section}]", table) for table in _tables(value[section])]


def _tables(item: Any) -> list[dict]:
    """A section's tables that name a data set; a section may be one table or a list of them."""
    several = item if isinstance(item, list) else [item]
    return [table for table in several if isinstance(table, dict) and "dataset" in table]


def _part(where: str, table: dict) -> Part:
    for name in _TEXTS:
        user_files.check_text(f"{where}: {name}", table.get(name, ""))
    part = Part(**{name: table[name].strip() for name in _TEXTS if name in table})
    if not part.dataset:
        raise InputError(f"{where}: dataset is empty, expected a path or a hub id")
    return part
