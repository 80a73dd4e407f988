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
    """One row a model: the L2 attack at the nudge fraction, LVS and ASR of the latent attack, each with its control.

    LVS and its ASR are those at the place's state and the reference budget.
    """
    rows = {
        kind: pd.concat([one.measure(made, name).assign(variant=name) for name in made.names], ignore_index=True)
        for kind, one in (("l2", l2), ("latent", latent_sweep))
    }
    table = latent_sweep.table(made, rows["latent"], inputs)
    cells = table[(table["exp"] == "lvs") & (table["budget"] == made.settings.reference_budget)]
    layer, found = models.layer_name(made.place().state), []
    for name in made.names:
        line = {"model": name}
        pushed = rows["l2"][(rows["l2"]["variant"] == name) & (rows["l2"]["budget"] == l2.reference(made))]
        for kind in l2.KINDS:
            own = pushed[pushed["kind"] == kind]
            share = bench.share(own["harmful"])
            line |= {
                f"l2_{'asr' if kind == 'l2' else kind}{'' if key == 'value' else '_' + key}": value
                for key, value in share.items()
            }
            if kind == "l2":
                line["l2_fell"] = float((own["nll_last"] < own["nll_first"]).mean())
        own = cells[cells["variant"] == name]
        for attack, prefix in (("pgd", ""), ("random", "random_")):
            here = own[(own["attack"] == attack) & (own["layer"] == layer)]
            if len(here):
                one = here.iloc[0]
                line |= {
                    f"{prefix}lvs": one["lvs"],
                    f"{prefix}lvs_lo": one["lvs_lo"],
                    f"{prefix}lvs_hi": one["lvs_hi"],
                    f"{prefix}lvs_mean": one["lvs_mean"],
                    f"{prefix}latent_asr": one["asr"],
                    f"{prefix}latent_asr_lo": one["asr_lo"],
                    f"{prefix}latent_asr_hi": one["asr_hi"],
                }
        found.append(line)
    return pd.DataFrame(found)


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
    found = separation.separation(
        *(bench.decision_states(loaded, tokens, batch) for tokens in (safe, unsafe)), seed=seed, resamples=resamples
    ).crossfitted
    return {"separation": found.value, "separation_lo": found.lo, "separation_hi": found.hi}


def probe_features(loaded: respond.Loaded, pairs: pair_files.Pairs, batch: int) -> dict[str, np.ndarray]:
    """Features of the probe's texts under one model: refusals (safe) and compliant answers (unsafe)."""
    states, found = dissociate.choose_layers(loaded.cfg.num_layers).match, {}
    for kind, texts in (("safe", pairs.refusals), ("unsafe", pairs.responses)):
        examples = corpora.encode_pairs(loaded.chat, pairs.prompts, texts, max_tokens=static.MAX_TOKENS)
        found[kind] = directions.text_features(
            loaded.params, examples.tokens, examples.mask, cfg=loaded.cfg, states=states, batch=batch
        )
    return found


def probed(reference: dict[str, np.ndarray], own: dict[str, np.ndarray]) -> dict:
    """AUROC and sigmoid gap of one model under the probe that the reference's first texts fit."""
    fitted = min(static.FITTED, max(1, len(reference["safe"]) // 3))
    reader = probe.fit(*(reference[kind][:fitted] for kind in ("safe", "unsafe")))
    found = probe.score(reader, *(own[kind][fitted:] for kind in ("safe", "unsafe")))
    return {"probe_auroc": found.auroc, "probe_gap": found.gap}
