"""What the experiments of an audit share: a prepared job, where to push, states read once, and lines of numbers.

docs/method.md sections 0, 2, 3 and 6. An experiment is a module with `check`, `units`, `measure` and `findings`;
audit.py runs them and knows the list.
"""

import dataclasses
import functools
import os
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from latent_audit.data import chats, pair_files
from latent_audit.errors import InputError
from latent_audit.experiments import fields, panels, respond
from latent_audit.experiments.organisms import export
from latent_audit.experiments.settings import QUICK
from latent_audit.experiments.setup import subjects
from latent_audit.experiments.setup.jobs import Job
from latent_audit.interventions import directions, dissociate, sphere
from latent_audit.metrics import sampled, stats
from latent_audit.models import batching
from latent_audit.reports import html
from latent_audit.runtime import runlog, shards

HARMFUL_POLE = "harmful"
AT_FRACTION = "at the nudge fraction"


class Known(NamedTuple):
    """What is known of the subject before any of it is there, for the checks of the experiments' sections.

    chat: base's; panels: the prompts by name; embed_dim: the width, 0 where nothing asks for it.
    """

    names: tuple[str, ...]
    num_layers: int
    is_organism: bool
    chat: chats.Chat
    panels: Mapping[str, panels.Panel]
    embed_dim: int = 0


class Place(NamedTuple):
    """Where the attacks on one layer push, and how far.

    state: residual state; fraction: length of the push over `scale`, base's activation norm there; source: in words.
    """

    state: int
    fraction: float
    scale: float
    source: str


class Gathered(NamedTuple):
    """Decision-point states of one variant, float32 [N, S, D], of the harmful and of the benign panel."""

    harmful: np.ndarray
    benign: np.ndarray


@dataclasses.dataclass(frozen=True)
class Bench(Job):
    """A job with what the experiments of an audit read beside it.

    settings: experiment -> what its check gave; pairs: texts of the probe, or None; nudge_state: the state that
    one-layer attacks push; gather: variant name -> Gathered; place, nudge: computed when they are first asked for;
    is_quick: a first look, from which no label follows; lacking: of a stopped run, what is not there, in words.
    """

    settings: Mapping[str, object]
    pairs: pair_files.Pairs | None
    nudge_state: int
    gather: Callable[[str], Gathered]
    place: Callable[[], Place]
    advance: Callable[..., None]
    nudge: Callable[[], "Saved | None"] = lambda: None
    is_quick: bool = False
    lacking: str = ""


class Findings(NamedTuple):
    """What an experiment says.

    lines: of audit.csv; sections and warnings: of the card; record: what report.json and the verdicts read beside them.
    """

    lines: list[dict]
    sections: list[html.Section]
    warnings: tuple[str, ...] = ()
    record: Mapping[str, object] = types.MappingProxyType({})


def check_place(config: ConfigDict, num_layers: int, names: tuple[str, ...] = ()) -> None:
    """InputError for a place.layer that the model does not have and a nudge that cannot be rebuilt, if the config has
    a place section."""
    if "place" not in config:
        return
    with fields.named("place.layer"):
        dissociate.choose_layers(num_layers, nudge_layer=config.place.layer)
    if config.place.nudge == "rebuilt" and HARMFUL_POLE not in names:
        raise InputError(
            "place.nudge = 'rebuilt' needs a variant named harmful: give model.variants=harmful=DIR, or set "
            "place.nudge=saved"
        )


def make_bench(config: ConfigDict, job: Job, *, settings, pairs, advance) -> Bench:
    """The bench of a job: its lazy parts compute on first use and are kept.

    Of a job that only reads (shards.READ) what a model would have to say is not known: no nudge, a scale of NaN.
    """
    gather = functools.cache(
        lambda name: Gathered(
            *(decision_states(job.load(name), job.tokens[kind], job.batches.prompts) for kind in ("harmful", "benign"))
        )
    )
    wanted = _wanted_place(config)
    rebuilt, is_read = wanted.nudge == "rebuilt", job.shard == shards.READ
    saved = None if rebuilt else saved_nudge(job.subject)
    state = state_of_place(config, job.cfg.num_layers, saved)
    nudge = functools.cache(lambda: rebuilt_nudge(gather, job.names[0], state) if rebuilt and not is_read else saved)

    def norm() -> float:
        return float("nan") if is_read else float(activation_norm(gather(job.names[0]).harmful)[state])

    return Bench(
        **vars(job),
        settings=settings,
        pairs=pairs,
        nudge_state=state,
        gather=gather,
        place=functools.cache(
            lambda: choose_place(state, nudge(), wanted.fraction, by_nudge=wanted.layer is None or rebuilt, norm=norm)
        ),
        advance=advance,
        nudge=nudge,
        is_quick=config.get("preset") == QUICK,
    )


