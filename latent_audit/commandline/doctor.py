"""`latent-audit doctor`: what this machine has, what is missing, and the line that mends it.

Facts are gathered by functions of what they look at (a folder, a list of requirements, a question to ask), so that
tests can show them another machine.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import queue
import shutil
import threading
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from latent_audit import __version__
from latent_audit.commandline import config_files
from latent_audit.text import printable

HUB_SECONDS = 5.0
# Ours: the share of a memory that weights may fill; states, caches and the program have the rest.
WEIGHTS_SHARE = 0.7
BYTES = {"float32": 4, "bfloat16": 2}
RULE = f"weights in {WEIGHTS_SHARE:.0%} of the memory; abliterate and dissociate hold two models, finetune more"
# Bytes below which a cache or a workdir on this disk is soon full.
LITTLE_SPACE = 20e9


class Line(NamedTuple):
    """One finding. state: ok, note (works, but could be better), missing (needed); mend: what to do, "" for nothing."""

    state: str
    what: str
    found: str
    mend: str = ""


class Device(NamedTuple):
    """Devices of one kind; number: how many; bytes: of each, 0 where it shares the host's."""

    platform: str
    kind: str
    number: int
    bytes: int


def look() -> tuple[list[str], bool]:
    """(lines of the report, whether something that is needed is missing)."""
    needed = requirements()
    found = [Line("ok", "latent_audit", f"{__version__} on Python {platform.python_version()}, {platform.system()}")]
    found += packages([one for one in needed if "extra ==" not in one], _version)
    if not any(line.state == "missing" for line in found):
        memory = host_memory(pathlib.Path("/"))
        there = _devices()
        found += [there] if isinstance(there, Line) else devices(there, memory)
        found += hub_and_scorers()
    found += extras(_is_there, has_gpu=_has_gpu(pathlib.Path("/")))
    return show(found), any(line.state == "missing" for line in found)


def show(found: Iterable[Line]) -> list[str]:
    """Findings as lines of text, what mends them below each; foreign text made printable."""
    lines = []
    for line in found:
        lines.append(f"[{line.state}]{' ' * (8 - len(line.state))}{line.what}: {printable(line.found)}")
        lines += [f"{' ' * 10}-> {printable(line.mend)}"] if line.mend else []
    return lines


def requirements() -> list[str]:
    """What the package says it needs: the installed one's own words, or those of the checkout's pyproject.toml."""
    file = pathlib.Path(__file__).resolve().parents[2] / "pyproject.toml"
    if file.is_file():
        return list(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"])
    return importlib.metadata.requires("latent_audit") or []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages(needed: Sequence[str], version: Callable[[str], str | None]) -> list[Line]:
    """One line if all requirements ("jax>=0.10,<0.13") are met, else one for each that is not."""
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        return [Line("missing", "packages", "packaging is not installed", "pip install latent_audit")]
    bad = []
    for text in needed:
        wanted = Requirement(text)
        there = version(wanted.name)
        if there is None:
            bad.append(Line("missing", wanted.name, "not installed", f'pip install "{text}"'))
        elif not wanted.specifier.contains(there, prereleases=True):
            bad.append(Line("missing", wanted.name, f"{there}, needed {wanted.specifier}", f'pip install "{text}"'))
    return bad or [Line("ok", "packages", f"all {len(needed)} within the bounds of pyproject.toml")]


def host_memory(root: pathlib.Path) -> int:
    """Bytes that processes of this machine may have: its memory, or less where a container is given less."""
    sizes = []
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            sizes.append(int(line.split()[1]) * 1024)
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(root / name).strip()
        sizes += [int(text)] if text.isdigit() else []
    if not sizes:
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    return min(sizes)


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _devices() -> Device | Line:
    """What jax computes on, or the line that says why it finds nothing."""
    try:
        import jax

        found = jax.devices()
    except Exception as error:  # As in runtime/start.py.
        return Line(
            "missing", "devices", " ".join(str(error).split())[:200] or type(error).__name__, "unset JAX_PLATFORMS"
        )
    stats: Mapping[str, Any] = {}
    try:
        stats = found[0].memory_stats() or {}
    except Exception:  # Not every platform has them.
        pass
    return Device(found[0].platform, found[0].device_kind, len(found), int(stats.get("bytes_limit", 0)))


def devices(there: Device, memory: int) -> list[Line]:
    """Lines on the devices, the flags that go with them and the sizes of models that fit."""
    each = there.bytes or memory
    own = f"{there.bytes / 2**30:.1f} GiB each, " if there.bytes else ""
    lines = [
        Line(
            "ok",
            "devices",
            f"{there.number} {there.platform} ({there.kind}), {own}{memory / 2**30:.1f} GiB of host memory",
        )
    ]
    fits = sizes(each)
    flags = choose(there)
    lines.append(Line("ok", "flags for a checkpoint", " ".join(flags)))
    lines.append(
        Line(
            "ok",
            "models that fit",
            f"{fits['float32']:.1f} billion parameters in float32, {fits['bfloat16']:.1f} in bfloat16 (one device; "
            f"{RULE})",
        )
    )
    if there.number > 1 and there.bytes:
        whole = sizes(each * there.number)
        lines.append(
            Line(
                "ok",
                "models that fit on all devices",
                f"{whole['float32']:.1f} billion in float32, {whole['bfloat16']:.1f} in bfloat16",
            )
        )
    return lines


def sizes(memory: float) -> dict[str, float]:
    """Billions of parameters that fit into `memory` bytes, by dtype; RULE says how.

    >>> sizes(80e9)
    {'float32': 14.0, 'bfloat16': 28.0}
    """
    return {dtype: round(WEIGHTS_SHARE * memory / width / 1e9, 2) for dtype, width in BYTES.items()}


def choose(there: Device) -> list[str]:
    """The flags that suit the devices: bfloat16 on accelerators, weights cut over all of them."""
    dtype = "float32" if there.platform == "cpu" else "bfloat16"
    cut = [f"--config.mesh.model={there.number}"] if there.number > 1 and there.platform != "cpu" else []
    return [f"--config.model.dtype={dtype}", *cut]


def hub_and_scorers() -> list[Line]:
    """Lines on the hub, its cache on this disk, and the judge and reward that a checkpoint is scored with."""
    from huggingface_hub import constants, get_session

    config = config_files.load("lvs").config
    reached = hub(lambda: get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS), offline=constants.HF_HUB_OFFLINE)
    cache = pathlib.Path(constants.HF_HUB_CACHE)
    at_hand = {"judge": in_cache(config.judge.path, cache), "reward": in_cache(config.reward.path, cache)}
    return [
        reached,
        space(cache),
        scorer("judge", config.judge.path, at_hand["judge"], reached.state == "ok"),
        scorer("reward", config.reward.path, at_hand["reward"], reached.state == "ok"),
        Line("ok", "refusal phrases", "always at hand, as judge and as reward: a fallback, labelled as such"),
    ]


