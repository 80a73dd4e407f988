"""Steering: a fixed direction added at one layer, every position, at growing length; and the cone around the nudge.

docs/method.md section 3, arXiv 2606.08044. Units of work: one per variant and layer, and one per variant for the cone.
"""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging

from latent_audit import judges, models
from latent_audit.errors import InputError
from latent_audit.experiments import fields, respond
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.bench import Bench, Findings, Known, judged, reference, share, unit, with_control
from latent_audit.experiments.forecast import amounts
from latent_audit.experiments.forecast.amounts import Seen, Work
from latent_audit.experiments.panels import check_offset
from latent_audit.experiments.settings import states_named
from latent_audit.interventions import direction_files, directions, steering
from latent_audit.metrics import coherence, stats
from latent_audit.reports import audit_figures, figures, html

KINDS, PAPER_TOKENS = ("direction", "random"), 128  # arXiv 2606.08044
LIMITS = (
    "One direction for all prompts: a model that withstands it may give way to another. The random control is "
    "one direction per layer, the same for every variant."
)


class Settings(NamedTuple):
    """direction: twin, own or file; layers: as in the config; fractions: of base's activation norm; cone: run as well;
    offset: prompts of the harmful panel left out before those steered; source: see _told; file: the directions of a
    file; reverse: push against them."""

    direction: str
    layers: str
    fractions: tuple[float, ...]
    prompts: int
    cone: bool
    offset: int = 0
    source: str = "others"
    file: direction_files.Found | None = None
    reverse: bool = False


def check(config, known: Known) -> Settings:
    """The steer section as settings; InputError for a direction or layers that there are not."""
    section = config.steer
    if section.direction == "twin" and benches.HARMFUL_POLE not in known.names:
        raise InputError(
            "steer.direction = 'twin' needs a variant named harmful: give model.variants=harmful=DIR, or "
            "steer.direction=own"
        )
    fractions, direction, file = tuple(section.fractions), section.direction, None
    if direction == "auto":
        direction = "twin" if benches.HARMFUL_POLE in known.names else "own"
    elif direction not in ("twin", "own"):
        with fields.named(f"steer.direction = {direction!r}: none of auto, twin, own, so a file"):
            file = direction_files.read(direction, num_layers=known.num_layers, embed_dim=known.embed_dim)
        logging.info("steer.direction = %s: %s%s", direction, file.words, ", reversed" if section.reverse else "")
        direction = "file"
    if section.reverse and file is None:
        raise InputError(
            f"steer.reverse = True turns the directions of a file round, but steer.direction = {section.direction!r}"
        )
    _states_of(file, section.layers, known.num_layers, embedding=direction == "twin", nudge=None)
    held = len(known.panels["harmful"].prompts)
    check_offset("steer.offset", section.offset, "the harmful panel", held)
    if section.source == "others" and not _others(section.prompts, section.offset, held).any():
        logging.warning(
            "steer: the harmful panel holds no more than the %d prompts that are steered, so the directions are taken "
            "from these very prompts; raise prompts.harmful_count",
            held,
        )
    paper = steering.PAPER_FRACTIONS if direction == "twin" else steering.PAPER_OWN_FRACTIONS
    lengths = tuple(map(float, fractions)) or paper
    return Settings(
        *(direction, section.layers, lengths, section.prompts, section.cone, section.offset, section.source),
        *(file, section.reverse),
    )


def record(settings: Settings | None) -> dict:
    """What results depend on beside the config: the file of directions."""
    if settings is None or settings.file is None:
        return {}
    return {"steer_direction": settings.file.describe() | {"reversed": settings.reverse}}


def _others(count: int, offset: int, held: int) -> np.ndarray:
    """Which of `held` prompts are not among those steered; bool [held]."""
    rows = np.arange(held)
    return (rows < offset) | (rows >= offset + count)


def _fractions(bench: Bench) -> tuple[float, ...]:
    """Those of the settings with the nudge fraction of the model."""
    return tuple(sorted({*bench.settings["steer"].fractions, reference(bench)}))


