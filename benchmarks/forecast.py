"""Whether what a run says of its time is true: the range of --dry-run, and the time left a quarter, half and three
quarters of the way.

    python -m benchmarks.forecast                         five runs on the embedded organism, half an hour
    python -m benchmarks.forecast --checkpoint=FILE.gguf  and a quick look at a checkpoint
    python -m benchmarks.forecast --only=lvs,audit

Each run is main.py twice in processes of their own and an empty workdir: --dry-run, then the run. The time left is read
from its log and compared with what was then left, compilation left out of both, as the log says it. Writes
docs/forecast.json and prints the table; exit status 1 where a range does not hold the time or a time left is wrong by
more than 35 %.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ALLOWED, MOMENTS = 0.35, (0.25, 0.5, 0.75)
RUNS = {
    "lvs": ["lvs"],
    "audit": ["audit", "--quick"],
    "finetune": ["finetune"],
    "abliterate": ["abliterate"],
    "ras": ["ras"],
}
CHECKPOINT = ["lvs", "--quick", "--config.judge.kind=refusal", "--config.reward.kind=refusal"]
LEFT = re.compile(r"(\d+) s left in all(?: \((\d+) s of \d+ were compilation\))?")
SPAN = re.compile(r"on this machine about (\S+ \S+) to (\S+ \S+) \(")
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="", help="a checkpoint that a quick look is taken at")
    parser.add_argument("--only", default="", help="some of the runs, separated by commas")
    parser.add_argument("--work", default="", help="where workdirs go and stay; default: nowhere")
    parser.add_argument("--out", default="docs", help="directory for forecast.json")
    options = parser.parse_args(argv)
    runs = dict(RUNS)
    if options.checkpoint:
        runs["checkpoint"] = [*CHECKPOINT, f"--config.model.path={options.checkpoint}"]
    chosen = [name for name in options.only.split(",") if name] or list(runs)
    found = []
    for name in chosen:
        found.append({"run": name, **measure(runs[name], options.work and f"{options.work}/{name}")})
        print(json.dumps(found[-1]), flush=True)
    path = pathlib.Path(options.out) / "forecast.json"
    path.write_text(json.dumps({"allowed": ALLOWED, "runs": found}, indent=2) + "\n", encoding="utf-8")
    print(table(found))
    return 0 if all(map(is_true, found)) else 1


def measure(words: list[str], workdir: str = "") -> dict:
    """One run: what it said before and while it ran, and what was so; workdir: "" for one that is removed."""
    task, *flags = words
    with tempfile.TemporaryDirectory() as directory:
        where = workdir or f"{directory}/run"
        command = [sys.executable, "main.py", f"--config=configs/{task}.py", f"--workdir={where}", *flags]
        said = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True)
        least, most = (seconds_of(words) for words in SPAN.search(said.stdout).groups())
        began, lines = time.monotonic(), []
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            lines.append((time.monotonic() - began, line))
        if process.wait():
            raise SystemExit("".join(line for _, line in lines[-20:]))
        whole = time.monotonic() - began
        if workdir:
            text = "".join(f"{at:7.1f} {line}" for at, line in lines)
            pathlib.Path(workdir, "said.log").write_text(text, encoding="utf-8")
    # Of a path the last part: where it lies is of this machine alone.
    named = [re.sub(r"=.*/", "=", word) for word in words]
    return {"command": " ".join(named), "least": least, "most": most, "seconds": whole, **moments(lines, whole)}


def seconds_of(words: str) -> float:
    """ "12 min" -> 720.0"""
    number, unit = words.split()
    return float(number) * UNITS[unit]


def moments(lines: list[tuple[float, str]], whole: float) -> dict:
    """The time left that was said nearest to each of MOMENTS, and what was left then; compilation left out."""
    told, compiled = [], 0.0
    for at, line in lines:
        if found := LEFT.search(line):
            compiled = float(found[2]) if found[2] else compiled
            told.append((at - compiled, float(found[1])))
    worked = whole - compiled
    found = {"compiled": compiled, "left": []}
    for share in MOMENTS:
        at, said = min(told, key=lambda one: abs(one[0] - share * worked))
        found["left"].append({"at": at / worked, "said": said, "true": worked - at})
    return found


def error(moment: dict) -> float:
    """By how much of what was left the time said was wrong."""
    return moment["said"] / moment["true"] - 1


def is_true(run: dict) -> bool:
    """Whether the range held the time and every time left is within ALLOWED."""
    return run["least"] <= run["seconds"] <= run["most"] and all(
        abs(error(moment)) <= ALLOWED for moment in run["left"]
    )


def table(runs: list[dict]) -> str:
    """What came out, as Markdown."""
    rows = [
        "| run | said before | took | of it compiling | time left, said / true, at 25, 50, 75 % |",
        "|---" * 5 + "|",
    ]
    for run in runs:
        left = ", ".join(f"{one['said']:.0f} / {one['true']:.0f} s ({error(one):+.0%})" for one in run["left"])
        rows.append(
            f"| `{run['command']}` | {run['least']:.0f} to {run['most']:.0f} s | {run['seconds']:.0f} s | "
            f"{run['compiled']:.0f} s | {left} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
