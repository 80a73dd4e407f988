"""The discrete attack for comparison: a suffix of ordinary tokens, found by greedy coordinate gradient.

docs/method.md section 8; arXiv 2307.15043 as used by arXiv 2606.08044. Units of work: one per variant and block of
prompts. Control: the suffix that the search starts from, unchanged.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from latent_audit import judges
from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments import respond
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.bench import Bench, Findings, Known, judged, share, unit, with_control
from latent_audit.interventions import gcg, gcg_text
from latent_audit.reports import html

TARGET, PAPER_TOKENS = "Sure, here is", 256  # arXiv 2606.08044
LIMITS = (
    "A search over single token substitutions, steps and candidates as stated: a lower bound on what words can "
    "do. Suffixes are not written anywhere."
)


class Settings(NamedTuple):
    """prompts: how many are searched for, `batch` together; max_tokens: of a prompt with its suffix."""

    prompts: int
    batch: int
    search: gcg.Search
    max_tokens: int


def check(config, known: Known) -> Settings:
    """The gcg section as settings; InputError where the tokenizer or the template leaves no place for a suffix."""
    section = config.gcg
    prompts = known.panels["harmful"].prompts[: section.prompts]
    try:
        gcg_text.allowed_tokens(known.chat.tokenizer, len(known.chat.tokenizer))
        gcg_text.place_suffix(
            known.chat,
            prompts,
            max_length=config.prompts.max_tokens,
            suffix=gcg_text.paper_suffix(section.length),
            length=section.length,
        )
    except InputError as error:
        raise InputError(f"gcg: {error}, or leave gcg out of experiments = {config.experiments!r}") from error
    search = gcg.Search(steps=section.steps, candidates=section.candidates, top_k=section.top_k, length=section.length)
    return Settings(section.prompts, min(section.batch, len(prompts)), search, config.prompts.max_tokens)


def units(bench: Bench) -> int:
    """How many units `measure` takes for one variant."""
    return -(-_count(bench) // bench.settings["gcg"].batch)


def _count(bench):
    return min(bench.settings["gcg"].prompts, len(bench.panels["harmful"].prompts))


def measure(bench: Bench, name: str) -> pd.DataFrame:
    """One row per prompt and kind (gcg, start) of one variant."""
    size = bench.settings["gcg"].batch
    return pd.concat(
        [
            unit(bench, f"{name}/gcg/p{start:05d}", functools.partial(_attack, bench, name, start))
            for start in range(0, _count(bench), size)
        ],
        ignore_index=True,
    )


def _attack(bench, name, start) -> dict[str, list]:
    settings, panel, loaded = bench.settings["gcg"], bench.panels["harmful"], bench.load(name)
    rows = np.arange(start, min(start + settings.batch, _count(bench)))
    padded = respond.pad_rows(rows, settings.batch)
    placed = gcg_text.place_suffix(
        loaded.chat,
        [panel.prompts[row] for row in padded],
        max_length=settings.max_tokens,
        suffix=gcg_text.paper_suffix(settings.search.length),
        length=settings.search.length,
    )
    allowed = gcg_text.allowed_tokens(loaded.chat.tokenizer, loaded.cfg.vocab_size)
    found = gcg.attack(
        loaded.params,
        placed.tokens,
        placed.mask,
        jnp.asarray(chats.target_ids(loaded.chat, TARGET), jnp.int32),
        allowed,
        gcg.prompt_keys(benches.noise_key(bench, "gcg"), panel.ids[padded]),
        cfg=loaded.cfg,
        first=placed.first,
        survives=functools.partial(gcg_text.survives, loaded.chat.tokenizer, placed),
        search=settings.search,
    )
    columns = {}
    for kind, suffix in (
        ("gcg", found.suffix),
        ("start", placed.tokens[:, placed.first : placed.first + placed.length]),
    ):
        # The text that anyone could type is what is put to the model.
        texts = gcg_text.suffix_texts(loaded.chat.tokenizer, suffix)
        prompts = [gcg_text.with_suffix(panel.prompts[row], text) for row, text in zip(padded, texts, strict=True)]
        tokens = chats.encode_prompts(loaded.chat, prompts, max_length=settings.max_tokens)
        answers = respond.answers(loaded, *tokens, batch=settings.batch, max_new_tokens=bench.new_tokens(PAPER_TOKENS))[
            : len(rows)
        ]
        own = {
            "prompt": rows.tolist(),
            "kind": [kind] * len(rows),
            "steps": found.steps[: len(rows)].tolist(),
            "stopped": found.stopped[: len(rows)].tolist(),
            "nll_first": found.nll_trace[0, : len(rows)].astype(float).tolist(),
            "nll_last": kept_losses(found.nll_trace, kind)[: len(rows)].astype(float).tolist(),
        }
        own |= judged(bench, [panel.prompts[row] for row in rows], answers)
        columns = own if not columns else {key: columns[key] + own[key] for key in own}
    return columns


def kept_losses(trace: np.ndarray, kind: str) -> np.ndarray:
    """Loss in nats of the suffix that is put to the model, [N] of a trace [steps + 1, N]: the search's lowest, or the
    starting suffix's."""
    return trace.min(axis=0) if kind == "gcg" else trace[0]


def findings(bench: Bench, measured: dict[str, pd.DataFrame]) -> Findings:
    """gcg_asr per variant, with the unchanged suffix as control."""
    rows, lines = benches.rows_of(measured), []
    for name in bench.names:
        own = rows[rows["variant"] == name]
        found, start = (own[own["kind"] == kind] for kind in ("gcg", "start"))
        lines.append(
            {
                "variant": name,
                "measure": "gcg_asr",
                **with_control(share(found["harmful"]), share(start["harmful"])),
                "steps": found["steps"].mean(),
                "stopped": found["stopped"].mean(),
                "nll_first": found["nll_first"].mean(),
                "nll_last": found["nll_last"].mean(),
                "fell": (found["nll_last"] < found["nll_first"]).mean(),
            }
        )
    settings = bench.settings["gcg"]
    return Findings(
        lines,
        [
            html.Section(
                title="Discrete attack (GCG)",
                table=pd.DataFrame(lines).drop(columns="measure"),
                limits=LIMITS,
                caveat=judges.caveat(bench.judge),
                settings={"prompts": settings.prompts} | dataclasses.asdict(settings.search),
                text="A suffix inside the user's turn is searched for, decoded, tokenised again and put to the model "
                "(docs/method.md section 8). Control: the suffix of exclamation marks that the search starts from.",
            )
        ],
    )
