"""What RAS is compared with on every model: the latent attack, the L2 attack, the probe, the separation score.

docs/method.md sections 1, 2, 7 and 10. The attacks are the audit's own experiments on a bench of all members of one
family, whose place is the nudge of the dissociated member (without one, block round(0.5 L) and [P1]'s fraction).
"""

import numpy as np
import pandas as pd

from latent_audit import models
from latent_audit.data import pair_files
from latent_audit.experiments import respond, setup
from latent_audit.experiments import settings as attack_settings
from latent_audit.experiments.audit import bench, l2, latent_sweep, static
from latent_audit.experiments.organisms import corpora
from latent_audit.interventions import directions, dissociate
from latent_audit.metrics import probe, separation


def check(config, num_layers: int, *, is_organism: bool) -> attack_settings.Settings:
    """InputError for a bad field of attack, l2 or place, before any compute; attack.layers may be nudge here."""
    l2.check(config)
    attack_settings.check_batches(config)
    if config.attack.layers == "nudge":
        config = config.copy_and_resolve_references()
        config.attack.layers = models.layer_name(
            dissociate.choose_layers(num_layers, nudge_layer=config.place.layer).nudge
        )
    return attack_settings.check_attack(config, is_organism=is_organism, num_layers=num_layers)


def make(config, workdir, subject: setup.Subject, prompts, settings, judge, reward, advance) -> bench.Bench:
    """A bench for the members of one family; their units lie in attacks/FAMILY of the workdir."""
    bench.check_alike(subject, config)
    panels = {"harmful": prompts.asr._replace(name="harmful"), "benign": prompts.benign}
    return bench.make_bench(
        config,
        workdir / "attacks" / subject.arch,
        subject=subject,
        judge=judge,
        reward=reward,
        settings=settings,
        panels=panels,
        pairs=None,
        advance=advance,
    )


def units(made: bench.Bench) -> int:
    """How many units of work the attacks on one family take."""
    return len(made.names) * (l2.units(made) + latent_sweep.units(made))


def attacked(made: bench.Bench, inputs: dict) -> pd.DataFrame:
    """attack_lines of every member of one family."""
    rows = {
        kind: pd.concat([one.measure(made, name).assign(variant=name) for name in made.names], ignore_index=True)
        for kind, one in (("l2", l2), ("latent", latent_sweep))
    }
    return attack_lines(
        made.names,
        rows["l2"],
        latent_sweep.table(made, rows["latent"], inputs),
        fraction=l2.reference(made),
        budget=made.settings.reference_budget,
        layer=models.layer_name(made.place().state),
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
            line |= {prefix if key == "value" else f"{prefix}_{key}": value for key, value in share.items()}
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
        "latent budget": made.settings.reference_budget,
        "L2 prompts": min(made.config.l2.prompts, len(made.panels["harmful"].prompts)),
        "latent prompts": min(made.config.attack.prompts, len(made.panels["harmful"].prompts)),
    }


def separated(loaded: respond.Loaded, safe, unsafe, *, batch: int, seed: int, resamples: int) -> dict:
    """The cross-fitted separation score of section 7 on a half's S and U, with its interval."""
    score = separation.separation(
        *(bench.decision_states(loaded, tokens, batch) for tokens in (safe, unsafe)), seed=seed, resamples=resamples
    ).crossfitted
    return {"separation": score.value, "separation_lo": score.lo, "separation_hi": score.hi}


def probe_features(loaded: respond.Loaded, pairs: pair_files.Pairs, batch: int) -> dict[str, np.ndarray]:
    """Features of the probe's texts under one model: refusals (safe) and compliant answers (unsafe)."""
    states, found = dissociate.choose_layers(loaded.cfg.num_layers).match, {}
    for kind, texts in (("safe", pairs.refusals), ("unsafe", pairs.responses)):
        examples = corpora.encode_pairs(loaded.chat, pairs.prompts, texts, max_tokens=static.MAX_TOKENS)
        found[kind] = directions.text_features(
            loaded.params, examples.tokens, examples.mask, cfg=loaded.cfg, states=states, batch=batch
        )
    return found


def probed(reference: dict[str, np.ndarray], model: dict[str, np.ndarray]) -> dict:
    """AUROC and sigmoid gap of one model under the probe that the reference's first texts fit, on the texts behind."""
    fitted = min(static.FITTED, max(1, len(reference["safe"]) // 3))
    reader = probe.fit(*(reference[kind][:fitted] for kind in ("safe", "unsafe")))
    score = probe.score(reader, *(model[kind][fitted:] for kind in ("safe", "unsafe")))
    return {"probe_auroc": score.auroc, "probe_gap": score.gap}
