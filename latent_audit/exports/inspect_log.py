"""An audit as a log of Inspect (inspect_ai), plain JSON in its EvalLog form, version 2: one sample per prompt.

https://inspect.aisi.org.uk/eval-logs.html. Samples hold an id and outcomes; texts of prompts and answers only where
`answers` is set and the run saved them.
"""

import hashlib
import re
from collections.abc import Mapping

from latent_audit.errors import InputError
from latent_audit.exports import audited
from latent_audit.exports.audited import Run

VERSION = 2
ATTACK, NOISE = "pgd", "random"
# What is asked of a prompt, by its column in a unit -> the score's name. Each is 1 where it is so, else 0.
ASKED = {"harmful": "complied", "refused": "refused", "answered": "answered", "incoherent": "incoherent"}
SCORES = {
    "complied": "1: the harmful request is answered harmfully and coherently when asked",
    "refused": "1: refused when asked",
    "answered": "1: the harmless request, or the question of fact, is answered (rightly)",
    "incoherent": "1: the answer is no language",
    "reward": "harmlessness reward when asked; higher is safer",
    "break_radius": "smallest budget at which any member of the attack suite breaks the prompt; absent: none did",
}


def name(run: Run) -> str:
    """The log's file name: a time, a task and an id, as Inspect's viewer lists them; no underscore within a part."""
    task = re.sub(r"[^A-Za-z0-9]+", "-", f"latent-audit-{run.record['task']}-{run.variant}").strip("-")
    return f"{run.when.replace(':', '-')}_{task}_{_id(run, 'task')}.json"


def log(run: Run, *, answers: bool = False) -> dict:
    """The log of one variant; InputError where there are no units, or no saved answers and `answers` is set."""
    panels = audited.asked(run)
    if not panels:
        raise InputError(
            f"{run.workdir} holds no units/{run.variant}: outcomes of single prompts are not there; give the working "
            "directory of the run itself"
        )
    if answers and not any("response" in row for rows in panels.values() for row in rows):
        raise InputError(
            f"--with-answers: {run.workdir} saved no answers; run it with --config.generation.save=True in another "
            "--workdir"
        )
    broken, radii = _broken(run), _radii(run)
    samples = []
    for panel, rows in panels.items():
        for row in rows:
            scores = {score: float(row[column]) for column, score in ASKED.items() if row.get(column) is not None}
            if panel != "harmful" and not panel.startswith("wrapped"):
                scores.pop("complied", None)
            if row.get("reward") is not None:
                scores["reward"] = float(row["reward"])
            metadata: dict = {"panel": panel, "prompt": row["prompt"]}
            if panel == "harmful":
                scores |= {key: value[0] for key, value in broken.get(row["prompt"], {}).items()}
                scores |= {"break_radius": radii[row["prompt"]]} if row["prompt"] in radii else {}
                metadata["broken_at"] = {key: value[1] for key, value in broken.get(row["prompt"], {}).items()}
            samples.append(_sample(run, panel, row, scores, metadata, answers=answers))
    return {
        "version": VERSION,
        "status": "success",
        "eval": _eval(run, samples),
        "plan": {"name": "plan", "steps": [{"solver": "latent_audit", "params": {}}]},
        "results": _results(samples),
        "stats": {"started_at": run.when, "completed_at": run.when, "model_usage": {}},
        "samples": samples,
    }


def _broken(run: Run) -> dict[int, dict[str, tuple[float, list[str]]]]:
    """Prompt -> "latent_asr 0.01" or "noise_asr 0.01" -> (1 where any state gives way, which states do)."""
    found: dict[int, dict[str, tuple[float, list[str]]]] = {}
    for layer, row in audited.attacked(run):
        if row["attack"] not in (ATTACK, NOISE):
            continue
        key = f"{'latent' if row['attack'] == ATTACK else 'noise'}_asr {row['budget']:g}"
        states = found.setdefault(row["prompt"], {}).get(key, (0.0, []))[1]
        states = [*states, layer] if row["harmful"] else states
        found[row["prompt"]][key] = (float(bool(states)), states)
    return found


def _radii(run: Run) -> dict[int, float]:
    suite = run.record.get("suite", {}).get(run.variant, {"prompt": [], "radius": []})
    return {
        prompt: radius for prompt, radius in zip(suite["prompt"], suite["radius"], strict=True) if radius is not None
    }


def _sample(run: Run, panel: str, row: Mapping, scores: dict, metadata: dict, *, answers: bool) -> dict:
    own = f"{panel}-{row['prompt']}"
    text, messages, choices = f"{panel} prompt {row['prompt']} (its text is not exported)", [], []
    if answers and "response" in row:
        text = row["asked"]
        reply = {"role": "assistant", "content": row["response"], "source": "generate"}
        messages = [{"role": "user", "content": text, "source": "input"}, reply]
        choices = [{"message": reply, "stop_reason": "stop"}]
    return {
        "id": own,
        "epoch": 1,
        "uuid": _id(run, own),
        "input": text,
        "target": "",
        "messages": messages,
        "output": {"model": run.model, "choices": choices},
        "scores": {key: {"value": value} for key, value in scores.items()},
        "metadata": metadata,
    }


def _eval(run: Run, samples: list[dict]) -> dict:
    about, inputs, given = run.record["about"], run.record["inputs"], run.verdict
    harmful = inputs.get("prompts", {}).get("harmful", {})
    return {
        "eval_id": _id(run, "eval"),
        "run_id": _id(run, "run"),
        "created": run.when,
        "task": f"latent_audit {run.record['task']}",
        "task_id": _id(run, "task"),
        "task_version": about["version"],
        "dataset": {
            "name": harmful.get("source", ""),
            "samples": len(samples),
            "sample_ids": [sample["id"] for sample in samples],
        },
        "model": run.model,
        "config": {"epochs": 1, "log_samples": True},
        "packages": {"latent_audit": about["version"]},
        "metadata": {
            "verdict": given["label"],
            "sentence": given["sentence"],
            "reason": given["reason"],
            "rule": given["rule"],
            # With their intervals, which the means below do not have.
            "budgets": given["rows"],
            "warnings": run.record["warnings"],
            "judge": inputs.get("judge", {}),
            "reward": inputs.get("reward", {}),
            "seed": about["seed"],
            "scores": SCORES
            | {"latent_asr B": "1: the latent attack of budget B breaks it at some state; noise_asr B: noise does"},
        },
    }


def _results(samples: list[dict]) -> dict:
    names = list(dict.fromkeys(key for sample in samples for key in sample["scores"]))
    told = []
    for score in names:
        values = [sample["scores"][score]["value"] for sample in samples if score in sample["scores"]]
        told.append(
            {
                "name": score,
                "scorer": score,
                "scored_samples": len(values),
                "unscored_samples": len(samples) - len(values),
                "metrics": {"mean": {"name": "mean", "value": sum(values) / len(values)}},
            }
        )
    return {"total_samples": len(samples), "completed_samples": len(samples), "scores": told}


def _id(run: Run, what: str) -> str:
    """22 letters that the same run gives again."""
    prints = run.record["inputs"].get("variants", {}).get(run.variant, {}).get("fingerprint", "")
    told = "\0".join((prints, run.record["about"]["date"], run.record["about"]["command"], run.variant, what))
    return hashlib.sha256(told.encode()).hexdigest()[:22]
