"""An audit as a section of a model card, with its numbers as evaluation results of the hub's metadata.

The form is that of huggingface_hub's ModelCardData and EvalResult (model-index). No prompt and no answer stands in it.
"""

import html
import re
from collections.abc import Sequence

from latent_audit import text as texts
from latent_audit.exports.audited import Run
from latent_audit.text import counted, interval

BEGIN, END = "<!-- latent_audit: begin -->", "<!-- latent_audit: end -->"
TAGS = ("latent-audit", "safety")
SOURCE, SOURCE_URL = "latent_audit", "https://arxiv.org/abs/2606.08044"
TASK = "text-generation"
# Measures of audit.csv that are told of a model as a whole: measure -> (name, detail of its line).
WHOLE = {
    "clean_compliance": ("complies when asked", None),
    "jailbreak_asr": ("complies in a wrapper, all wrappers", "all wrappers"),
    "benign_answer_rate": ("answers harmless requests", None),
    "facts_right": ("questions of fact answered rightly", None),
    "over_refusal": ("refuses harmless requests that look harmful", None),
    "break_radius": ("break radius, median over prompts", None),
}
LIMITS = (
    "The bounds speak of further prompts of this kind and of the attacks that were run, not of other attacks or of "
    "use. An answer counts as harmful where the judge above says so."
)


def card(run: Run) -> str:
    """The whole text: YAML front matter, then `section`."""
    return f"---\n{front_matter(run)}---\n\n# {_plain(run.model)}\n\n{section(run)}"


def front_matter(run: Run) -> str:
    """tags and model-index as YAML, by huggingface_hub itself."""
    from huggingface_hub import ModelCardData

    return ModelCardData(model_name=run.model, eval_results=results(run), tags=list(TAGS)).to_yaml() + "\n"


def results(run: Run) -> list:
    """EvalResult of every number that the section tells; shares from 0 to 1, each with its interval and n."""
    from huggingface_hub import EvalResult

    harmful = _panel(run, "harmful")
    common = {
        "task_type": TASK,
        "dataset_type": _slug(harmful["source"]),
        "dataset_name": texts.printable(harmful["source"]),
        "dataset_args": {"n": harmful["n"], "sha256": harmful["sha256"]},
        "source_name": SOURCE,
        "source_url": SOURCE_URL,
    }
    judge = texts.printable(run.record["inputs"].get("judge", {}).get("name", ""))
    found = []
    for measure, name, line in _whole(run):
        arguments = {"lower": line["lo"], "upper": line["hi"], "n": line["n"], "judge": judge}
        found.append(
            EvalResult(
                metric_type=measure, metric_name=name, metric_value=line["value"], metric_args=arguments, **common
            )
        )
    for row in run.verdict["rows"]:
        if not row["n"] or row["broken"] is None:
            continue
        arguments = {"budget": row["budget"], "lower": row["lo"], "upper": row["hi"], "n": row["n"], "judge": judge}
        found.append(
            EvalResult(
                metric_type="attack_success_rate",
                metric_name=f"attack success rate, budget {row['budget']:g}",
                metric_value=row["broken"] / row["n"],
                metric_args=arguments,
                **common,
            )
        )
    return found


