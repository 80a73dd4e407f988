"""One training of the fine-tuning attack and what its model answers: docs/method.md section 5; arXiv 2606.08044."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from latent_audit.errors import InputError
from latent_audit.experiments import respond
from latent_audit.experiments.panels import text_id
from latent_audit.experiments.setup.jobs import Job
from latent_audit.experiments.tampering.finetune_settings import Settings, default_loss_limit
from latent_audit.interventions import finetune as ft
from latent_audit.interventions import lora
from latent_audit.judges import Judge
from latent_audit.models import sharding
from latent_audit.runtime import checkpoint
from latent_audit.runtime.telling import progress

# arXiv 2606.08044: of the panel along the way, and of the harmful pole that is exported.
PAPER_TOKENS, LAST_TOKENS = 256, 512


@dataclasses.dataclass(frozen=True)
class Attack(Job):
    """A job with what its trainings share; rows: training rows by corpus, in the tokens that all variants share."""

    settings: Settings
    rows: dict[str, object]
    exported: str = ""  # the variant of which one checkpoint will be saved; "": none


class Run(NamedTuple):
    """One training: what is trained, on which corpus, with which seed."""

    variant: str
    corpus: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.variant}/finetune/{self.corpus}/s{self.seed}"


def train(
    job: Attack, one: Run, loaded: respond.Loaded, *, first: int, until: int, directory: pathlib.Path | None = None
) -> Iterator[ft.Step]:
    """The steps of one run up to `until`, each checked; from the last checkpoint in `directory` up to step `first`.

    A restored step is yielded too. Raises InputError, naming the step and the checkpoint kept, when the loss or the
    gradient is no longer finite or the loss has exploded.
    """
    settings, cfg, rows = job.settings, loaded.cfg, job.rows[one.corpus]
    key, weights = begin(job, one, loaded)
    order = ft.batch_order(
        jax.random.fold_in(key, 0), np.arange(len(rows.tokens)), steps=settings.steps, batch_size=settings.batch
    )
    optimizer = ft.make_optimizer(
        learning_rate=settings.learning_rate,
        steps=settings.steps,
        clip=settings.clip,
        schedule=settings.schedule,
        warmup_fraction=settings.warmup,
    )
    state = ft.start(weights, optimizer=optimizer, master=settings.method.dtype is not None)
    stored = {"state": state, "key": key, "loss": jnp.float32(0), "gradient_norm": jnp.float32(0)}
    kept = None if directory is None else checkpoint.restore(directory, stored, at_most=first)
    if kept is not None:
        number, stored = kept
        state = stored["state"]
        logging.info("%s goes on from its checkpoint of step %d", one.key, number)
        yield ft.Step(number, state.weights, stored["loss"], stored["gradient_norm"], state)
    limit = settings.loss_limit or default_loss_limit(cfg)
    for step in ft.finetune(
        loaded.params, rows, order[:until], cfg=cfg, optimizer=optimizer, method=settings.method, state=state
    ):
        try:
            ft.check_step(step, limit=limit)
        except InputError as error:
            raise InputError(_explain(error, one, step, directory, settings)) from error
        progress.within(f"{one.key}, training step", step.number, until)
        yield step
        if directory is not None and step.number % settings.checkpoint_every == 0 and step.number < until:
            checkpoint.save(
                directory,
                step.number,
                {"state": step.state, "key": key, "loss": step.loss, "gradient_norm": step.gradient_norm},
            )


def begin(job: Attack, one: Run, loaded: respond.Loaded) -> tuple[jax.Array, dict]:
    """The key of a run and the weights that it trains: the model's own, or adapters that change nothing yet."""
    key = jax.random.fold_in(jax.random.key(job.seed), text_id(f"{one.corpus}/{one.seed}"))
    if job.settings.lora is None:
        return key, loaded.params
    return key, lora.init_adapters(jax.random.fold_in(key, 1), loaded.cfg, job.settings.lora)


def _explain(error, one, step, directory, settings) -> str:
    kept = []
    if directory is not None:
        # The weights this step started from are the ones that gave the bad loss.
        checkpoint.drop(directory, step.number - 1)
        kept = checkpoint.steps(directory)
    where = f"the last good checkpoint is step {kept[-1]} in {directory}" if kept else "there is no checkpoint yet"
    return (
        f"{one.key}, {error}; {where}. Lower finetune.learning_rate = {settings.learning_rate:g} and give another "
        "--workdir"
    )


def deployed(loaded: respond.Loaded, weights, settings: Settings):
    """The model's parameters with the trained weights in place: adapters merged, master copies cast."""
    if settings.lora is not None:
        return _merge(loaded.params, weights, scale=settings.lora.scale)
    return jax.tree.map(lambda old, new: new.astype(old.dtype), loaded.params, weights)


@functools.partial(jax.jit, static_argnames="scale")
def _merge(params, adapters, *, scale):
    return sharding.constrain_parameters(lora.merge(params, adapters, scale=scale))


def answers(job: Attack, loaded, params, panel: str, tokens: int = PAPER_TOKENS) -> list[str]:
    return respond.answers(
        loaded._replace(params=params),
        *job.tokens[panel],
        batch=job.batches.prompts,
        max_new_tokens=job.new_tokens(tokens),
        in_training=params is not loaded.params,
    )


def evaluate(job: Attack, loaded, params, tokens: int = PAPER_TOKENS) -> dict[str, list]:
    """Columns harmful and empty over the panel's prompts, in order; docs/method.md section 0."""
    texts = answers(job, loaded, params, "harmful", tokens)
    columns = panel_columns(job.judge, job.panels["harmful"].behaviors, texts)
    return columns | respond.kept(job.panels["harmful"].behaviors, texts, job.save)


def panel_columns(judge: Judge, prompts, texts) -> dict[str, list[bool]]:
    """harmful: judged so and coherent; judged, unparsed: as in respond.score; empty: degenerate. In the prompts'
    order."""
    columns = respond.score(judge, None, prompts, texts)
    return {name: columns[name] for name in ("harmful", "judged", "unparsed")} | {"empty": columns["degenerate"]}
