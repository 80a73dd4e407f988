"""A safety regression test for pipelines: has RAS dropped between two checkpoints of one family?

docs/method.md section 10 [O]. Exit status: 0 no, 3 yes, 2 bad input, 1 internal failure.
"""

import pathlib

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from latent_audit.errors import InputError
from latent_audit.experiments.ras import calibration_file, frozen, tables
from latent_audit.experiments.settings import check_batches
from latent_audit.metrics import calibration, stats
from latent_audit.reports import html
from latent_audit.runtime import files, runlog

REGRESSION = 3


def run(config: ConfigDict, workdir: pathlib.Path) -> int:
    """Compare config.before with config.after; write ras.csv and both reports, print one line.

    Returns 0, or REGRESSION where RAS dropped by more than config.threshold points.
    """
    check(config)
    known = calibration_file.load(config.calibration_file)
    own = config.copy_and_resolve_references()
    # A model may be compared with itself: what a pipeline does first.
    own.targets = ",".join(dict.fromkeys(one.strip() for one in (config.before, config.after)))
    group, half = frozen.prepare(own, known)
    runlog.pin(workdir / "inputs.json", frozen.describe(own, group, known))
    scored = [frozen.score(own, known, half, model) for model in group.models]
    before, after = scored[0], scored[-1]
    fell = before.row["ras"] - after.row["ras"]
    lo, hi = interval(before.scores, after.scores, known, resamples=config.score.resamples, seed=config.seed)
    regressed = fell > config.threshold
    line = (
        f"RAS {before.row['ras']:.1f} -> {after.row['ras']:.1f}: drop {fell:.1f} (95 % interval {lo:.1f} to "
        f"{hi:.1f}), allowed {config.threshold:g}: {'SAFETY REGRESSION' if regressed else 'no regression'}"
    )
    _write(
        workdir,
        before,
        after,
        line,
        {"drop": fell, "lo": lo, "hi": hi, "threshold": float(config.threshold), "regressed": bool(regressed)},
        known,
    )
    print(line, flush=True)
    return REGRESSION if regressed else 0


def check(config: ConfigDict) -> None:
    """InputError for a bad field, before any model is looked at."""
    check_batches(config)
    for field in ("before", "after", "calibration_file"):
        if not config[field].strip():
            raise InputError(
                f"{field} is empty. Give two checkpoints of one family as before and after, and the "
                "family's calibration as calibration_file, such as runs/ras/calibration/llama.json, which "
                "configs/ras.py writes"
            )
        if field != "calibration_file" and "," in config[field]:
            raise InputError(f"{field} = {config[field]!r}, expected one checkpoint")
    threshold = config.threshold
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold < 100:
        raise InputError(f"threshold = {threshold!r}, expected points of RAS, at least 0 and below 100")


def interval(before, after, frozen: calibration_file.Frozen, *, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of RAS(before) - RAS(after) over prompts, drawn once for both; the scale is held fixed.

    before, after: safevec.PromptScores on the same prompts, jailbreak prompt i wrapping unsafe prompt i.
    """
    rows = stats.resampled_rows(len(before.unsafe), resamples, seed)

    def resampled(scores):
        s = 0.5 * (scores.unsafe[rows].mean(axis=1) + scores.jailbreak[rows].mean(axis=1))
        return calibration.ras(frozen.family.s_ref - s, frozen.family.b, frozen.gamma)

    lo, hi = np.quantile(resampled(before) - resampled(after), (0.025, 0.975))
    return float(lo), float(hi)


def _write(workdir, before, after, line, found, frozen) -> None:
    table = pd.DataFrame([before.row, after.row]).assign(kind=["before", "after"])
    table = table[[*tables.COLUMNS, *(name for name in table.columns if name not in tables.COLUMNS)]]
    files.write_text(workdir / "ras.csv", table.to_csv(index=False, lineterminator="\n"))
    files.write_json(
        workdir / "report.json", {"schema": 1, "task": "ras_regression", **found, "scores": html.records(table)}
    )
    html.render_report(
        workdir / "report.html",
        title="Safety regression test",
        headline=line,
        verdicts=[],
        facts={
            "reference": frozen.family.reference.name,
            "family": frozen.identity.family,
            "threshold": found["threshold"],
            "protocol": frozen.protocol,
            "dtype": frozen.identity.dtype,
        },
        sections=[
            html.Section(
                title="Before and after",
                table=table[["kind", "model", "unsafe", "jailbreak", "s", "drop", "ras", "ras_lo", "ras_hi"]],
                text="The verdict is by the drop itself; its interval is over prompts, drawn once for both "
                "(docs/method.md section 10).",
                limits=tables.LIMITS,
            )
        ],
    )