def hub(ask: Callable[[], Any], *, offline: bool = False, limit: float = HUB_SECONDS) -> Line:
    """Whether `ask` is answered within `limit` seconds; asked in a thread, since a name lookup knows no limit."""
    local = "give checkpoint directories instead of hub ids"
    if offline:
        return Line("note", "hub", "not asked, HF_HUB_OFFLINE is set", f"unset HF_HUB_OFFLINE, or {local}")
    answer: queue.Queue = queue.Queue()

    def put() -> None:
        try:
            ask()
            answer.put("")
        except Exception as error:
            answer.put(" ".join(str(error).split())[:120] or type(error).__name__)

    threading.Thread(target=put, daemon=True).start()
    try:
        problem = answer.get(timeout=limit)
    except queue.Empty:
        problem = f"no answer within {limit:g} seconds"
    if problem:
        return Line("note", "hub", f"not reachable ({problem})", f"mend the network (HTTPS_PROXY), or {local}")
    return Line("ok", "hub", "reachable")


def space(directory: pathlib.Path) -> Line:
    """Free bytes where a directory is or would be made."""
    nearest = next((place for place in (directory, *directory.absolute().parents) if place.is_dir()), pathlib.Path("/"))
    free = shutil.disk_usage(nearest).free
    mend = "set HF_HOME to a larger disk" if free < LITTLE_SPACE else ""
    return Line("note" if mend else "ok", "hub cache", f"{directory}, {free / 1e9:.0f} GB free", mend)


def in_cache(hub_id: str, cache: pathlib.Path) -> bool:
    """Whether a directory, or the cache's copy of a hub id, holds a config and safetensors weights."""
    places = [pathlib.Path(hub_id), *cache.glob(f"models--{hub_id.replace('/', '--')}/snapshots/*")]
    return any((place / "config.json").is_file() and any(place.glob("*.safetensors")) for place in places)


def scorer(field: str, path: str, here: bool, hub_reached: bool) -> Line:
    """A line on the judge or the reward of a checkpoint: on this disk, on the hub, or out of reach."""
    if here:
        return Line("ok", field, f"{path} is on this disk")
    where = "is fetched from the hub when first used" if hub_reached else "is neither on this disk nor within reach"
    mend = f"--config.{field}.path=DIR with a copy, or --config.{field}.kind=refusal (phrases: a fallback)"
    return Line("note", field, f"{path} {where}", mend)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _has_gpu(root: pathlib.Path) -> bool:
    return (root / "proc/driver/nvidia/version").is_file()


def extras(is_there: Callable[[str], bool], *, has_gpu: bool) -> list[Line]:
    """Lines on what is optional; is_there: whether a module can be imported."""
    lines = []
    absent = [
        name
        for name, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf"))
        if not is_there(module)
    ]
    lines.append(
        Line(
            "note" if absent else "ok",
            "tokenizer.model",
            f"{', '.join(absent)} not installed, though required: tokenizer.model alone cannot be read"
            if absent
            else "sentencepiece and protobuf are installed",
            f"pip install {' '.join(absent)}" if absent else "",
        )
    )
    cuda = [name for name in ("jax_cuda12_plugin", "jax_cuda13_plugin") if is_there(name)]
    if cuda:
        lines.append(Line("ok", "CUDA plugin", cuda[0]))
    elif has_gpu:
        lines.append(
            Line(
                "note",
                "CUDA plugin",
                "not installed, though this machine has an NVIDIA GPU",
                'pip install "jax[cuda12]"',
            )
        )
    else:
        lines.append(Line("ok", "CUDA plugin", "not installed, and no NVIDIA GPU is here"))
    return lines