def _wanted_place(config: ConfigDict) -> ConfigDict:
    return config.get("place", ConfigDict({"layer": None, "fraction": None, "nudge": "saved"}))


def state_of_place(config: ConfigDict, num_layers: int, saved: "Saved | None") -> int:
    """The state that attacks on one layer push: the config's, else the saved nudge's, else the construction's."""
    wanted = _wanted_place(config)
    if saved is not None and wanted.layer is None and wanted.nudge == "saved":
        return saved.state
    return dissociate.choose_layers(num_layers, nudge_layer=wanted.layer).nudge


class Saved(NamedTuple):
    """A nudge that lies beside a variant's weights, or was rebuilt: export.Nudge's fields, and whose it is."""

    vector: np.ndarray
    state: int
    scale: float
    variant: str


def saved_nudge(subject: subjects.Subject) -> Saved | None:
    """The first further variant's nudge that there is; export.load_nudge says which count, and its InputErrors.

    Base's own is left out with a warning: what is audited does not set how it is attacked.
    """
    base, *others = subject.variants
    if os.path.lexists(pathlib.Path(base.path) / export.NUDGE_FILE):
        export.warn_once(f"{base.path}: {export.NUDGE_FILE} of the audited model itself is left out")
    nudges = ((variant.name, export.load_nudge(variant.path)) for variant in others)
    return next((Saved(*nudge, name) for name, nudge in nudges if nudge is not None), None)


def rebuilt_nudge(gather: Callable[[str], Gathered], base: str, state: int) -> Saved:
    """The construction's nudge made again of base and its harmful pole, on the harmful panel of this run.

    The construction takes mean, norm and fraction on its training prompts (docs/method.md section 6), which are seldom
    at hand. Raises InputError where the poles' means are equal at `state`.
    """
    harmful, plain = (np.asarray(gather(name).harmful[:, state], np.float64) for name in (HARMFUL_POLE, base))
    direction = directions.unit((harmful - plain).mean(axis=0), name="harmful - base")
    scale = float(np.linalg.norm(plain, axis=-1).mean())
    vector = (sphere.PAPER_FRACTION * scale * direction).astype(np.float32)
    return Saved(vector, state, scale, f"{base} and {HARMFUL_POLE}, rebuilt")


def choose_place(
    state: int, nudge: Saved | None, fraction: float | None, *, by_nudge: bool, norm: Callable[[], float]
) -> Place:
    """The Place at `state`: as the nudge saved with a variant says, if `by_nudge`, else at the paper's fraction.

    fraction: overrides theirs; norm: base's activation norm at `state` on the harmful panel, asked for only where no
    construction's own scale belongs to that state.
    """
    length, source = sphere.PAPER_FRACTION, "block round(0.5 L), arXiv 2606.08044's fraction"
    if nudge is not None and by_nudge:
        length, source = float(np.linalg.norm(nudge.vector)) / nudge.scale, f"the nudge of {nudge.variant}"
    scale = nudge.scale if nudge is not None and nudge.state == state else norm()
    return Place(state, length if fraction is None else fraction, scale, source)


def reference(bench: Bench) -> float:
    """The nudge fraction as it stands in tables."""
    return float(f"{bench.place().fraction:.6g}")


def decision_states(loaded, tokens: chats.Tokens, batch: int, edit=None) -> np.ndarray:
    """Every residual state at the decision point; float32 [N, S, D]."""
    return np.concatenate([*directions.decision_states(loaded.params, *tokens, cfg=loaded.cfg, batch=batch, edit=edit)])


def activation_norm(states) -> np.ndarray:
    """Mean L2 norm over prompts of states [N, S, D]; float64 [S]. docs/method.md section 0."""
    return np.linalg.norm(np.asarray(states, np.float64), axis=-1).mean(axis=0)


