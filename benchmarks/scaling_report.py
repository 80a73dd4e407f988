"""docs/scaling.md from what benchmarks.scaling measured."""

import collections
import math
import pathlib
import re

import jinja2

# Memory of one device, GB of 10^9 bytes, as its maker gives it.
DEVICES = {"H100 80 GB": 80.0, "TPU v5p": 95.0, "TPU v5e": 16.0}
# The share of it that a program may fill: the rest is the runtime's, and what fragmentation takes. Ours.
USABLE = 0.9
_SAME = ("target", "program", "data", "model", "prompts")


def write(out: pathlib.Path, record: dict) -> None:
    """Write scaling.md below `out`."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["gb"] = lambda size: f"{size / 1e9:.1f}"
    source = pathlib.Path(__file__).with_name("scaling.md.j2").read_text(encoding="utf-8")
    compiled = [describe(case) for case in record["cases"]]
    on_cpu = [case for case in compiled if case["kind"] == "cpu"]
    on_tpu = [
        case | {"bounds": [other["bound"] for other in on_cpu if all(other[k] == case[k] for k in _SAME)]}
        for case in compiled
        if case["kind"] != "cpu"
    ]
    text = environment.from_string(source).render(
        **{key: record[key] for key in ("versions", "work", "exact", "missing")},
        on_cpu=on_cpu,
        on_tpu=on_tpu,
        needs=needs(on_cpu),
        usable=USABLE,
    )
    (out / "scaling.md").write_text(text.rstrip() + "\n", encoding="utf-8")


def elements(array: str) -> int:
    """ "f32[8,26]" -> 208."""
    return math.prod(int(size) for size in re.findall(r"\d+", array.split("[")[1]))


def describe(case: dict) -> dict:
    """A compiled case with its total, a bound of the total in bfloat16, and what is exchanged.

    The bound: a CPU computes in float32, so its activations are twice as wide, and it keeps a float32 copy of every
    block besides, which no other device does.
    """
    if "error" in case:
        return case | {"bound": None}
    before = case["arguments"] + case["outputs"]
    arrays = collections.Counter()
    for counted in case["collectives"].values():
        arrays.update(counted)
    largest = max(arrays, key=lambda name: elements(name.split(" ")[1]), default="none f32[0]")
    return case | {
        "total": before + case["temporaries"],
        "bound": before + case["temporaries"] / 2,
        "exchanged": sum(arrays.values()),
        "largest": largest,
        "share": elements(largest.split(" ")[1]) / case["planned"],
    }


def needs(on_cpu: list[dict]) -> list[dict]:
    """Device and target -> the smallest mesh of those compiled on which every program fits, by the bound."""
    found = []
    for device, memory in DEVICES.items():
        for target in dict.fromkeys(case["target"] for case in on_cpu):
            sizes = collections.defaultdict(list)
            for case in on_cpu:
                if case["target"] == target:
                    mesh = case["data"] * case["model"], case["model"], case["data"]
                    sizes[mesh].append(math.inf if case["bound"] is None else case["bound"])
            mesh = min((mesh for mesh, own in sizes.items() if max(own) <= USABLE * memory * 1e9), default=None)
            found.append(
                {
                    "device": device,
                    "memory": memory,
                    "target": target,
                    "mesh": mesh,
                    "most": max(sizes[mesh]) if mesh else None,
                }
            )
    return found
