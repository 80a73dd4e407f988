"""A card and a report to a model's repository on the Hugging Face hub: which files, and how they come into its card.

Units and saved answers are never among them, whatever the run saved.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from latent_audit import user_files
from latent_audit.errors import InputError
from latent_audit.exports import model_card
from latent_audit.exports.audited import Run

FOLDER, CARD = "latent-audit", "README.md"
# What of a working directory is uploaded, as far as it is there: numbers, hashes and the page, no text of a model.
FILES = ("report.html", "report.json", "audit.csv", "metrics.csv", "inputs.json", "versions.json")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


def check_id(repo: str) -> str:
    """owner/name itself; InputError for anything else."""
    if not _ID.fullmatch(repo) or ".." in repo or "--" in repo:
        raise InputError(f"--repo={repo[:200]!r}, expected OWNER/NAME of a model repository on the hub")
    return repo


def files(run: Run) -> dict[str, pathlib.Path]:
    """Path in the repository -> file of the run, without the card."""
    return {f"{FOLDER}/{name}": run.workdir / name for name in FILES if (run.workdir / name).is_file()}


def merged(there: str, run: Run) -> str:
    """The repository's card with the section in it: in place of an earlier one, else behind the text.

    tags and results are added to its front matter, in place of this program's earlier ones; all else stays, word for
    word in the text. "" where there is no card yet. Raises InputError for a front matter that cannot be read.
    """
    if not there.strip():
        return model_card.card(run)
    front = _FRONT.match(there)
    body = there[front.end() :] if front else there
    section = model_card.section(run)
    old = re.compile(re.escape(model_card.BEGIN) + r".*?" + re.escape(model_card.END) + r"\n?", re.DOTALL)
    if old.search(body):
        body = old.sub(lambda _: section, body, count=1)
    else:
        body = body.rstrip("\n") + "\n\n" + section
    return f"---\n{_front(front[1] if front else '', run)}---\n{body}"


def _front(text: str, run: Run) -> str:
    import yaml
    from huggingface_hub.utils import yaml_dump

    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())[:200]
        raise InputError(f"the front matter of the repository's {CARD} is no YAML: {problem}; mend it first") from error
    if not isinstance(data, dict):
        raise InputError(f"the front matter of the repository's {CARD} is no mapping; mend it first")
    ours = yaml.safe_load(model_card.front_matter(run))
    tags = data.get("tags") or []
    tags = [tags] if isinstance(tags, str) else tags
    index = data.get("model-index") or []
    kept = [_without_ours(entry) for entry in index if isinstance(entry, Mapping)]
    if kept:
        # The hub shows one model of a card: the results come to those that are there.
        kept[0]["results"] += ours["model-index"][0]["results"]
    data |= {
        "tags": [*tags, *(tag for tag in ours["tags"] if tag not in tags)],
        "model-index": kept or ours["model-index"],
    }
    return yaml_dump(data, sort_keys=False)


def _without_ours(entry: Mapping) -> dict:
    results = [one for one in entry.get("results") or [] if (one.get("source") or {}).get("name") != model_card.SOURCE]
    return {**entry, "results": results}


class Current(NamedTuple):
    """A repository as it is: its card, "" where it has none, and the commit that the card is of."""

    card: str
    commit: str


def current(repo: str) -> Current:
    """What stands in a repository now; InputError as `told` for one that cannot be reached or read."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    commit = ""
    try:
        commit = str(HfApi().repo_info(repo, repo_type="model").sha)
        # Never an older copy of this machine: what is written takes the place of what is read.
        path = hf_hub_download(repo, CARD, revision=commit, force_download=True)
    except RemoteEntryNotFoundError:
        return Current("", commit)
    except Exception as error:
        raise told(repo, error) from error
    return Current(user_files.read_text(f"the card of {repo}", path), commit)


def check_token(repo: str) -> None:
    """InputError where nobody is logged in, before anything is asked of the hub."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"--repo={repo}: HF_HUB_OFFLINE is set, and nothing can be uploaded; unset it")
    if not get_token():
        raise InputError(
            f"--repo={repo}: no token of the hub is here; run `hf auth login`, or set HF_TOKEN to one that may write"
        )


def upload(repo: str, run: Run, card: str, commit: str) -> str:
    """One commit on top of `commit` with the card and `files`; returns its address. InputError as `told`, and where
    somebody else has written in between."""
    from huggingface_hub import CommitOperationAdd, HfApi

    adds = [CommitOperationAdd(CARD, card.encode("utf-8"))]
    adds += [CommitOperationAdd(name, str(path)) for name, path in files(run).items()]
    message = f"Latent audit of {run.model}: {run.verdict['label']}"
    try:
        done = HfApi().create_commit(repo, adds, commit_message=message, repo_type="model", parent_commit=commit)
    except Exception as error:
        raise told(repo, error) from error
    return str(done.commit_url)


def told(repo: str, error: Exception) -> InputError:
    """What the hub, or the way to it, refused, as one line with what to do."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    said = " ".join(str(error).split())[:200]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return InputError(
            f"--repo={repo}: there is no such model repository, or the token may not see it; make it with "
            f"`hf repo create {repo}`: nothing is created here, so that a slip makes no public repository"
        )
    if status in (401, 403):
        return InputError(f"--repo={repo}: the hub refuses this token ({status}); give one that may write there")
    if status in (409, 412):
        return InputError(f"--repo={repo}: somebody wrote there in between; try again")
    if isinstance(error, HfHubHTTPError):
        return InputError(f"--repo={repo}: the hub refuses: {said}")
    if isinstance(error, OSError | httpx.TransportError):
        return InputError(
            f"--repo={repo}: {constants.ENDPOINT} cannot be reached ({said}); mend the network and try again"
        )
    return InputError(f"--repo={repo}: nothing was uploaded, or it is not known ({type(error).__name__}: {said})")