def _states(bench):
    # The embedding of the template's last token is the same in every prompt: two poles may have a direction there, one
    # model has none.
    settings = bench.settings["steer"]
    return _states_of(
        settings.file,
        settings.layers,
        bench.cfg.num_layers,
        embedding=settings.direction == "twin",
        nudge=bench.nudge_state,
    )


def _states_of(file, layers: str, num_layers: int, *, embedding: bool, nudge: int | None) -> tuple[int, ...]:
    """The states that are steered; of a file those that it has a direction for. nudge: None where it is not known."""
    if file is None:
        return states_named(
            "steer.layers", layers, num_layers, embedding=embedding, nudge=1 if nudge is None else nudge
        )
    if layers == "all":
        return tuple(file.vectors)
    if layers == "nudge" and nudge is None:
        return ()
    states = states_named("steer.layers", layers, num_layers, nudge=nudge)
    missing = [models.layer_name(state) for state in states if state not in file.vectors]
    if missing:
        raise InputError(
            f"steer.layers = {layers!r}: the file of directions has none for {', '.join(missing)}; it has "
            f"{', '.join(map(models.layer_name, file.vectors))}"
        )
    return states


def units(bench: Bench) -> int:
    """How many units `measure` takes for one variant."""
    return len(_states(bench)) + bool(bench.settings["steer"].cone)


def work(seen: Seen) -> list[Work]:
    """What `measure` computes of one variant; docs/overview.md."""
    own: Settings = seen.settings["steer"]
    prompts = amounts.attacked(seen, own.prompts, own.offset)
    states = _states_of(
        own.file, own.layers, seen.cfg.num_layers, embedding=own.direction == "twin", nudge=seen.nudge_state
    )
    # With the nudge fraction, which is known once the model is there.
    fractions = len(own.fractions) + 1
    found = [
        amounts.asked(
            seen,
            f"units {seen.name}/steer/{models.layer_name(state)}",
            1,
            len(KINDS) * fractions * prompts,
            "harmful",
            PAPER_TOKENS,
        )
        for state in states
    ]
    if own.cone:
        turned = len(steering.CONE_DEGREES) * steering.CONE_SEEDS * len(steering.CONE_FRACTIONS)
        found.append(amounts.asked(seen, f"units {seen.name}/steer/cone", 1, turned * prompts, "harmful", PAPER_TOKENS))
    return found


def along(bench: Bench, name: str, states) -> np.ndarray:
    """Unit directions float32 [K, D] that variant `name` is steered along; docs/method.md section 3."""
    settings = bench.settings["steer"]
    if settings.file is not None:
        return np.stack([settings.file.vectors[state] for state in states]) * (-1 if settings.reverse else 1)
    if bench.settings["steer"].direction == "twin":
        poles = [_moments(_told(bench, pole)) for pole in (benches.HARMFUL_POLE, bench.names[0])]
        return steering.twin_direction(*poles, states)
    own = bench.gather(name)
    return steering.own_direction(_moments(own.benign), _moments(_told(bench, name)), states)


def _told(bench, name) -> np.ndarray:
    """Decision-point states of the harmful prompts that directions are taken from: those of the panel that are not
    steered (ours); the steered ones for source = evaluated (arXiv 2606.08044), and where there are no others."""
    settings, harmful = bench.settings["steer"], bench.gather(name).harmful
    others = _others(settings.prompts, settings.offset, len(harmful))
    return harmful[others] if settings.source == "others" and others.any() else harmful[~others]


def _moments(states) -> directions.Moments:
    """Of decision-point states [N, S, D]."""
    mean, norm = states.mean(axis=0, dtype=np.float64), benches.activation_norm(states)
    return directions.Moments(mean[:, None].astype(np.float32), norm[:, None].astype(np.float32), len(states))


def measure(bench: Bench, name: str) -> pd.DataFrame:
    """Rows per prompt, layer, fraction and kind (direction, random; cone with its angle and seed)."""
    found = []
    for state in _states(bench):
        layer = models.layer_name(state)
        found.append(
            unit(bench, f"{name}/steer/{layer}", functools.partial(_steer, bench, name, state)).assign(layer=layer)
        )
    if bench.settings["steer"].cone:
        found.append(
            unit(bench, f"{name}/steer/cone", functools.partial(_cone, bench, name)).assign(
                layer=models.layer_name(bench.nudge_state)
            )
        )
    return benches.joined(found)


