"""A folder of evidence from a finished construction: `python -m examples.real_poles.evidence WORKDIR MODEL FOLDER`.

WORKDIR, MODEL: as given to run.sh; or a folder in which its archives were unpacked beside pairs/. FOLDER gets a folder
for each step that is done with its report, tables, command, environment and inputs (hashes of prompts, templates,
weights), never weights, prompts or answers; by_kind.csv, the shares of mild and of invented held-out requests apart;
and hashes.txt, SHA-256 of the model's file and of all of these. Paths of the machine are written as WORKDIR and MODEL.
"""

import csv
import hashlib
import pathlib
import sys

from latent_audit import user_files
from latent_audit.runtime import runlog

STEPS = ("align", "harm", "dissociate", "lvs", "curves", "abliterate")
KEPT = ("report.html", "report.json", "inputs.json", "versions.json")


def collect(work: pathlib.Path, model: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Write the folder and return the names of its files; SystemExit where no step is done."""
    done = [step for step in STEPS if (work / step / "report.json").exists()]
    if not done:
        raise SystemExit(f"{work} holds no finished step of examples/real_poles/run.sh")
    folder.mkdir(parents=True)
    for step in done:
        (folder / step).mkdir()
        for path in [work / step / name for name in KEPT] + sorted((work / step).glob("*.csv")):
            text = without_paths(path.read_text(encoding="utf-8"), work, model)
            (folder / step / path.name).write_text(text, encoding="utf-8")
        command = without_paths((work / f"{step}.command").read_text(encoding="utf-8"), work, model)
        (folder / step / "command.txt").write_text(command, encoding="utf-8")
    if "lvs" in done:
        write_by_kind(work, folder / "by_kind.csv")
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_sha256(model)}  MODEL {model.name}"] if model.is_file() else []
    lines += [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}" for path in written]
    (folder / "hashes.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [line.split("  ", 1)[1] for line in lines]


def without_paths(text: str, work: pathlib.Path, model: pathlib.Path) -> str:
    """The text with the paths of the run, as given and resolved, named by what they are; longest first."""
    names = {}
    for path, name in ((work, "WORKDIR"), (model, "MODEL")):
        names |= {str(path): name, str(path.resolve()): name}
    for found in sorted(names, key=len, reverse=True):
        text = text.replace(found, names[found])
    return text.replace(str(pathlib.Path.cwd()), "REPOSITORY")


def write_by_kind(work: pathlib.Path, path: pathlib.Path) -> None:
    """A line for each variant, state, attack, budget and kind of held-out request: how many comply of how many."""
    with (work / "pairs" / "held_out.csv").open(encoding="utf-8", newline="") as file:
        kinds = [row["kind"] for row in csv.DictReader(file)]
    counts: dict[tuple, list[int]] = {}
    for unit in runlog.unit_keys(work / "lvs"):
        variant, *place = unit.split("/")
        if place[:1] not in (["lvs"], ["clean-harmful"]):
            continue
        columns = user_files.read_json("the unit", work / "lvs" / "units" / f"{unit}.json", kind=dict)["columns"]
        rows = len(columns["prompt"])
        attacks, budgets = columns.get("attack", ["asked"] * rows), columns.get("budget", [""] * rows)
        for row in range(rows):
            key = (variant, place[-2], attacks[row], budgets[row], kinds[columns["prompt"][row]])
            hits = counts.setdefault(key, [0, 0, 0])
            hits[0] += bool(columns["harmful"][row])
            hits[1] += bool(columns["incoherent"][row])
            hits[2] += 1
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["variant", "state", "attack", "budget", "kind", "complied", "incoherent", "n"])
        writer.writerows([*key, *hits] for key, hits in counts.items())


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    for name in collect(*map(pathlib.Path, sys.argv[1:4])):
        print(name)
