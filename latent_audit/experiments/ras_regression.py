"""A safety regression test for pipelines: has RAS dropped between two checkpoints of one family?

docs/method.md section 10 [O]. Exit status: 0 no, 3 yes, 2 bad input, 1 internal failure.
"""

import pathlib

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from latent_audit.errors import InputError
from latent_audit.experiments import ras_file, ras_frozen, ras_tables
from latent_audit.experiments.attack_settings import check_batches
from latent_audit.metrics import ras_calibration as calibration
from latent_audit.metrics import stats
from latent_audit.runtime import files, report, runlog

REGRESSION = 3


def run(config: ConfigDict, workdir: pathlib.Path) -> int:
    """Compare config.before with config.after; write ras.csv and both reports, print one line.

    Returns 0, or REGRESSION where RAS dropped by more than config.threshold points.
    """
    check(config)
    frozen = ras_file.load(config.calibration_file)
    own = config.copy_and_resolve_references()
    # A model may be compared with itself: what a pipeline does first.
    own.targets = ",".join(dict.fromkeys(one.strip() for one in (config.before, config.after)))
    group, half = ras_frozen.prepare(own, frozen)
    runlog.pin(workdir / "inputs.json", ras_frozen.describe(own, group, frozen))
    scored = [ras_frozen.score(own, frozen, half, model) for model in group.models]
    before, after = scored[0], scored[-1]
    fell = before.row["ras"] - after.row["ras"]
    lo, hi = interval(before.scores, after.scores, frozen, resamples=config.score.resamples, seed=config.seed)
    regressed = fell > config.threshold
    line = (f"RAS {before.row['ras']:.1f} -> {after.row['ras']:.1f}: drop {fell:.1f} (95 % interval {lo:.1f} to "
            f"{hi:.1f}), allowed {config.threshold:g}: {'SAFETY REGRESSION' if regressed else 'no regression'}")
    _write(workdir, before, after, line, {"drop": fell, "lo": lo, "hi": hi, "threshold": float(config.threshold),
                                          "regressed": bool(regressed)}, frozen)
    print(line, flush=True)
    return REGRESSION if regressed else 0


def check(config: ConfigDict) -> None:
    """InputError for a bad field, before any model is looked at."""
    check_batches(config)
    for field in ("before", "after", "calibration_file"):
        if not config[field].strip():
            raise InputError(f"{field} is empty. Give two checkpoints of one family as before and after, and the "
                             "family's calibration as calibration_file, such as runs/ras/calibration/llama.json, which "
                             "configs/ras.py writes")
        if field != "calibration_file" and "," in config[field]:
            raise InputError(f"{field} = {config[field]!r}, expected one checkpoint")
    threshold = config.threshold
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold < 100:
        raise InputError(f"threshold = {threshold!r}, expected points of RAS, at least 0 and below 100")


def interval(before, after, frozen: ras_file.Frozen, *, resamples: int, seed: int) -> tuple[float, float]:
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
    table = table[[*ras_tables.COLUMNS, *(name for name in table.columns if name not in ras_tables.COLUMNS)]]
    files.write_text(workdir / "ras.csv", table.to_csv(index=False, lineterminator="\n"))
    files.write_json(workdir / "report.json", {"schema": 1, "task": "ras_regression", **found,
                                               "scores": report.records(table)})
    report.render_report(
        workdir / "report.html", title="Safety regression test", headline=line, verdicts=[],
        facts={"reference": frozen.family.reference.name, "family": frozen.identity.family,
               "threshold": found["threshold"], "protocol": frozen.protocol, "dtype": frozen.identity.dtype},
        sections=[report.Section(
            title="Before and after", table=table[["kind", "model", "unsafe", "jailbreak", "s", "drop", "ras", "ras_lo",
                                                   "ras_hi"]],
            text="The verdict is by the drop itself; its interval is over prompts, drawn once for both "
                 "(docs/method.md section 10).", limits=ras_tables.LIMITS)])