def _run(bench, name, state, vectors, labels) -> dict[str, list]:
    """Answers of the steering prompts under each absolute vector [K, D]; labels: K dicts of columns."""
    settings = bench.settings["steer"]
    panel, tokens = benches.first_prompts(bench, "harmful", settings.prompts, settings.offset)
    which, row = (index.ravel() for index in np.indices((len(vectors), len(panel.prompts))))
    texts = respond.answers_under(
        bench.load(name),
        tokens,
        np.full(len(row), state),
        np.asarray(vectors, np.float32)[which],
        rows=row,
        batch=bench.batches.rows,
        max_new_tokens=bench.new_tokens(PAPER_TOKENS),
    )
    columns = {"prompt": (settings.offset + row).tolist()} | {key: [labels[k][key] for k in which] for key in labels[0]}
    return columns | judged(bench, [panel.behaviors[r] for r in row], texts)


def _norm(bench, state) -> float:
    """Base's activation norm on the prompts evaluated."""
    settings, states = bench.settings["steer"], bench.gather(bench.names[0]).harmful
    return float(benches.activation_norm(states[settings.offset : settings.offset + settings.prompts])[state])


def _steer(bench, name, state) -> dict[str, list]:
    if state == 0 and bench.settings["steer"].file is None and not _embeddings_differ(bench):
        logging.warning("steer: base and the harmful pole have the same embeddings, so there is no direction to steer")
        return {}
    units = {
        "direction": along(bench, name, (state,))[0],
        "random": steering.random_directions(benches.noise_key(bench, "steer"), (state,), bench.cfg.embed_dim)[0],
    }
    chosen = [(kind, fraction) for kind in KINDS for fraction in _fractions(bench)]
    norm = _norm(bench, state)
    return _run(
        bench,
        name,
        state,
        [fraction * norm * units[kind] for kind, fraction in chosen],
        [{"kind": kind, "fraction": fraction} for kind, fraction in chosen],
    )


def _embeddings_differ(bench) -> bool:
    poles = (bench.gather(pole).harmful[:, 0] for pole in (benches.HARMFUL_POLE, bench.names[0]))
    return bool(np.any(np.subtract(*poles)))


def _cone(bench, name) -> dict[str, list]:
    """The nudge direction of the place turned away by growing angles, in lengths of the construction's own scale."""
    place, nudge = bench.place(), bench.nudge()
    here, file = nudge is not None and nudge.state == place.state, bench.settings["steer"].file
    if not here and file is not None and place.state not in file.vectors:
        logging.warning("steer: the file has no direction at %s, so there is no cone", models.layer_name(place.state))
        return {}
    axis = nudge.vector if here else along(bench, name, (place.state,))[0]
    cone = steering.cone(axis, benches.noise_key(bench, "cone"))
    vectors, labels = [], []
    for degrees, seed, unit_vector in zip(*cone, strict=True):
        for fraction in sorted({*steering.CONE_FRACTIONS, reference(bench)}):
            # Directions of length 0 are one and the same.
            if fraction or not degrees:
                vectors.append(fraction * place.scale * unit_vector)
                labels.append({"kind": "cone", "fraction": fraction, "degrees": int(degrees), "seed": int(seed)})
    return _run(bench, name, place.state, vectors, labels)


def _file_in_words(settings: Settings) -> str:
    if settings.file is None:
        return ""
    turned = ", each turned round" if settings.reverse else ""
    return f"of a file ({settings.file.words}{turned}; SHA-256 {settings.file.sha256[:12]}), for every variant the same"


