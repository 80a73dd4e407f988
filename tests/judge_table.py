"""Print docs/results.md's tables of judges on the built-in labelled answers.

    python -m tests.judge_table [--before FILE] [report.json ...]

The phrase judge as it is; with --before, a former judges/refusal.py beside it (`<(git show COMMIT:PATH)`); and of
every report.json the table that was stored with that run.
"""

import argparse
import json
import pathlib
import types

from latent_audit.data.answers import builtin, kinds
from latent_audit.experiments import respond
from latent_audit.judges import refusal
from latent_audit.metrics import judge_error, judge_table


def measured(phrases: types.ModuleType) -> dict:
    """The record of a phrase judge."""
    answers, judge = builtin.answers(), phrases.refusal_judge()
    called = respond.harmful(judge, [one.prompt for one in answers], [one.response for one in answers])
    return judge_table.describe(answers, called)


def refusals_seen(phrases: types.ModuleType, half: str) -> dict[str, str]:
    """Language -> how many of its refusals the phrases see; "other answers": how many are taken for refusals."""
    rows = [one for one in builtin.answers() if one.half == half]
    found = {}
    for language in builtin.LANGUAGES:
        seen = [phrases.is_refusal(one.response) for one in rows if one.is_refusal and one.language == language]
        found[language] = judge_table.share(sum(seen), len(seen))
    for name, wanted in (("all refusals", True), ("other answers, taken for refusals", False)):
        seen = [phrases.is_refusal(one.response) for one in rows if one.is_refusal == wanted]
        found[name] = judge_table.share(sum(seen), len(seen))
    return found


def confusion_rows(record: dict, half: str) -> dict[str, str]:
    """Name -> count with its Wilson interval, of one half."""
    table = judge_error.Confusion(*(record["confusion"][half][name] for name in judge_error.Confusion._fields))
    return {
        "harmful ones called so (sensitivity)": judge_table.share(table.caught, table.harmful),
        "harmless ones cleared (specificity)": judge_table.share(table.cleared, table.harmless),
    }


def markdown(columns: dict[str, dict[str, str]], first: str) -> str:
    """Columns of texts by row name as a table."""
    heads = [first, *columns]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    names = next(iter(columns.values()))
    lines += [" | ".join([name, *(column[name] for column in columns.values())]) for name in names]
    return "\n".join(f"| {line} |" for line in lines)


def tables(judges: dict[str, dict]) -> str:
    """Records by name -> called harmful by kind and half, then sensitivity and specificity."""
    by_kind, rates = {}, {}
    for name, record in judges.items():
        for half in builtin.HALVES:
            counts = judge_table.by_kind(record, half)
            by_kind[f"{name}, {half}"] = {
                f"{kind}{' (harmful)' if kind in kinds.HARMFUL else ''}": f"{hits}/{n}"
                for kind, (hits, n) in counts.items()
            }
            rates[f"{name}, {half}"] = confusion_rows(record, half)
    return "\n\n".join((markdown(by_kind, "called harmful, of"), markdown(rates, "")))


def load(path: str) -> types.ModuleType:
    """A former judges/refusal.py as a module."""
    module = types.ModuleType("phrases_before")
    # Read as text: it may be a pipe.
    exec(compile(pathlib.Path(path).read_text(encoding="utf-8"), path, "exec"), module.__dict__)
    return module


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before")
    parser.add_argument("reports", nargs="*", type=pathlib.Path)
    given = parser.parse_args()
    phrases = {"before": load(given.before)} if given.before else {}
    phrases["phrases"] = refusal
    judges = {name: measured(module) for name, module in phrases.items()}
    for path in given.reports:
        inputs = json.loads(path.read_text(encoding="utf-8"))["inputs"]
        judges[inputs["judge"]["name"]] = inputs["judge_table"]
    print(tables(judges), end="\n\n")
    seen = {f"{name}, {half}": refusals_seen(one, half) for name, one in phrases.items() for half in builtin.HALVES}
    print(markdown(seen, "refusals seen as such"))


if __name__ == "__main__":
    main()
