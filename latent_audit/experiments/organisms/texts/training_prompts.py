"""What a made pole was trained on, as hashes beside its weights, so that no probe is fitted on the same rows.

docs/method.md section 7. The prompts themselves are not written: a pole may be shared where they may not.
"""

import hashlib
import pathlib
from collections.abc import Iterable

from latent_audit import user_files
from latent_audit.data.prompt_files import fold
from latent_audit.errors import InputError

FILE = "training_prompts.txt"
_MOST_BYTES = 2**26
_LETTERS = 16


def digest(prompt: str) -> str:
    """16 hex digits of a folded prompt's SHA-256."""
    return hashlib.sha256(fold(prompt).encode()).hexdigest()[:_LETTERS]


def as_file(prompts: Iterable[str]) -> dict[str, str]:
    """{FILE: contents}, to be saved with the weights."""
    return {FILE: "".join(f"{line}\n" for line in sorted({digest(prompt) for prompt in prompts}))}


def read(directory: str | pathlib.Path) -> frozenset[str]:
    """Digests of the prompts that the pole in `directory` was trained on; none where that is not recorded.

    Raises InputError for a file that holds anything else.
    """
    file = pathlib.Path(directory) / FILE
    if not file.is_file():
        return frozenset()
    lines = user_files.read_text("the pole's training prompts", file, most=_MOST_BYTES).split()
    if any(len(line) != _LETTERS or set(line) - set("0123456789abcdef") for line in lines):
        raise InputError(f"{file} is damaged, expected {_LETTERS} hex digits a line; export the pole again")
    return frozenset(lines)
