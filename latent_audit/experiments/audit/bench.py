"""What the experiments of an audit share: variants of one model, prompt panels, where to push, and units of work.

docs/method.md sections 0, 2, 3 and 6. An experiment is a module with `units`, `measure` and `findings`; audit.py runs
them and knows the list.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import chats, pair_files
from latent_audit.errors import InputError
from latent_audit.experiments import respond, setup
from latent_audit.experiments.organisms import export
from latent_audit.experiments.settings import Settings
from latent_audit.interventions import directions, dissociate, edits, sphere
from latent_audit.judges import Judge, Reward
from latent_audit.metrics import stats
from latent_audit.reports import html
from latent_audit.runtime import runlog, shards

HARMFUL_POLE = "harmful"
# The longest answer of the organism has 28 tokens; what goes on beyond these is no answer.
ORGANISM_TOKENS = 40


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
class Bench:
    """Everything an experiment reads.

    panels, tokens: by panel name; the tokens serve every variant, since all share tokenizer and template. pairs: texts
    for the probe, or None. load, gather:
    variant name -> respond.Loaded, Gathered; one model is held at a time. place: None until it is first asked for.
    """

    config: ConfigDict
    workdir: pathlib.Path
    subject: setup.Subject
    judge: Judge
    reward: Reward
    settings: Settings
    panels: dict[str, setup.Panel]
    tokens: dict[str, chats.Tokens]
    pairs: pair_files.Pairs | None
    load: Callable[[str], respond.Loaded]
    gather: Callable[[str], Gathered]
    place: Callable[[], Place]
    advance: Callable[..., None]

    @property
    def names(self) -> list[str]:
        return [variant.name for variant in self.subject.variants]

    @property
    def cfg(self) -> models.ModelConfig:
        return models.check(self.subject.variants[0].path).cfg


class Findings(NamedTuple):
    """What an experiment says: lines of audit.csv, sections of the card, and warnings for its top."""

    lines: list[dict]
    sections: list[html.Section]
    warnings: tuple[str, ...] = ()


def make_bench(
    config: ConfigDict, workdir: pathlib.Path, *, subject, judge, reward, settings, panels, pairs, advance
) -> Bench:
    """Tokenise the panels and set up the lazy parts; the variants must be check_alike."""
    encoded = setup.encode_panels(subject.variants[0], list(panels.values()), config)
    tokens = {panel.name: rows for panel, rows in encoded}
    paths = {variant.name: variant for variant in subject.variants}
    load = functools.lru_cache(maxsize=1)(lambda name: setup.load_variant(paths[name], config))
    gather = functools.cache(lambda name: _gather(load(name), tokens, config.prompt_batch))
    place = functools.cache(lambda: _place(config, subject, gather))
    return Bench(config, workdir, subject, judge, reward, settings, panels, tokens, pairs, load, gather, place, advance)


def check_alike(subject: setup.Subject, config: ConfigDict) -> None:
    """InputError unless all variants have base's shape, tokenizer and chat template: side by side means alike."""
    base, *others = subject.variants
    shape, chat = models.check(base.path).cfg, setup.load_chat(base, config)
    fields = ("num_layers", "embed_dim", "vocab_size", "num_heads", "num_kv_heads", "head_dim", "mlp_dim")
    for variant in others:
        own = models.check(variant.path).cfg
        for field in fields:
            if getattr(own, field) != getattr(shape, field):
                raise InputError(
                    f"model.variants: {variant.name} has {field} = {getattr(own, field)}, base "
                    f"{getattr(shape, field)}; variants of one model are audited side by side, others by "
                    "configs/survey.py"
                )
        theirs = setup.load_chat(variant, config)
        if theirs.tokenizer.get_vocab() != chat.tokenizer.get_vocab():
            raise InputError(
                f"model.variants: {variant.name} has another tokenizer than base; expected the same vocabulary"
            )
        if chats.template_sha256(theirs) != chats.template_sha256(chat):
            raise InputError(
                f"model.variants: {variant.name} has another chat template than base; give one to both "
                "with chat.template_file"
            )


def _gather(loaded, tokens, batch) -> Gathered:
    return Gathered(*(decision_states(loaded, tokens[panel], batch) for panel in ("harmful", "benign")))


def decision_states(loaded, tokens: chats.Tokens, batch: int, edit=None) -> np.ndarray:
    """Every residual state at the decision point; float32 [N, S, D]."""
    found = []
    for start in range(0, len(tokens.tokens), batch):
        rows = np.arange(start, start + batch).clip(max=len(tokens.tokens) - 1)
        states = directions.position_states(
            loaded.params, tokens.tokens[rows], tokens.mask[rows], cfg=loaded.cfg, edit=edit
        )
        found.append(np.asarray(states)[:, : len(tokens.tokens) - start, 0].swapaxes(0, 1))
    return np.concatenate(found)


