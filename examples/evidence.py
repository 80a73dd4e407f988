"""A folder of evidence from finished runs: `python -m examples.evidence WORKDIR MODEL FOLDER [PROMPTS...]`.

WORKDIR: of one finished run, or of examples/real_poles/run.sh. FOLDER gets what the run reports: page, tables, command,
environment and inputs (hashes of prompts, templates, weights), never weights, prompts or answers, of the poles a folder
for each step that is done and by_kind.csv, the shares of mild and of invented held-out requests apart; and hashes.txt,
SHA-256 of MODEL, of the lists of PROMPTS and of all of these. Paths of the machine are written as WORKDIR, MODEL and a
list's own name.
"""

import csv
import pathlib
import sys
from collections.abc import Mapping, Sequence

from latent_audit import user_files
from latent_audit.models.fingerprint import sha256_of_files
from latent_audit.runtime import runlog

STEPS = ("align", "harm", "dissociate", "lvs", "curves", "abliterate")
KEPT = ("report.html", "report.json", "inputs.json", "versions.json")


def collect(
    work: pathlib.Path, model: pathlib.Path, folder: pathlib.Path, prompts: Sequence[pathlib.Path] = ()
) -> list[str]:
    """Write the folder and return the names of its files; SystemExit where no run is finished."""
    done = [step for step in STEPS if (work / step / "report.json").exists()]
    alone = (work / "report.json").exists()
    if not (done or alone):
        raise SystemExit(f"{work} holds neither a finished run nor a finished step of examples/real_poles/run.sh")
    names = {work: "WORKDIR", model: "MODEL"} | {path: path.name for path in prompts}
    folder.mkdir(parents=True)
    if alone:
        keep(work, folder, names)
    for step in done:
        keep(work / step, folder / step, names, command=(work / f"{step}.command").read_text(encoding="utf-8"))
    if "lvs" in done:
        write_by_kind(work, folder / "by_kind.csv")
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {path: path.name for path in (model, *prompts) if path.is_file()}
    named |= {path: path.relative_to(folder).as_posix() for path in written}
    lines = [f"{found}  {name}" for found, name in zip(sha256_of_files(named), named.values(), strict=True)]
    (folder / "hashes.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(named.values())


def keep(run: pathlib.Path, folder: pathlib.Path, names: Mapping[pathlib.Path, str], *, command: str = "") -> None:
    """Write what one finished run reports into the folder, and its command with its time; "": as the report tells."""
    folder.mkdir(exist_ok=True)
    for path in [run / name for name in KEPT] + sorted(run.glob("*.csv")):
        text = without_paths(path.read_text(encoding="utf-8"), names)
        (folder / path.name).write_text(text, encoding="utf-8")
    if not command:
        about = user_files.read_json("the run's report", run / "report.json", kind=dict)["about"]
        command = f"{about['command']}\n{about['minutes']} minutes\n"
    (folder / "command.txt").write_text(without_paths(command, names), encoding="utf-8")


def without_paths(text: str, names: Mapping[pathlib.Path, str]) -> str:
    """The text with these paths, as given and resolved, named by what they are; longest first."""
    known = {str(place): name for path, name in names.items() for place in (path, path.resolve())}
    for found in sorted(known, key=len, reverse=True):
        text = text.replace(found, known[found])
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


if __name__ == "__main__":
    work, model, folder, *prompts = map(pathlib.Path, sys.argv[1:])
    for name in collect(work, model, folder, prompts):
        print(name)
