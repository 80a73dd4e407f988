"""The files of one split of a data set on the Hugging Face hub, without the `datasets` package."""

import contextlib
import fnmatch
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from latent_audit.data.prompt_tables import MOST_BYTES, READERS
from latent_audit.errors import InputError

# One request without retries comes first, so that an unreachable hub is known within this time.
PROBE_SECONDS = 10

# As the hub has it: letters, digits, _ and, inside, - and . but neither twice in a row; at most 96 in all.
_NAME = re.compile(r"(?!.*--)(?!.*\.\.)(?!.*[.\-]/)(?!.*[.\-]$)[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*", re.ASCII)
_LONGEST_NAME = 96
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# Text before Parquet: it needs no further package.
_PREFERENCE = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet")
_NOT_DATA = ("dataset_infos.json", "dataset_info.json")


class Split(NamedTuple):
    """One split of one configuration and the files, in order, that hold it."""

    config: str
    split: str
    files: tuple[str, ...]


def download(address: str, *, revision: str | None = None) -> list[pathlib.Path]:
    """The local files of "owner/name[:config][:split]", fetched into the hub's cache.

    revision: a commit, None for the main branch.

    Raises InputError: not such an address, an unknown or gated data set, an unreachable hub, a data set without
    readable files, one whose splits leave a choice (all are listed), or a split of more than MOST_BYTES.
    """
    repository, *wanted = address.split(":")
    looks_like_path = not _NAME.fullmatch(repository) or pathlib.PurePosixPath(repository).suffix.lower() in READERS
    if looks_like_path or len(repository) > _LONGEST_NAME or len(wanted) > 2 or not all(wanted):
        raise InputError(
            f"hub:{address} is not of the form hub:owner/name[:config][:split]; a file is given by its path alone"
        )
    with _hub_errors(repository):
        info = huggingface_hub.HfApi().dataset_info(
            repository, revision=revision, timeout=PROBE_SECONDS, files_metadata=True
        )
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    card = info.card_data.get("configs") if hasattr(info.card_data, "get") else None
    chosen = choose_split(f"hub:{repository}", list_splits(list(sizes), card), wanted)
    size = sum(sizes[file] for file in chosen.files)
    if size > MOST_BYTES:
        raise InputError(
            f"hub:{address} has {size} bytes in {len(chosen.files)} files, at most {MOST_BYTES} are read: take a part "
            "of it and give that file's path"
        )
    with _hub_errors(repository):
        return [
            pathlib.Path(
                huggingface_hub.hf_hub_download(
                    repository, file, repo_type="dataset", revision=info.sha, etag_timeout=PROBE_SECONDS
                )
            )
            for file in chosen.files
        ]


@contextlib.contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn what can go wrong on the network into one line."""
    try:
        yield
    except GatedRepoError as error:
        raise InputError(
            f"the data set {repository} is gated: accept its terms on the Hugging Face hub, then log in "
            "with `hf auth login` or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"no data set {repository} on the Hugging Face hub (a private one needs `hf auth login` or HF_TOKEN)"
        ) from error
    except Exception as error:  # The HTTP library's own errors differ between versions of huggingface_hub.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"the Hugging Face hub cannot be reached for the data set {repository} ({reason}); download "
            "its file elsewhere and give its path"
        ) from error


def list_splits(files: list[str], card: object) -> list[Split]:
    """Every split of a data set: as its card declares them, otherwise as its paths suggest.

    Args:
      files: paths in the repository.
      card: the `configs` entry of the card's metadata, None where there is none; what has not its form is passed over.
        A pattern in it matches as in a shell.
    """
    data = [
        file
        for file in sorted(files)
        if pathlib.PurePosixPath(file).suffix.lower() in READERS
        and not pathlib.PurePosixPath(file).name.startswith(".")
        and file not in _NOT_DATA
    ]
    declared = []
    configs = [config for config in card if isinstance(config, dict)] if isinstance(card, list) else []
    for config in configs:
        for split, patterns in _declared_files(config.get("data_files")).items():
            matching = tuple(file for file in data if any(fnmatch.fnmatch(file, pattern) for pattern in patterns))
            if matching:
                declared.append(Split(str(config.get("config_name", "default")), split, matching))
    return declared or _splits_from_paths(data)


def _declared_files(entry: Any) -> dict[str, list[str]]:
    """split -> patterns of a card's `data_files`, which has four spellings."""
    if entry is None:
        return {}
    if isinstance(entry, dict):
        items = list(entry.items())
    elif isinstance(entry, list) and all(isinstance(item, dict) for item in entry):
        items = [(item.get("split", "train"), item.get("path", [])) for item in entry]
    else:
        items = [("train", entry)]
    return {str(split): _patterns(patterns) for split, patterns in items}


def _patterns(entry: object) -> list[str]:
    several = entry if isinstance(entry, list | tuple) else [entry]
    return [pattern for pattern in several if isinstance(pattern, str)]


def _splits_from_paths(data: list[str]) -> list[Split]:
    """Splits by file name and configurations by directory; the numbered parts of one split belong together."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for file in data:
        path = pathlib.PurePosixPath(file)
        config = path.parent.name if path.parent.name not in ("", "data") else "default"
        by_suffix = groups.setdefault((config, _SHARD.sub("", path.stem)), {})
        by_suffix.setdefault(path.suffix.lower(), []).append(file)
    return [
        Split(config, split, tuple(by_suffix[min(by_suffix, key=_PREFERENCE.index)]))
        for (config, split), by_suffix in groups.items()
    ]


def choose_split(address: str, splits: list[Split], wanted: list[str]) -> Split:
    """The one split that `wanted` means: [], [config or split], or [config, split]; InputError if not exactly one.

    address: of the repository or directory, as messages write it.
    """
    if not splits:
        raise InputError(f"{address} has no files that can be read; expected {', '.join(READERS)}")
    if len(wanted) == 2:
        left = [split for split in splits if [split.config, split.split] == wanted]
    else:
        left = [split for split in splits if set(wanted) <= {split.config, split.split}]
    if len(left) == 1:
        return left[0]
    options = left or splits
    listed = ", ".join(f"{address}:{split.config}:{split.split}" for split in options[:10])
    more = f" and {len(options) - 10} more" if len(options) > 10 else ""
    problem = "leaves a choice" if left else "matches none of its splits"
    raise InputError(f"{':'.join([address, *wanted])} {problem}; it has {listed}{more}")
