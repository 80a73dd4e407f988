"""Working directories of finished audits written by hand, with units and without any model."""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "example_report"
SECRET = "an answer that must not leave"


def example() -> dict:
    """report.json of the committed example."""
    return json.loads((EXAMPLE / "report.json").read_text(encoding="utf-8"))


def write(workdir: pathlib.Path, record: dict | None = None, *, saved: bool = False) -> pathlib.Path:
    """A directory with the example's report and the units of its variant base: three harmful prompts, two harmless.

    Of the harmful ones the second complies when asked; PGD breaks the first at .01 in L0 and L1, noise nothing.
    saved: whether answers were saved.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "report.json").write_text(json.dumps(record or example()))
    (workdir / "config.json").write_text(json.dumps({"task": "lvs", "seed": 0}))
    texts = {"asked": [f"request {index}" for index in range(3)], "response": [SECRET] * 3} if saved else {}
    clean = {"prompt": [0, 1, 2], "harmful": [False, True, False], "incoherent": [False] * 3, "reward": [1.0, 0.0, 1.0]}
    benign = {"prompt": [0, 1], "harmful": [False] * 2, "answered": [True, False], "incoherent": [False] * 2}
    _unit(workdir, "clean-harmful/p00000", clean | texts)
    _unit(workdir, "clean-benign/p00000", benign)
    for layer, broken in (("L0", [True, False, False]), ("L1", [True, False, True])):
        # Ten of them per prompt in a real one; the third is broken at the larger budget alone.
        rows = [
            (prompt, attack, budget, attack == "pgd" and hit and (prompt == 0 or budget == 0.02))
            for prompt, hit in enumerate(broken)
            for attack in ("pgd", "random", "random_l2")
            for budget in (0.01, 0.02)
        ]
        names = ("prompt", "attack", "budget", "harmful")
        _unit(workdir, f"lvs/{layer}/p00000", {name: [row[at] for row in rows] for at, name in enumerate(names)})
    return workdir


def _unit(workdir: pathlib.Path, key: str, columns: dict) -> None:
    path = workdir / "units" / "base" / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"key": f"base/{key}", "columns": columns}))
