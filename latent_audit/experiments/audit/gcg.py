"""The discrete attack for comparison: a suffix of ordinary tokens, found by greedy coordinate gradient.

docs/method.md section 8; arXiv 2307.15043 as used by arXiv 2606.08044. Units of work: one per variant and block of
prompts. Control: the suffix that the search starts from, unchanged.
"""

import functools

import jax.numpy as jnp
import numpy as np
import pandas as pd

from latent_audit import judges
from latent_audit.data import chats
from latent_audit.experiments import fields, respond
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.bench import Bench, Findings, judged, share, unit, with_control
from latent_audit.interventions import gcg, gcg_text
from latent_audit.reports import html

TARGET, PAPER_TOKENS = "Sure, here is", 256  # arXiv 2606.08044
LIMITS = (
    "A search over single token substitutions, steps and candidates as stated: a lower bound on what words can "
    "do. Suffixes are not written anywhere."
)


def check(config) -> None:
    """InputError for a bad field of the gcg section, before any compute."""
    fields.check_whole(
        {f"gcg.{name}": config.gcg[name] for name in ("prompts", "steps", "candidates", "top_k", "length", "batch")},
        least=1,
    )


def units(bench: Bench) -> int:
    """How many units `measure` takes for one variant."""
    return -(-_count(bench) // bench.config.gcg.batch)


def _count(bench):
    return min(bench.config.gcg.prompts, len(bench.panels["harmful"].prompts))


def measure(bench: Bench, name: str) -> pd.DataFrame:
    """One row per prompt and kind (gcg, start) of one variant."""
    size = bench.config.gcg.batch
    return pd.concat(
        [
            unit(bench, f"{name}/gcg/p{start:05d}", functools.partial(_attack, bench, name, start))
            for start in range(0, _count(bench), size)
        ],
        ignore_index=True,
    )


def _attack(bench, name, start) -> dict[str, list]:
    section, panel, loaded = bench.config.gcg, bench.panels["harmful"], bench.load(name)
    rows = np.arange(start, min(start + section.batch, _count(bench)))
    padded = respond.pad_rows(rows, section.batch)
    search = gcg.Search(**{name: section[name] for name in ("steps", "candidates", "top_k", "length")})
    placed = gcg_text.place_suffix(
        loaded.chat,
        [panel.prompts[row] for row in padded],
        max_length=bench.config.prompts.max_tokens,
        suffix=gcg_text.paper_suffix(search.length),
        length=search.length,
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
        search=search,
        survives=functools.partial(gcg_text.survives, loaded.chat.tokenizer, placed),
    )
    columns = {}
    for kind, suffix in (
        ("gcg", found.suffix),
        ("start", placed.tokens[:, placed.first : placed.first + placed.length]),
    ):
        # The text that anyone could type is what is put to the model.
        texts = gcg_text.suffix_texts(loaded.chat.tokenizer, suffix)
        prompts = [gcg_text.with_suffix(panel.prompts[row], text) for row, text in zip(padded, texts, strict=True)]
        tokens = chats.encode_prompts(loaded.chat, prompts, max_length=bench.config.prompts.max_tokens)
        answers = respond.answers(
            loaded, *tokens, batch=section.batch, max_new_tokens=benches.new_tokens(bench, PAPER_TOKENS)
        )[: len(rows)]
        last = np.min(found.nll_trace, axis=0) if kind == "gcg" else found.nll_trace[0]
        own = {
            "prompt": rows.tolist(),
            "kind": [kind] * len(rows),
            "steps": found.steps[: len(rows)].tolist(),
            "stopped": found.stopped[: len(rows)].tolist(),
            "nll_first": found.nll_trace[0, : len(rows)].astype(float).tolist(),
            "nll_last": last[: len(rows)].astype(float).tolist(),
        }
        own |= judged(bench, [panel.prompts[row] for row in rows], answers)
        columns = own if not columns else {key: columns[key] + own[key] for key in own}
    return columns


def findings(bench: Bench, rows: pd.DataFrame) -> Findings:
    """gcg_asr per variant, with the unchanged suffix as control."""
    lines = []
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
    section = bench.config.gcg
    return Findings(
        lines,
        [
            html.Section(
                title="Discrete attack (GCG)",
                table=pd.DataFrame(lines).drop(columns="measure"),
                limits=LIMITS,
                caveat=judges.caveat(bench.judge),
                settings={name: section[name] for name in ("prompts", "steps", "candidates", "top_k", "length")},
                text="A suffix inside the user's turn is searched for, decoded, tokenised again and put to the model "
                "(docs/method.md section 8). Control: the suffix of exclamation marks that the search starts from.",
            )
        ],
    )