def _place(config, subject, gather) -> Place:
    """The nudge saved with a variant, else block round(0.5 L); config.place overrides layer and fraction."""
    cfg = models.check(subject.variants[0].path).cfg
    saved = {variant.name: export.load_nudge(variant.path) for variant in subject.variants}
    name, nudge = next(((name, nudge) for name, nudge in saved.items() if nudge is not None), (None, None))
    state = dissociate.choose_layers(cfg.num_layers, nudge_layer=config.place.layer).nudge
    fraction, source = sphere.PAPER_FRACTION, "block round(0.5 L), arXiv 2606.08044's fraction"
    if nudge is not None and config.place.layer is None:
        state, source = nudge.state, f"the nudge of {name}"
        fraction = float(np.linalg.norm(nudge.vector)) / nudge.scale
    if config.place.fraction is not None:
        fraction = config.place.fraction
    # The construction's own scale belongs to its state; anywhere else base's norm on the harmful panel stands in.
    if nudge is not None and nudge.state == state:
        return Place(state, fraction, nudge.scale, source)
    return Place(state, fraction, float(activation_norm(gather(subject.variants[0].name).harmful)[state]), source)


def activation_norm(states) -> np.ndarray:
    """Mean L2 norm over prompts of states [N, S, D]; float64 [S]. docs/method.md section 0."""
    return np.linalg.norm(np.asarray(states, np.float64), axis=-1).mean(axis=0)


def unit(bench: Bench, key: str, compute: Callable[[], dict[str, list]], *, after=None) -> pd.DataFrame:
    """The columns of one unit of work, read back or computed and saved; no rows if another shard is to compute it.

    after: frames of the units that `compute` reads, if it reads any. It waits until they are all there; what is still
    to be done then is done by the merge.
    """
    shard = bench.config.get("shard", "")
    mine = shards.computes(shard, key) or (shard == shards.MERGE and after is not None)
    ready = not any(frame.empty for frame in after or ())
    return pd.DataFrame(runlog.unit(bench.workdir, key, compute, bench.advance, mine=mine and ready) or {})


def first_prompts(bench: Bench, panel: str, count: int) -> tuple[setup.Panel, chats.Tokens]:
    """The first `count` prompts of a panel with their tokens; all it has if it is shorter."""
    whole, rows = bench.panels[panel], bench.tokens[panel]
    part = whole._replace(prompts=whole.prompts[:count], ids=whole.ids[:count])
    return part, chats.Tokens(rows.tokens[:count], rows.mask[:count])


def judged(bench: Bench, prompts, texts) -> dict[str, list]:
    """Columns harmful and degenerate of responses, and the responses themselves if the config asks for them."""
    columns = respond.score(bench.judge, bench.reward, prompts, texts)
    del columns["reward"]
    return columns | ({"response": list(texts)} if bench.config.generation.save else {})


def share(hits) -> dict[str, float]:
    """value, lo, hi, n of a share of true values, with Wilson's 95 % interval; NaN where there are none."""
    hits = np.asarray(hits, bool)
    lo, hi = stats.wilson_interval(int(hits.sum()), len(hits))
    return {"value": float(hits.mean()) if len(hits) else float("nan"), "lo": lo, "hi": hi, "n": len(hits)}


def with_control(attacked: dict, control: dict | None) -> dict:
    """A line's numbers with the same measure under the control beside them."""
    if control is None:
        return attacked
    return attacked | {"control": control["value"], "control_lo": control["lo"], "control_hi": control["hi"]}


def noise_key(bench: Bench, experiment: str):
    """A PRNG key of one experiment: the same for every variant, and apart from every other experiment's."""
    return jax.random.fold_in(jax.random.key(bench.config.seed), setup.text_id(experiment))


def new_tokens(bench: Bench, paper: int) -> int:
    """How long responses of an experiment may be: as configured, else the paper's number, or the organism's own."""
    if bench.config.generation.max_new_tokens:
        return bench.config.generation.max_new_tokens
    return ORGANISM_TOKENS if bench.subject.world is not None else paper


def pushed_answers(
    bench: Bench, loaded, tokens: chats.Tokens, rows, states, deltas, *, max_new_tokens: int
) -> list[str]:
    """Greedy answers with a vector added at every position, decode steps included.

    Args:
      tokens: of N prompts; rows: int [R], which prompt each answer is to; states: int [R]; deltas: float32 [R, D].
    """
    rows, states, deltas = np.asarray(rows), np.asarray(states), np.asarray(deltas, np.float32)

    def edits_of(part):
        edit = edits.add_at(states[part], deltas[part][:, None])
        return edit, edit

    return respond.answers(
        loaded,
        tokens.tokens[rows],
        tokens.mask[rows],
        batch=bench.config.rows,
        max_new_tokens=max_new_tokens,
        edits_of=edits_of,
    )


def states_named(bench: Bench, layers: str, field: str, *, embedding: bool = True) -> tuple[int, ...]:
    """Residual states of a config text: all, nudge (the place's own), or names; InputError lists those there are."""
    names = [models.layer_name(state) for state in range(bench.cfg.num_layers + 1)]
    if layers == "all":
        return tuple(range(0 if embedding else 1, len(names)))
    if layers == "nudge":
        return (bench.place().state,)
    wanted = [layer.strip() for layer in layers.split(",") if layer.strip()]
    unknown = [layer for layer in wanted if layer not in (names if embedding else names[1:])]
    if unknown or not wanted:
        raise InputError(
            f"{field} names {', '.join(map(repr, unknown)) or 'nothing'}; expected all, nudge, or some of "
            f"{', '.join(names if embedding else names[1:])}"
        )
    return tuple(sorted({names.index(layer) for layer in wanted}))