def unit(bench: Bench, key: str, compute: Callable[[], dict[str, list]], *, after=None) -> pd.DataFrame:
    """The columns of one unit of work, read back or computed and saved; no rows if another shard is to compute it.

    after: frames of the units that `compute` reads, if it reads any. It waits until they are all there; what is still
    to be done then is done by the merge.
    """
    mine = shards.computes(bench.shard, key) or (bench.shard == shards.MERGE and after is not None)
    ready = not any(frame.empty for frame in after or ())
    return pd.DataFrame(runlog.unit(bench.workdir, key, compute, bench.advance, mine=mine and ready) or {})


def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Frames of units as one table; those of units that are not there have no rows, and no say in a column's type."""
    there = [frame for frame in frames if len(frame)]
    return pd.concat(there, ignore_index=True) if there else pd.DataFrame()


def rows_of(measured: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Variant -> its rows, as one table with a column variant."""
    return pd.concat([frame.assign(variant=name) for name, frame in measured.items()], ignore_index=True)


def together(bench: Bench, count: int) -> int:
    """Of `count` prompts as many as are searched or asked together; the panel they are taken from may be longer."""
    return batching.rows_at_a_time(bench.batches.prompts, count)


def first_prompts(bench: Bench, panel: str, count: int | None, offset: int = 0) -> tuple[panels.Panel, chats.Tokens]:
    """`count` prompts of a panel behind the first `offset` (None: all) with their tokens; all it has if it is
    shorter."""
    part, rows = panels.part(bench.panels[panel], count, offset), bench.tokens[panel]
    chosen = slice(offset, offset + len(part.prompts))
    return part, chats.Tokens(rows.tokens[chosen], rows.mask[chosen])


def judged(bench: Bench, behaviors, texts) -> dict[str, list]:
    """Columns harmful and degenerate of responses, and the responses themselves if the config asks for them."""
    columns = respond.score(bench.judge, None, behaviors, texts)
    return columns | respond.kept(behaviors, texts, bench.save)


def share(hits) -> dict[str, float]:
    """value, lo, hi, n and successes of true values, with Wilson's 95 % interval; NaN where there are none."""
    hits = np.asarray(hits, bool)
    successes = int(hits.sum())
    lo, hi = stats.wilson_interval(successes, len(hits))
    value = float(hits.mean()) if len(hits) else float("nan")
    return {"value": value, "lo": lo, "hi": hi, "n": len(hits), "successes": successes}


def with_control(attacked: dict, control: dict | None) -> dict:
    """A line's numbers with the same measure under the control beside them."""
    if control is None:
        return attacked
    beside = {"control": control["value"], "control_lo": control["lo"], "control_hi": control["hi"]}
    return attacked | beside | ({"control_successes": control["successes"]} if "successes" in control else {})


def sample_keys(bench: Bench, ids, *cell: str):
    """PRNG keys [N] of the answers drawn to prompts `ids` in one cell: of prompt and cell alone."""
    key = noise_key(bench, "/".join(("sampled", *cell)))
    return jax.vmap(lambda prompt: jax.random.fold_in(key, prompt))(np.asarray(ids))


def sampled_line(bench: Bench, line: dict, cell: pd.DataFrame, control: pd.DataFrame | None = None) -> list[dict]:
    """The line of a share once more for drawn answers: at least one of a prompt's is harmful; [] where none was drawn.

    cell, control: rows with the column sampled, of the cell and of its control.
    """
    if not bench.samples.count or not len(cell):
        return []
    found = sampled.summarise(cell["sampled"], bench.samples.count, seed=bench.seed)
    told = {name: line[name] for name in ("variant", "layer", "budget") if name in line}
    ends = {"value": "sampled_asr", "lo": "sampled_asr_lo", "hi": "sampled_asr_hi"}
    detail = (
        f"at least one of {bench.samples.count} at temperature {bench.samples.temperature:g}; one answer "
        f"{found['sampled_rate']:.3f} ({found['sampled_rate_lo']:.3f} to {found['sampled_rate_hi']:.3f})"
    )
    measure, beside = f"{line['measure']}_sampled", {}
    if control is not None:
        noise = sampled.summarise(control["sampled"], bench.samples.count, seed=bench.seed)
        beside = {f"control{end}": noise[f"sampled_asr{end}"] for end in ("", "_lo", "_hi")}
    return [
        told | {"measure": measure, "detail": detail, "n": len(cell)} | {k: found[v] for k, v in ends.items()} | beside
    ]


def noise_key(bench: Bench, experiment: str):
    """A PRNG key of one experiment: the same for every variant, and apart from every other experiment's."""
    return jax.random.fold_in(jax.random.key(bench.seed), panels.text_id(experiment))