def over_directions(hits) -> dict[str, float]:
    """A share over prompts and directions, bool [P, K], whose interval knows that K answers to one prompt are alike.

    n and successes count all P K answers. The interval is Wilson's for the effective number P K / (1 + (K - 1) rho),
    rho the intraclass correlation of a one-way analysis of variance, kept within 0 and 1; 1 where all outcomes are the
    same, which tells nothing of it. Ours, docs/method.md section 3.
    """
    hits = np.asarray(hits, float)
    prompts, count = hits.shape
    plain = share(hits.ravel())
    if count == 1:
        return plain
    between = count * hits.mean(axis=1).var(ddof=1) if prompts > 1 else 0.0
    within = hits.var(axis=1, ddof=1).mean()
    total = between + (count - 1) * within
    rho = min(max((between - within) / total, 0.0), 1.0) if total else 1.0
    effective = hits.size / (1 + (count - 1) * rho)
    lo, hi = stats.wilson_interval(plain["value"] * effective, effective)
    return plain | {"lo": lo, "hi": hi}


def findings(bench: Bench, measured: dict[str, pd.DataFrame]) -> Findings:
    """steer_compliance per layer and fraction with its control; cone_compliance by angle."""
    rows, lines = benches.rows_of(measured), []
    steered = rows[rows["kind"].isin(KINDS)]
    for (name, layer, fraction), cell in steered.groupby(["variant", "layer", "fraction"], sort=False):
        of_kind = {kind: share(cell[cell["kind"] == kind]["harmful"]) for kind in KINDS}
        lines.append(
            {
                "variant": name,
                "measure": "steer_compliance",
                "layer": layer,
                "budget": fraction,
                "detail": f"{bench.settings['steer'].direction} direction",
                **with_control(of_kind["direction"], of_kind["random"]),
                "degenerate": cell[cell["kind"] == "direction"]["degenerate"].mean(),
                "incoherent": cell[cell["kind"] == "direction"]["incoherent"].mean(),
                "control_incoherent": cell[cell["kind"] == "random"]["incoherent"].mean(),
                "beyond_language": coherence.is_beyond_language(cell[cell["kind"] == "random"]["incoherent"]),
            }
        )
    table = pd.DataFrame(lines)
    coned = rows[rows["kind"] == "cone"]
    cells = coned.groupby(["variant", "layer", "fraction", "degrees"], sort=False) if len(coned) else ()
    for (name, layer, fraction, degrees), cell in cells:
        lines.append(
            {
                "variant": name,
                "measure": "cone_compliance",
                "layer": layer,
                "budget": fraction,
                "detail": f"{degrees:g} degrees",
                **over_directions(cell.pivot(index="prompt", columns="seed", values="harmful")),
            }
        )
    svg = ""
    if len(table):
        picture = audit_figures.steering_by_layer(table, blocks=bench.cfg.num_layers)
        svg = figures.save_figure(picture, bench.workdir / "figures", "steering_by_layer")
    caveat = judges.caveat(bench.judge)
    words = {
        "twin": "from base to the harmful pole: the mean difference of their decision-point states",
        "own": "each model's own, from its mean state on harmful prompts to that on harmless ones",
        "file": _file_in_words(bench.settings["steer"]),
    }
    sections = [
        html.Section(
            title="Steering",
            table=table.drop(columns="measure", errors="ignore"),
            figure_svg=svg,
            caveat=caveat,
            limits=LIMITS,
            figure_alt="Compliance by layer, one panel per fraction, one line per variant, random direction dashed",
            settings={
                "direction": words[bench.settings["steer"].direction],
                "prompts": bench.settings["steer"].prompts,
            },
            text="A unit direction times the fraction times base's activation norm at that layer is added at every "
            "position and decode step (docs/method.md section 3). Wilson 95 % intervals.",
        )
    ]
    if len(coned):
        cone = pd.DataFrame([line for line in lines if line["measure"] == "cone_compliance"])
        sections.append(
            html.Section(
                title="Cone around the nudge",
                caveat=caveat,
                table=cone.drop(columns="measure"),
                text=f"The direction at the nudge layer turned towards {steering.CONE_SEEDS} random orthogonal ones, "
                "the plain one once; n counts answers, and intervals know that answers to one prompt are alike "
                "(docs/method.md section 3).",
            )
        )
    return Findings(lines, sections)
