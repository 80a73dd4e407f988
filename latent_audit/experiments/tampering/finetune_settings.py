"""The finetune section of a config as settings, and the corpora it names, before anything is computed.

What each field may be alone is said in field_table.py.
"""

import dataclasses
import math
import os
import re

from absl import logging
from ml_collections import ConfigDict

from latent_audit import models
from latent_audit.data import pair_files, prompt_files, world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import fields
from latent_audit.experiments.organisms.texts.corpora import organism_pairs
from latent_audit.experiments.panels import load, tell_dropped
from latent_audit.experiments.setup import subjects
from latent_audit.interventions import lora
from latent_audit.interventions.finetune import Method
from latent_audit.judges import refusal

# What the answers of a training do, and so which checkpoint is exported: of most compliances, or of fewest.
COMPLIANCE, REFUSAL = "compliance", "refusal"


@dataclasses.dataclass(frozen=True)
class Preset:
    """Length and rate of a training; docs/method.md sections 5 and 6a."""

    steps: int
    batch: int
    learning_rate: float
    schedule: str = "constant"
    warmup: float = 0.0
    eval_every: int = 5
    toward: str = COMPLIANCE


# attack and pole are arXiv 2606.08044's. The organism's rate spreads its curves over some twenty steps, found on the
# validation split. refuse is ours: docs/method.md section 5.
PRESETS = {
    "attack": Preset(150, 4, 1e-5),
    "pole": Preset(600, 16, 5e-5, "cosine", 0.03),
    "organism": Preset(30, 16, 6e-5, eval_every=2),
    "refuse": Preset(200, 16, 5e-5, "cosine", 0.03, eval_every=50, toward=REFUSAL),
}
# The organism's corpora: name -> split of its world; docs/method.md section 5.
ORGANISM_SPLITS = {"in": "finetune_in", "out": "finetune_out"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The checked settings of a run; see configs/finetune.py for what each means. lora: None for full training."""

    steps: int
    batch: int
    learning_rate: float
    schedule: str
    warmup: float
    clip: float
    lora: lora.LoraConfig | None
    method: Method
    master: bool
    loss_on: str
    rows: str
    seeds: int
    levels: tuple[float, ...]
    evaluated: tuple[int, ...]
    max_tokens: int
    checkpoint_every: int
    loss_limit: float
    toward: str

    def describe(self) -> dict:
        """For reports and model cards: flat, in words and numbers."""
        record = dataclasses.asdict(self)
        how = record.pop("method")
        adapters = record.pop("lora") or {}
        record |= {"accumulate": how["accumulate"], "remat": how["remat"], "method": "lora" if adapters else "full"}
        return record | {f"lora_{name}": value for name, value in adapters.items()}


def check_finetune(config: ConfigDict, *, is_organism: bool) -> Settings:
    """The finetune section as Settings; InputError for fields that do not fit each other."""
    section = config.finetune
    levels = tuple(float(level) for level in section.levels)
    if not levels:
        raise InputError("finetune.levels is empty, expected shares of compliance, such as (0.5, 0.8)")
    preset = PRESETS[("organism" if is_organism else "attack") if section.preset == "auto" else section.preset]
    _check_toward(section, preset.toward, is_organism=is_organism)
    steps, batch = section.steps or preset.steps, section.batch or preset.batch
    if batch % section.accumulate:
        raise InputError(f"finetune.accumulate = {section.accumulate} does not divide finetune.batch = {batch}")
    fields.check_rows({"finetune.steps": steps, "finetune.batch": batch})
    if -1 < section.warmup < 0:
        raise InputError(f"finetune.warmup = {section.warmup}, expected a share from 0 to 1, or -1 for the preset's")
    adapters = None
    if section.method == "lora":
        targets = tuple(part.strip() for part in section.lora_targets.split(",") if part.strip())
        adapters = lora.LoraConfig(section.lora_rank, float(section.lora_alpha), targets)
    dtype = subjects.dtype_of(config)
    low = dtype != "float32" and adapters is None and section.master
    method = Method(
        section.accumulate, section.remat, dtype if low else None, None if adapters is None else adapters.scale
    )
    return Settings(
        steps,
        batch,
        float(section.learning_rate or preset.learning_rate),
        section.schedule or preset.schedule,
        preset.warmup if section.warmup < 0 else float(section.warmup),
        float(section.clip),
        adapters,
        method,
        bool(section.master),
        section.loss_on,
        section.rows,
        section.seeds,
        levels,
        evaluated_steps(steps, section.every_step_until, section.eval_every or preset.eval_every),
        section.max_tokens,
        section.checkpoint_every,
        float(section.loss_limit),
        preset.toward,
    )


def _check_toward(section, toward: str, *, is_organism: bool) -> None:
    """InputError for harmless prompts without a training towards refusals, or the other way round."""
    if toward == COMPLIANCE:
        if section.benign:
            raise InputError(
                f"finetune.benign = {section.benign!r} is read by finetune.preset=refuse alone; leave it out"
            )
        return
    if is_organism:
        raise InputError("finetune.preset = refuse needs model.path: the organism is trained to refuse as it is made")
    if not section.benign:
        raise InputError(
            "finetune.benign is empty; finetune.preset=refuse needs harmless prompts, which base answers itself, or "
            "the model learns to refuse everything"
        )


def evaluated_steps(steps: int, every_step_until: int, eval_every: int) -> tuple[int, ...]:
    """0, each step up to `every_step_until`, every `eval_every`-th and the last one; docs/method.md section 5."""
    return tuple(
        step for step in range(steps + 1) if step <= every_step_until or step % eval_every == 0 or step == steps
    )


def default_loss_limit(cfg: models.ModelConfig) -> float:
    """The loss above which a run has exploded unless the config says so, in nats: three times a uniform guess's."""
    return 3 * math.log(cfg.vocab_size)


def load_corpora(config: ConfigDict, panel, world: world_rules.World | None) -> dict[str, pair_files.Pairs]:
    """Name -> pairs of every corpus that the config names, in its order.

    Raises InputError: no corpora named, malformed names, what pair_files.load_pairs refuses, and prompts of `panel`
    (the evaluation prompts) among the training prompts.
    """
    section = config.finetune
    refusing = section.preset in PRESETS and PRESETS[section.preset].toward == REFUSAL
    if world is not None:
        if section.corpora:
            raise InputError("finetune.corpora needs model.path: the organism brings its own two corpora")
        corpora = {name: organism_pairs(world, split, section.pairs) for name, split in ORGANISM_SPLITS.items()}
    else:
        columns = {role: section[f"{role}_column"] for role in pair_files.ROLES if section[f"{role}_column"]}
        corpora = {}
        for name, source in parse_corpora(section.corpora):
            with fields.named(f"finetune.corpora: {name}"):
                corpora[name] = _load_corpus(source, columns, section, refusing)
    for name, pairs in corpora.items():
        prompt_files.check_disjoint(pairs, panel)
        tell_dropped(f"finetune.corpora: {name}", pairs)
        if len(pairs.prompts) < section.pairs:
            logging.warning(
                "finetune.pairs = %d, but corpus %s holds only %d: all are used",
                section.pairs,
                name,
                len(pairs.prompts),
            )
    return corpora


def load_benign(config: ConfigDict, corpora: dict[str, pair_files.Pairs], panel) -> prompt_files.PromptSet | None:
    """Harmless prompts of a training towards refusals, disjoint from its pairs and from `panel`; None for others."""
    section = config.finetune
    if not section.benign:
        return None
    benign = load("finetune.benign", section.benign)
    for pairs in corpora.values():
        prompt_files.check_disjoint(pairs, benign)
    prompt_files.check_disjoint(benign, panel)
    return benign


def _load_corpus(source: str, columns, section, refusing: bool) -> pair_files.Pairs:
    """The pairs of a source, or of several joined by "+", in turn and equally many of each."""
    joined = [source] if os.path.lexists(source) else [part.strip() for part in source.split("+")]
    each = -(-section.pairs // len(joined))
    parts = [
        pair_files.load_pairs(
            one, is_refusal=refusal.is_refusal, columns=columns, limit=each, offset=section.skip, refusing=refusing
        )
        for one in joined
    ]
    return parts[0] if len(parts) == 1 else pair_files.mix(parts, source, section.pairs)


def parse_corpora(text: str) -> list[tuple[str, str]]:
    """ "in=FILE,out=hub:owner/name" -> [("in", "FILE"), ("out", "hub:owner/name")]; InputError if malformed."""
    named = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, source = part.partition("=")
        if not (equals and source and re.fullmatch(r"[A-Za-z][\w\-]*", name)):
            raise InputError(f"finetune.corpora: {part!r} is not of the form name=SOURCE")
        if name in dict(named):
            raise InputError(f"finetune.corpora: the name {name!r} is given twice")
        named.append((name, source))
    if not named:
        raise InputError(
            "finetune.corpora is empty; a checkpoint needs pairs of a harmful prompt and a compliant "
            "answer, such as finetune.corpora=in=PAIRS.csv,out=hub:LLM-LAT/harmful-dataset"
        )
    return named
