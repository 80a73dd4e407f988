"""Chat templates rendered in a process apart, twice, because a template is a foreign program.

It can loop, eat memory, write without end, draw at random or print addresses; each is one line of an InputError here
and hurts nothing (template_helper.py). What is rendered once is remembered for the rest of the process.
"""

import concurrent.futures
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator

import jinja2
import markupsafe

from latent_audit.data import template_helper
from latent_audit.errors import InputError

# Ours. Templates of the families known here need 1 ms a conversation and 30 MB.
MOST_SECONDS = 10
MOST_MEMORY = 2**30
MOST_CHARACTERS = 2**20
# For a machine that is busy with other things, and for systems without limits on computing time.
MOST_WAIT = 20
# A pair of processes renders at most so many conversations, and reads and writes at most so many characters.
BATCH = 1024
BATCH_READ = 2**23
BATCH_WRITTEN = 2**26
ADVICE = "give one with the config field chat.template_file, or use chat.preset=paper"

# (role, content) of each turn.
Conversation = tuple[tuple[str, str], ...]
Variables = tuple[tuple[str, str | bool | None], ...]
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def render(
    template: str,
    conversations: Iterable[Conversation],
    *,
    variables: Variables,
    day: str,
    add_generation_prompt: bool,
    in_parts: bool = False,
) -> tuple[str, ...]:
    """Each conversation as the template writes it: transformers' apply_chat_template without tokens, on a given day.

    Args:
      template: Jinja; variables: (name, value) pairs that it is told, special tokens among them.
      day: what its clock says, as in "2024-07-26"; add_generation_prompt: whether the assistant's turn is opened;
        in_parts: whether content is told as a list of one text part, as templates of models that see images ask.
    Raises:
      InputError: a template that fails, goes over a limit (which is named) or writes another text the second time.
    """
    variables = (*variables, ("add_generation_prompt", add_generation_prompt))
    batches = _batches(conversations)
    return tuple(text for batch in batches for text in _render_batch(template, batch, variables, day, in_parts))


def _batches(conversations: Iterable[Conversation]) -> Iterator[tuple[Conversation, ...]]:
    batch: list[Conversation] = []
    length = 0
    for conversation in conversations:
        longer = sum(len(content) for _, content in conversation)
        if batch and (len(batch) == BATCH or length + longer > BATCH_READ):
            yield tuple(batch)
            batch, length = [], 0
        batch.append(conversation)
        length += longer
    if batch:
        yield tuple(batch)


@functools.lru_cache(maxsize=64)
def _render_batch(
    template: str, conversations: tuple[Conversation, ...], variables: Variables, day: str, in_parts: bool
) -> tuple[str, ...]:
    def content(text: str) -> object:
        return [{"type": "text", "text": text}] if in_parts else text

    request = {
        "template": template,
        "conversations": [
            [{"role": role, "content": content(text)} for role, text in turns] for turns in conversations
        ],
        "variables": dict(variables),
        "day": day,
        "most": MOST_CHARACTERS,
        "most_in_all": BATCH_WRITTEN,
        "memory": MOST_MEMORY,
        "seconds": MOST_SECONDS,
    }
    data = json.dumps(request).encode("ascii")
    # Side by side, with other hashes and at other addresses: what depends on either differs.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        (first, end), (second, other) = pool.map(functools.partial(_ask, data), ("7", "36"))
    for last in (end, other):
        if "error" in last and "by_chance" not in last:
            roles = ", ".join(role for role, _ in conversations[last["index"]])
            raise InputError(
                f"the chat template fails on a conversation of the roles {roles}: {last['error']}; {ADVICE}"
            )
    if end or first != second:
        why = end.get("error", "run twice, it wrote two texts")
        raise InputError(f"the chat template is not deterministic: {why}; {ADVICE}")
    if any(_SURROGATE.search(text) for text in first):
        raise InputError(f"the chat template writes half a surrogate pair, which is no text; {ADVICE}")
    return tuple(first)


def _ask(request: bytes, seed: str) -> tuple[list[str], dict]:
    """The helper's texts and its last line, which is one of an error where it was stopped; see template_helper."""
    # No site, no current directory, no PYTHONPATH: nothing but the standard library and these directories is found.
    places = dict.fromkeys(str(pathlib.Path(str(package.__file__)).parent.parent) for package in (jinja2, markupsafe))
    command = [sys.executable, "-S", "-s", "-P", "-B", str(template_helper.__file__), seed, *places]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONHOME"}
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, timeout=MOST_WAIT, env=kept | {"PYTHONHASHSEED": seed}
        )
    except subprocess.TimeoutExpired:
        return [], {"error": f"it took more than {MOST_WAIT} s", "index": 0}
    except OSError as error:
        raise InputError(f"no process can be started for the chat template to run in: {error}") from error
    if done.returncode:
        return [], {"error": _end(done.returncode, done.stderr), "index": 0}
    *texts, end = map(json.loads, done.stdout.splitlines())
    return texts, end


def _end(status: int, stderr: bytes) -> str:
    """Why a helper ended without an answer."""
    if status == -getattr(signal, "SIGXCPU", 0):
        return f"it took more than {MOST_SECONDS} s"
    if status < 0:
        return f"its process was ended by signal {-status}"
    lines = stderr.decode(errors="replace").split("\n")
    return f"its process ended with status {status}: {next(filter(None, reversed(lines)), 'no word')[:300]}"
