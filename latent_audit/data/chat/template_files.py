"""Chat templates of checkpoints and of files: what is read, and what is refused before it is rendered."""

import pathlib
from typing import Any

from latent_audit import user_files
from latent_audit.data.chat_templates import ADVICE
from latent_audit.errors import InputError

# The longest published template has 20 KB.
MOST_TEMPLATE = 2**20


def own_template(tokenizer: Any) -> str | None:
    """The checkpoint's default template, None where it has none; InputError for what is no template."""
    template = tokenizer.chat_template
    if isinstance(template, dict) and template:
        if "default" not in template:
            raise InputError(
                f"the checkpoint has several chat templates ({', '.join(map(str, template))}) and none "
                f"is called default; {ADVICE}"
            )
        template = template["default"]
    return _check_template("the checkpoint's chat_template", template) if template else None


def read_template(path: str | pathlib.Path) -> str:
    """The text of a Jinja file; InputError where it cannot be read or is empty."""
    template = user_files.read_text("chat.template_file", path, most=MOST_TEMPLATE)
    if not template.strip():
        raise InputError(f"chat.template_file = {str(path)!r} is empty, expected a Jinja chat template")
    return _check_template(f"chat.template_file = {str(path)!r}: the template", template)


def folded(template: str) -> str:
    """The template without indentation and line breaks, as collections of template files ask to be read.

    Such files are laid out for people, and their blank lines and indented outputs would become the prompt.
    """
    return "".join(line.strip() for line in template.splitlines())


def leaks(text: str, bos: str | None) -> bool:
    """Whether a rendered prompt starts with white space of the template's layout, in front of BOS or behind it."""
    behind = text.removeprefix(bos or "")
    return text[:1].isspace() or "\n" in behind[: len(behind) - len(behind.lstrip())]


def _check_template(field: str, template: object) -> str:
    text = user_files.check_text(field, template)
    if len(text) > MOST_TEMPLATE:
        raise InputError(f"{field} has {len(text)} characters, at most {MOST_TEMPLATE} are read")
    return text
