"""One table of audits kept as evidence: `python -m examples.evidence_table FOLDER ...` prints it as Markdown.

FOLDER: as examples/evidence.py writes it, of audits. A column for each variant of each, named by the folder, every
number read from report.json; docs/results.md opens with it, and a test compares the two. Intervals: docs/method.md
section 8.
"""

import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latent_audit import user_files
from latent_audit.experiments.audit.card.verdicts import ALL_WRAPPERS

Line = Mapping[str, Any]
ROWS = (
    "label; by its counts alone",
    "complies when asked",
    "the same with the judge's errors taken out",
    "complies in a wrapper",
    "answers harmless requests",
    "one fixed target: worst state and budget",
    "coherent answers there [uniform noise complies]",
    "attack suite: prompts broken",
    "break radius, median",
    "gates of a robust label",
    "minutes; processor",
    "evidence",
)


def table(folders: Sequence[pathlib.Path], *, link: str = "evidence/") -> str:
    """Markdown of all audits in these folders, models side by side; link: what stands before a folder's name."""
    columns = [column for folder in folders for column in _columns(folder, link)]
    head = ["", *(name for name, _ in columns)]
    lines = [head, ["---"] * len(head)]
    lines += [[row, *(cells[place] for _, cells in columns)] for place, row in enumerate(ROWS)]
    return "\n".join("| " + " | ".join(line).strip() + " |" for line in lines) + "\n"


def _columns(folder: pathlib.Path, link: str) -> Iterable[tuple[str, list[str]]]:
    report = user_files.read_json("the report", folder / "report.json", kind=dict)
    about, name = report["about"], re.sub(r"^\d{4}-\d\d-\d\d-", "", folder.name)
    for variant, verdict in report["verdicts"].items():
        lines = [line for line in report["lines"] if line["variant"] == variant]
        asked = _one(lines, "clean_compliance")
        worst = _worst(lines)
        cells = [
            verdict["label"] + (f"; {verdict['by_counts']}" if verdict.get("by_counts") else ""),
            _share(asked),
            _corrected(asked),
            _share(_one(lines, "jailbreak_asr", ALL_WRAPPERS)),
            _share(_one(lines, "benign_answer_rate")),
            f"{_share(worst)} at {worst['layer']}, {worst['budget']:g}" if worst else "none",
            f"{1 - worst['incoherent']:.2f} [{worst['control']:.2f}]" if worst else "",
            _fallen(lines),
            _radius(_one(lines, "break_radius")),
            _gates(report, variant),
            f"{about['minutes']:g}; {about['hardware']['host_cpus']} cores",
            f"[{folder.name}]({link}{folder.name}/report.html)",
        ]
        yield name if len(report["verdicts"]) == 1 else f"{name}: {variant}", cells


def _one(lines: Sequence[Line], measure: str, detail: str | None = None) -> Line | None:
    found = [line for line in lines if line["measure"] == measure and (detail is None or line["detail"] == detail)]
    return found[0] if found else None


def _worst(lines: Sequence[Line]) -> Line | None:
    """Of the cells whose answers are language, the one that most prompts fell in."""
    cells = [line for line in lines if line["measure"] == "latent_asr" and not line["beyond_language"]]
    return max(cells, key=lambda line: line["value"], default=None)


def _share(line: Line | None) -> str:
    if line is None or line["value"] is None:
        return "not measured"
    return f"{round(line['value'] * line['n'])} of {line['n']} ({line['lo']:.2f}-{line['hi']:.2f})"


def _corrected(line: Line | None) -> str:
    if line is None or line.get("corrected") is None:
        return "not measured"
    return f"{line['corrected']:.2f} ({line['corrected_lo']:.2f}-{line['corrected_hi']:.2f})"


def _fallen(lines: Sequence[Line]) -> str:
    cells = [line for line in lines if line["measure"] == "suite_asr"]
    return f"{_share(cells[-1])} up to {cells[-1]['budget']:g}" if cells else "not measured"


def _radius(line: Line | None) -> str:
    if line is None:
        return "not measured"
    if line["value"] == 0:
        return "0: complies when asked"
    ends = ["none" if line[end] is None else f"{line[end]:.3g}" for end in ("value", "lo", "hi")]
    return f"{ends[0]} ({ends[1]}-{ends[2]})"


def _gates(report: Mapping[str, Any], variant: str) -> str:
    gates = report.get("suite", {}).get(variant, {}).get("gates")
    if not gates:
        return "not measured"
    failed = [name for name, passed, _ in gates if not passed]
    return f"{len(gates) - len(failed)} of {len(gates)}" + (f"; failed: {', '.join(failed)}" if failed else "")


if __name__ == "__main__":
    print(table([pathlib.Path(word) for word in sys.argv[1:]]), end="")
