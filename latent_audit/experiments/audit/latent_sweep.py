"""The main job's attack on every residual state, as one experiment of an audit.

docs/method.md section 1; the units of work, the table and the comparisons are those of lvs.py and lvs_report.py.
"""

import pandas as pd

from latent_audit import judges, models
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit import latent, latent_report
from latent_audit.experiments.audit.bench import Bench, Findings
from latent_audit.metrics import lvs as metric
from latent_audit.reports import figures
from latent_audit.runtime import files

PAPER_TOKENS = 128  # arXiv 2606.08044


def _job(bench: Bench) -> latent.Job:
    return latent.Job(
        bench.config,
        bench.workdir,
        bench.settings,
        bench.subject,
        bench.judge,
        bench.reward,
        benches.new_tokens(bench, PAPER_TOKENS),
    )


def _count(bench):
    return min(bench.config.attack.prompts, len(bench.panels["harmful"].prompts))


def units(bench: Bench) -> int:
    """How many units `measure` takes for one variant."""
    return -(-_count(bench) // bench.config.prompt_batch) * (1 + len(bench.settings.states))


def measure(bench: Bench, name: str) -> pd.DataFrame:
    """The rows of the main job for one variant: clean answers and every attacked cell."""
    variant = next(one for one in bench.subject.variants if one.name == name)
    encoded = [benches.first_prompts(bench, "harmful", _count(bench))]
    found = latent.audit_variant(_job(bench), variant, encoded, bench, loaded=lambda: bench.load(name))
    return pd.concat(found, ignore_index=True)


def table(bench: Bench, rows: pd.DataFrame, inputs: dict) -> pd.DataFrame:
    """The table of metrics.csv."""
    return latent_report.summarise(rows, _job(bench), inputs, bench.cfg.num_layers)


def findings(bench: Bench, rows: pd.DataFrame, inputs: dict) -> Findings:
    """lvs and latent_asr per state and budget, the comparison with base; writes metrics.csv and the figure by depth."""
    metrics = table(bench, rows, inputs)
    files.write_text(bench.workdir / "metrics.csv", metrics.to_csv(index=False, lineterminator="\n"))
    cells = metrics[metrics["exp"] == "lvs"]
    attacked, noise = (
        cells[cells["attack"] == kind].set_index(["variant", "layer", "budget"]) for kind in ("pgd", "random")
    )
    lines = []
    for key, cell in attacked.iterrows():
        control = noise.loc[key] if key in noise.index else None
        for measure, column in (("lvs", "lvs"), ("latent_asr", "asr")):
            line = dict(zip(("variant", "layer", "budget"), key, strict=True)) | {
                "measure": measure,
                "value": cell[column],
                "lo": cell[f"{column}_lo"],
                "hi": cell[f"{column}_hi"],
                "n": cell["n"],
                "detail": "" if cell["aggregated"] else "last state, not aggregated",
                "nll_first": cell["nll_first"],
                "nll_last": cell["nll_last"],
                "fell": cell["fell"],
                "at_bound": cell["at_bound"],
            }
            if control is not None:
                line |= {
                    "control": control[column],
                    "control_lo": control[f"{column}_lo"],
                    "control_hi": control[f"{column}_hi"],
                }
            lines.append(line)
    compared = latent_report.compare_variants(rows, _job(bench), bench.cfg.num_layers)
    at_place = models.layer_name(bench.place().state)
    for line in compared.to_dict("records"):
        if line["layer"] == at_place:
            common = {"variant": line["variant"], "layer": line["layer"], "budget": line["budget"], "n": line["n"]}
            lines += [
                common
                | {
                    "measure": f"lvs_{kind}",
                    "detail": f"mean LVS against {line['against']}",
                    "value": line[kind],
                    "lo": line[f"{kind}_lo"],
                    "hi": line[f"{kind}_hi"],
                }
                for kind in ("difference", "ratio")
            ]
    aggregate = metric.PRESETS[bench.config.score.preset].aggregate
    svg = figures.save_figure(
        figures.lvs_by_depth(metrics, aggregate=aggregate), bench.workdir / "figures", "lvs_by_depth"
    )
    return Findings(
        lines,
        latent_report.sections_of(_job(bench), metrics, compared, svg, judges.caveat(bench.judge, bench.reward)),
        tuple(latent_report.weak_attacks(metrics)),
    )
