"""From what the user typed (a directory, a GGUF file or a hub id) to a checkpoint on disk."""

import os
import pathlib
import queue
import re
import threading
from collections.abc import Sequence

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from latent_audit import gguf_files
from latent_audit.errors import InputError
from latent_audit.models.files import directories
from latent_audit.user_files import path_of

# What an audit reads. Pickles are never fetched: opening one runs code.
ALLOWED_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
# Second copies of the weights in another layout, which some repositories hold beside the first.
# An adapter's config is fetched, its weights are not: it is refused (headers.refuse_adapter), not passed over, unless
# it is asked for by itself.
IGNORED_FILES = ("*/*", "consolidated*.safetensors", "adapter*.safetensors")
ADAPTER_PATTERNS = ("adapter_config.json", "adapter_model.safetensors")
# One request without retries tells whether the hub answers at all; all waiting ends after twice this.
PROBE_SECONDS = 10

_HUB_ID = re.compile(r"(?=.{1,200}$)[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?", re.ASCII)
_REVISION = re.compile(r"[\w.\-/]{1,200}", re.ASCII)
_FILE_SUFFIXES = (".json", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".msgpack", ".npz", ".zip", ".gz")


def resolve(path_or_id: str | pathlib.Path, *, revision: str | None = None) -> pathlib.Path:
    """The local directory or GGUF file of a checkpoint, downloaded from the Hugging Face hub if it is no path.

    Args:
      path_or_id: an existing directory (see directories.find) or GGUF file, or a hub id ("owner/name", or a bare
        "name").
      revision: branch, tag or commit on the hub; None is its main branch. A directory or file has none.
    Raises:
      InputError: as directories.find; neither a path nor a hub id; or the hub cannot be reached, does not know the
        id, or refuses access, and the local cache holds no copy.
    """
    text = str(path_or_id)
    if not text.strip():
        raise InputError(f"the checkpoint path is {text!r}; expected a directory or a hub id like owner/name")
    path = path_of("the checkpoint path", text)
    if revision is not None and not (_REVISION.fullmatch(revision) and ".." not in revision):
        raise InputError(f"revision = {revision[:200]!r}, expected a branch, tag or commit on the hub")
    try:
        is_directory, is_there = path.is_dir(), os.path.lexists(path)
    except OSError as error:
        raise InputError(f"the checkpoint path {text[:200]!r} cannot be read: {error.strerror}") from error
    if is_directory:
        if revision is not None:
            raise InputError(f"{text} is a local directory, which has no revision {revision!r}; leave it out")
        return directories.find(path)
    if is_there and path.is_file() and gguf_files.is_gguf(path):
        if revision is not None:
            raise InputError(f"{text} is a local file, which has no revision {revision!r}; leave it out")
        return path
    if is_there:
        what = "a link to nothing" if path.is_symlink() and not path.exists() else "a file"
        raise InputError(f"{text} is {what}, expected the directory that holds a checkpoint, or a .gguf file")
    is_path = isinstance(path_or_id, pathlib.PurePath) or text.lower().endswith(_FILE_SUFFIXES)
    if is_path or not _HUB_ID.fullmatch(text):
        raise InputError(
            f"no such directory: {text[:200]!r}; expected a checkpoint directory or a hub id like owner/name"
        )
    return _download(text, revision)


def split_adapter(text: str) -> tuple[str, str | None]:
    """ "DIR+ADAPTER" -> ("DIR", "ADAPTER"); a path that exists as it stands, or holds no +, has no adapter."""
    base, plus, adapter = text.rpartition("+")
    return (base, adapter) if plus and base and adapter and not os.path.lexists(text) else (text, None)


def resolve_adapter(path_or_id: str | pathlib.Path) -> pathlib.Path:
    """The local directory of a PEFT adapter, downloaded from the hub if it is no directory; InputError as resolve."""
    text = str(path_or_id)
    path = path_of("the adapter's path", text)
    if os.path.isdir(path):
        return directories.find(path)
    if os.path.lexists(path) or isinstance(path_or_id, pathlib.PurePath) or not _HUB_ID.fullmatch(text):
        raise InputError(
            f"no such directory: {text[:200]!r}; expected an adapter's directory or hub id like owner/name"
        )
    return _download(text, None, ADAPTER_PATTERNS, ("*/*",))


def _download(
    hub_id: str, revision: str | None, allowed: Sequence[str] = ALLOWED_FILES, ignored: Sequence[str] = IGNORED_FILES
) -> pathlib.Path:
    options = {"revision": revision, "allow_patterns": list(allowed), "ignore_patterns": list(ignored)}
    try:
        _probe(hub_id, revision)
        return pathlib.Path(huggingface_hub.snapshot_download(hub_id, etag_timeout=PROBE_SECONDS, **options))
    except GatedRepoError as error:
        raise InputError(
            f"{hub_id} on the Hugging Face hub is gated: accept its terms there, then log in with "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{hub_id} on the Hugging Face hub has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"no directory {hub_id!r} here and no such model on the Hugging Face hub (a private one "
            "needs `hf auth login` or HF_TOKEN)"
        ) from error
    except Exception as error:  # The HTTP library's own errors differ between versions of huggingface_hub.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(hub_id, local_files_only=True, **options))
    except Exception as error:
        raise InputError(
            f"no directory {hub_id!r} here, the Hugging Face hub cannot be reached ({reason}) and "
            "its local cache holds no copy; give a checkpoint directory instead"
        ) from error


def _probe(hub_id: str, revision: str | None) -> None:
    """Ask the hub for the repository once; raise what it answers, or TimeoutError."""
    answer: queue.Queue = queue.Queue()

    def ask() -> None:
        try:
            answer.put(huggingface_hub.HfApi().model_info(hub_id, revision=revision, timeout=PROBE_SECONDS))
        except Exception as error:
            answer.put(error)

    # In a thread, because a request's timeout covers neither name lookup nor each of a host's addresses in turn.
    threading.Thread(target=ask, daemon=True).start()
    try:
        got = answer.get(timeout=2 * PROBE_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {2 * PROBE_SECONDS} seconds") from None
    if isinstance(got, Exception):
        raise got
