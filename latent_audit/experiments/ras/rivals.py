"""What RAS is compared with on every model: the latent attack, the L2 attack, the probe, the separation score.

docs/method.md sections 1, 2, 7 and 10. The attacks are the audit's own experiments on a bench of all members of one
family, whose place is the nudge of the dissociated member (without one, block round(0.5 L) and [P1]'s fraction).
"""

import dataclasses

import pandas as pd

from latent_audit import models
from latent_audit.data import chats
from latent_audit.experiments import respond, setup
from latent_audit.experiments.audit import bench, l2, latent, latent_report
from latent_audit.experiments.organisms import probes
from latent_audit.interventions import dissociate
from latent_audit.metrics import separation


def check(config, num_layers: int, chat: chats.Chat, *, is_organism: bool) -> dict[str, object]:
    """Experiment -> settings of the attacks; InputError for a bad field of attack, l2 or place, before any compute.

    chat: the reference's.

    attack.layers may be nudge here.
    """
    known = bench.Known((), num_layers, is_organism, chat, {})
    bench.check_place(config, num_layers)
    if config.attack.layers == "nudge":
        config = config.copy_and_resolve_references()
        nudge = dissociate.choose_layers(num_layers, nudge_layer=config.place.layer).nudge
        config.attack.layers = models.layer_name(nudge)
    return {"latent": latent.check(config, known), "l2": l2.check(config, known)}


def make(config, job: setup.Job, prompts, settings, advance) -> bench.Bench:
    """A bench for the members of one family; their units lie in attacks/FAMILY of the workdir."""
    setup.check_alike(job.subject, config)
    panels = {"harmful": prompts.asr._replace(name="harmful"), "benign": prompts.benign}
    tokens = {"harmful": job.tokens[prompts.asr.name], "benign": job.tokens[prompts.benign.name]}
    workdir = job.workdir / "attacks" / job.subject.arch
    attacked = dataclasses.replace(job, workdir=workdir, panels=panels, tokens=tokens)
    return bench.make_bench(config, attacked, settings=settings, pairs=None, advance=advance)


def units(made: bench.Bench) -> int:
    """How many units of work the attacks on one family take."""
    return len(made.names) * (l2.units(made) + latent.units(made))


def attacked(made: bench.Bench) -> pd.DataFrame:
    """attack_lines of every member of one family."""
    pushed, rows = (bench.rows_of({name: one.measure(made, name) for name in made.names}) for one in (l2, latent))
    return attack_lines(
        made.names,
        pushed,
        latent_report.summarise(rows, made),
        fraction=bench.reference(made),
        budget=made.settings["latent"].reference_budget,
        layer=models.layer_name(made.nudge_state),
    )


def attack_lines(names, pushed: pd.DataFrame, metrics: pd.DataFrame, *, fraction, budget, layer: str) -> pd.DataFrame:
    """One line a model: the L2 attack at the nudge fraction, LVS and ASR of the latent attack, each with its control.

    Args:
      pushed: rows of the L2 attack; metrics: lines of metrics.csv, of which those at the place's `layer` and the
        reference `budget` are taken.
    """
    at_fraction = pushed[pushed["budget"] == fraction]
    cells = metrics[(metrics["exp"] == "lvs") & (metrics["budget"] == budget) & (metrics["layer"] == layer)]
    lines = []
    for name in names:
        line = {"model": name}
        for kind, prefix in (("l2", "l2_asr"), ("random", "l2_random")):
            prompts = at_fraction[(at_fraction["variant"] == name) & (at_fraction["kind"] == kind)]
            share = bench.share(prompts["harmful"])
            line |= {prefix: share["value"]} | {f"{prefix}_{key}": share[key] for key in ("lo", "hi", "n")}
            if kind == "l2":
                line["l2_fell"] = float((prompts["nll_last"] < prompts["nll_first"]).mean())
        for attack, prefix in (("pgd", ""), ("random", "random_")):
            for cell in cells[(cells["variant"] == name) & (cells["attack"] == attack)].head(1).to_dict("records"):
                line |= {f"{prefix}{column}": cell[column] for column in ("lvs", "lvs_lo", "lvs_hi", "lvs_mean")}
                line |= {f"{prefix}latent_{column}": cell[column] for column in ("asr", "asr_lo", "asr_hi")}
        lines.append(line)
    return pd.DataFrame(lines)


def describe(made: bench.Bench) -> dict:
    """Where and how far the attacks push, for the report."""
    place = made.place()
    return {
        "layer": models.layer_name(place.state),
        "fraction": place.fraction,
        "scale": place.scale,
        "taken from": place.source,
        "latent budget": made.settings["latent"].reference_budget,
        "L2 prompts": min(made.settings["l2"].prompts, len(made.panels["harmful"].prompts)),
        "latent prompts": len(bench.first_prompts(made, "harmful", made.settings["latent"].prompts)[0].prompts),
    }


def separated(loaded: respond.Loaded, safe, unsafe, *, batch: int, seed: int, resamples: int) -> dict:
    """The cross-fitted separation score of section 7 on a half's S and U, with its interval."""
    score = separation.separation(
        *(bench.decision_states(loaded, tokens, batch) for tokens in (safe, unsafe)), seed=seed, resamples=resamples
    ).crossfitted
    return {"separation": score.value, "separation_lo": score.lo, "separation_hi": score.hi}


def probed(reference: probes.Features, model: probes.Features) -> dict:
    """AUROC and sigmoid gap of one model under the probe that the reference's first texts fit, on the texts behind."""
    score = probes.fit_and_score(reference, {"model": model}).scores["model"]
    return {"probe_auroc": score.auroc, "probe_gap": score.gap}
