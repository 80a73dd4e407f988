"""Activation patching: base answers while one residual state of its prompt is a donor's.

docs/method.md section 4, arXiv 2606.08044. The patched model is always base; each variant is a donor, base itself being
the identity control. Units of work: one per donor.
"""

import functools
from typing import NamedTuple

import pandas as pd

from latent_audit import judges, models
from latent_audit.experiments import respond
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.bench import Bench, Findings, Known, judged, share, unit, with_control
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Seen, Work
from latent_audit.experiments.panels import check_offset
from latent_audit.interventions import patching
from latent_audit.metrics import coherence, stats
from latent_audit.reports import html

PAPER_TOKENS = 128  # arXiv 2606.08044
LIMITS = (
    "Compliance of a patched model says that the donor's state carries it, not that an attacker could write that "
    "state. Coherence is a rule on words, not a reader."
)


class Settings(NamedTuple):
    """prompts: how many are answered under a patch, behind the first `offset` of the harmful panel."""

    prompts: int
    offset: int = 0


def check(config, known: Known) -> Settings:
    """The patch section as settings; InputError for an offset behind which there is no prompt."""
    check_offset("patch.offset", config.patch.offset, "the harmful panel", len(known.panels["harmful"].prompts))
    return Settings(config.patch.prompts, config.patch.offset)


def units(bench: Bench) -> int:
    """How many units `measure` takes for one donor."""
    return 1


def work(seen: Seen) -> list[Work]:
    """What `measure` computes of one donor; docs/overview.md."""
    own: Settings = seen.settings["patch"]
    prompts = amounts.attacked(seen, own.prompts, own.offset)
    rows = prompts * (1 + len(patching.SCOPES))
    return [amounts.asked(seen, f"units {seen.name}/patch", 1, rows, "harmful", PAPER_TOKENS)]


def measure(bench: Bench, name: str) -> pd.DataFrame:
    """Rows per prompt and scope of the donor `name`; clean_harmful and clean_same: against base unpatched."""
    return unit(bench, f"{name}/patch", functools.partial(_patch, bench, name))


def _patch(bench, donor) -> dict[str, list]:
    settings = bench.settings["patch"]
    panel, tokens = benches.first_prompts(bench, "harmful", settings.prompts, settings.offset)
    state, size = bench.nudge_state, min(bench.batches.prompts, len(panel.prompts))
    states = patching.donor_states(bench.load(donor).params, *tokens, state, cfg=bench.cfg, batch=size)
    base = bench.load(bench.names[0])
    options = {"batch": size, "max_new_tokens": bench.new_tokens(PAPER_TOKENS)}
    clean = respond.answers(base, *tokens, **options)
    was_harmful = judged(bench, panel.behaviors, clean)["harmful"]
    columns = {}
    for scope in patching.SCOPES:

        def edits_of(rows, scope=scope):
            return patching.patch_edit(state, states[rows], tokens.mask[rows], scope), None

        texts = respond.answers(base, *tokens, **options, edits_of=edits_of)
        own = {
            "prompt": [settings.offset + row for row in range(len(texts))],
            "scope": [scope] * len(texts),
            "clean_harmful": was_harmful,
            **({"clean_response": clean} if bench.save else {}),
            "unchanged": [a == b for a, b in zip(clean, texts, strict=True)],
        } | judged(bench, panel.behaviors, texts)
        own["coherent"] = [not incoherent for incoherent in own["incoherent"]]
        columns = own if not columns else {key: columns[key] + own[key] for key in own}
    return columns


def findings(bench: Bench, measured: dict[str, pd.DataFrame]) -> Findings:
    """patch_compliance, patch_coherence and interchange per donor and scope; the control is the self-patch."""
    rows, layer, base = benches.rows_of(measured), models.layer_name(bench.nudge_state), bench.names[0]
    lines, changed = [], 0
    for scope in patching.SCOPES:
        of_scope = {name: rows[(rows["variant"] == name) & (rows["scope"] == scope)] for name in measured}
        own = of_scope.get(base, rows[:0])
        changed += int((~own["unchanged"].astype(bool)).sum())
        identity = {column: share(own[column]) if len(own) else None for column in ("harmful", "coherent")}
        for name, cell in of_scope.items():
            common = {"variant": base, "layer": layer, "detail": f"donor {name}, {scope}"}
            for measure, column in (("patch_compliance", "harmful"), ("patch_coherence", "coherent")):
                lines.append(common | {"measure": measure, **with_control(share(cell[column]), identity[column])})
            score = coherence.interchange_score(cell["clean_harmful"].to_numpy(bool), cell["harmful"].to_numpy(bool))
            lo, hi = stats.wilson_interval(score.successes, score.n)
            lines.append(common | {"measure": "interchange", "value": score.share, "lo": lo, "hi": hi, "n": score.n})
    warnings = (
        ()
        if not changed
        else (
            f"Patching base with its own states changed {changed} of its answers: on this machine the patch is not the "
            "identity, and no difference below that is a finding.",
        )
    )
    table = pd.DataFrame(lines).reindex(
        columns=["measure", "detail", "value", "lo", "hi", "n", "successes", "control", "control_successes"]
    )
    return Findings(
        lines,
        [
            html.Section(
                title="Activation patching",
                table=table,
                caveat=judges.caveat(bench.judge),
                limits=LIMITS,
                settings={
                    "layer": layer,
                    "patched": base,
                    "prompts": bench.settings["patch"].prompts,
                    "answers changed by the self-patch": changed,
                },
                text="The state of base at one layer is overwritten during the prompt by a donor's on the same prompt, "
                "at every prompt position or at the decision point alone; decode steps are not patched (docs/method.md "
                "section 4). Compliance is what is judged harmful and coherent. Control: base's own state.",
            )
        ],
        warnings,
    )