def section(run: Run) -> str:
    """The Markdown between BEGIN and END: verdict, numbers, budgets, gates, what it rests on, how to reproduce it."""
    given, about = run.verdict, run.record["about"]
    parts = [
        BEGIN,
        "## Latent audit",
        f"**{_plain(run.model)}: {_plain(given['label'])}.** {_plain(given['sentence'])}",
        _plain(given["reason"]),
        *(f"> {_plain(warning)}" for warning in run.record["warnings"]),
        _table(
            ("measured", "value", "95 % interval", "control"),
            [[one[key] for key in ("name", "value", "interval", "control")] for one in given["numbers"]],
        ),
        _budgets(given["rows"]),
        _gates(given["gates"]),
        _rests_on(run),
        "### How to reproduce",
        _fence(str(about["command"])),
        _table(
            ("run", ""),
            [
                ["date", about["date"]],
                ["version", f"latent_audit {about['version']}"],
                ["seed", about["seed"]],
                ["device", about["hardware"].get("device", "")],
                *[[f"hash, {name}", value] for name, value in _hashes(run)],
            ],
        ),
        "### Limits",
        LIMITS,
        "<details><summary>The rule of the label</summary>",
        *map(_plain, given["rule"].split("\n\n")),
        "</details>",
        END,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _whole(run: Run) -> list[tuple[str, str, dict]]:
    """(measure, name, line) of WHOLE, as far as they were measured."""
    found = []
    for measure, (name, detail) in WHOLE.items():
        lines = [one for one in run.lines if one["measure"] == measure and detail in (None, one["detail"])]
        if lines and lines[0]["value"] is not None:
            found.append((measure, name, lines[0]))
    if not any(measure == "clean_compliance" for measure, *_ in found):
        # The latent attack alone says it in metrics.csv.
        for one in run.record.get("metrics", []):
            if one["variant"] == run.variant and one["exp"] == "clean":
                ends = {
                    "value": one["compliance"],
                    "lo": one["compliance_lo"],
                    "hi": one["compliance_hi"],
                    "n": one["n"],
                }
                found.insert(0, ("clean_compliance", WHOLE["clean_compliance"][0], ends))
    return found


def _budgets(rows: Sequence[dict]) -> str:
    told = []
    for row in rows:
        known = row["broken"] is not None and row["n"]
        ends = (row["lo"], row["hi"])
        share = counted(row["broken"], row["n"]) if known else "not measured"
        told.append([f"{row['budget']:g}", share, interval(*ends) if None not in ends else "", row["label"]])
    return _table(("budget", "give way", "95 % bounds", "label"), told)


def _gates(gates: Sequence[dict]) -> str:
    if not gates:
        return ""
    failed = [one for one in gates if not one["passed"]]
    told = f"Gates, which say whether the attack suite could have found anything: {len(gates) - len(failed)} of "
    told += f"{len(gates)} passed"
    return _plain(told + (f"; not passed: {'; '.join(one['name'] for one in failed)}." if failed else "."))


def _rests_on(run: Run) -> str:
    inputs = run.record["inputs"]
    rows = [
        [kind, inputs[kind]["name"] + (" (fallback)" if inputs[kind].get("is_fallback") else ""), ""]
        for kind in ("judge", "reward")
        if inputs.get(kind, {}).get("name")
    ]
    rows += [[f"prompts, {name}", f"{one['n']}, {one['source']}", one["sha256"]] for name, one in _panels(run).items()]
    return _table(("rests on", "", "SHA-256"), rows)


def _panels(run: Run) -> dict[str, dict]:
    return {name: one for name, one in run.record["inputs"].get("prompts", {}).items() if "sha256" in one}


def _panel(run: Run, name: str) -> dict:
    return _panels(run).get(name, {"source": "unknown prompts", "n": 0, "sha256": ""})


def _hashes(run: Run) -> list[tuple[str, str]]:
    own = run.record["inputs"].get("variants", {}).get(run.variant, {})
    return [
        (name, str(own[name])) for name in ("fingerprint", "template_sha256", "quantization", "adapter") if name in own
    ]


def _slug(source: str) -> str:
    """The hub id of a data set from the hub, else its source as one word.

    >>> _slug("hub:walledai/HarmBench"), _slug("the organism's evaluation split")
    ('walledai/HarmBench', 'the-organism-s-evaluation-split')
    """
    of_hub = re.match(r"hub:([\w.-]+/[\w.-]+)", source)
    return of_hub[1] if of_hub else re.sub(r"[^A-Za-z0-9]+", "-", source).strip("-").lower() or "prompts"


def _plain(value: object) -> str:
    """Text of ours and of others that Markdown and HTML show as it is, in one line."""
    shown = html.escape(" ".join(texts.printable(str(value)).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", shown)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *([_plain("" if cell is None else cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fence(command: str) -> str:
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", command)), default=0))
    return f"{ticks}sh\n{texts.printable(command)}\n{ticks}"
