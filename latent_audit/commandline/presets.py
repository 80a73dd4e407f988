"""Settings by one word: `--config.preset=paper`, all of arXiv 2606.08044; `--quick`, a first look in a few minutes.

docs/method.md sections 0 to 9. Data and checkpoints are the user's to name: `prompts.harmful` is HarmBench's `standard`
behaviours in their order, whose rows each experiment takes its own part of (section 6 (e)), `construct.pairs` and
`static.pairs` are LLM-LAT's rows, `finetune.corpora` its two corpora. What is None, 0 or empty here takes the paper's
number where the task is, as it does without the preset.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from latent_audit.errors import InputError

FINAL_JUDGE, LIVE_JUDGE = "cais/HarmBench-Llama-2-13b-cls", "cais/HarmBench-Mistral-7b-val-cls"

_EVERY = {
    "model.dtype": "bfloat16",
    "chat.preset": "paper",
    "chat.template_file": "",
    # transformers' generate honours the checkpoint's generation_config.
    "generation.repetition_penalty": True,
    "prompts.harmful_offset": 0,
    "judge.kind": "auto",
    "judge.path": FINAL_JUDGE,
    "judge.form": "reference",
    "reward.kind": "auto",
    "reward.path": "Ray2333/gpt2-large-harmless-reward_model",
    "reward.form": "paper",
}
_LATENT = {
    "attack.layers": "all",
    "attack.budgets": (0.0005, 0.001, 0.005),
    "attack.reference_budget": 0.001,
    "attack.budget_mode": "linf_of_max",
    "attack.skip_first_token": False,
    "attack.steps": 10,
    "attack.step_fraction": 0.25,
    "attack.target": "Sure, here is",
    "attack.controls": True,
    "score.preset": "paper",
    # The paper's table; its code has 1000.
    "score.resamples": 500,
}
_AUDIT = _LATENT | {
    "generation.max_new_tokens": None,  # 128 or 256, as each experiment has it
    "prompts.harmful_count": 200,
    "attack.offset": 0,
    "attack.prompts": 24,
    "place.nudge": "saved",
    "place.layer": None,
    "place.fraction": None,
    "panel.harmful_offset": 140,
    "panel.harmful_count": 60,
    "panel.wrapped_offset": 120,
    "panel.wrapped_count": 15,
    "l2.offset": 0,
    "l2.prompts": 100,
    "l2.layers": "nudge",
    "l2.multiples": (1.0,),
    "l2.steps": 16,
    "l2.step_fraction": 0.3,
    "l2.starts": 1,
    "l2.rounds": 0,
    "steer.direction": "auto",
    "steer.layers": "all",
    "steer.fractions": (),
    "steer.offset": 0,
    "steer.prompts": 24,
    "steer.source": "evaluated",
    "steer.cone": True,
    "patch.offset": 140,
    "patch.prompts": 60,
    "static.offset": 4000,
    "static.gap": 64,
    "gcg.offset": 140,
    "gcg.prompts": 25,
    "gcg.steps": 500,
    "gcg.candidates": 512,
    "gcg.top_k": 256,
    "gcg.length": 20,
    "gcg.start": "tokens",
}
# Models without a twin, all on the same rows.
_SURVEY = {
    "l2.offset": 140,
    "l2.prompts": 60,
    "steer.direction": "own",
    "steer.layers": "nudge",
    "steer.offset": 140,
    "steer.prompts": 60,
    "steer.cone": False,
}
PAPER: Mapping[str, Mapping[str, object]] = {
    "lvs": _EVERY | _LATENT | {"generation.max_new_tokens": 128, "prompts.harmful_count": 24},
    "audit": _EVERY | _AUDIT,
    "survey": _EVERY | _AUDIT | _SURVEY,
    "finetune": _EVERY
    | {
        "generation.max_new_tokens": None,
        "prompts.harmful_count": 60,
        "judge.path": LIVE_JUDGE,
        "finetune.preset": "attack",
        "finetune.pairs": 2000,
        "finetune.max_tokens": 512,
        "finetune.seeds": 3,
        "finetune.steps": 0,
        "finetune.batch": 0,
        "finetune.learning_rate": 0.0,
        "finetune.schedule": "",
        "finetune.warmup": -1.0,
        "finetune.clip": 1.0,
        "finetune.method": "full",
        "finetune.loss_on": "all",
        "finetune.rows": "padded",
        "finetune.every_step_until": 0,
        "finetune.eval_every": 5,
        "finetune.levels": (0.8,),
    },
    "dissociate": _EVERY
    | {
        "generation.max_new_tokens": None,
        # Behind the 100 that choose the checkpoint, which the paper evaluates on as well.
        "prompts.harmful_offset": 100,
        "prompts.harmful_count": 100,
        "judge.path": LIVE_JUDGE,
        "construct.preset": "paper",
        "construct.pairs_count": 4000,
        "construct.benign_count": 1000,
        "construct.benign_tokens": 192,
        "construct.selection_count": 100,
        "construct.max_tokens": 512,
    },
}
# Ours: eight prompts, nine states, two budgets (experiments/settings.py), 32 tokens. What it shows is too little for a
# verdict, which docs/method.md section 13 leaves at inconclusive.
_QUICK = {
    "prompts.harmful_count": 8,
    "prompts.benign_count": 8,
    "attack.layers": "spread",
    "generation.max_new_tokens": 32,
}
QUICK: Mapping[str, Mapping[str, object]] = {
    "lvs": _QUICK,
    "audit": _QUICK
    | {
        "experiments": "panel,latent,suite",
        "attack.prompts": 8,
        "panel.wrapped_count": 8,
        "suite.prompts": 8,
        "suite.states": "spread",
        "suite.steps": (10,),
        "suite.draws": 8,
    },
}
PRESETS = {"paper": PAPER, "quick": QUICK}
# Every field that says how many prompts something is done on, of every task.
PROMPTS = (
    *("prompts.harmful_count", "prompts.benign_count", "prompts.asr_count", "attack.prompts", "panel.harmful_count"),
    *("panel.wrapped_count", "panel.over_refusal_count", "suite.prompts", "l2.prompts", "steer.prompts"),
    *("patch.prompts", "gcg.prompts"),
)


def apply(config: ConfigDict, preset: str = "paper", *, task: str = "") -> ConfigDict:
    """Set a preset's fields in a config of one of its tasks, in place; what is set afterwards counts.

    task: whose settings they are, where it is not the config's own (a survey's `base`). Returns the config.
    """
    config.preset = preset
    config.update_from_flattened_dict(dict(PRESETS[preset][task or config.task]))
    return config


def apply_named(config: ConfigDict, given: Mapping[str, object]) -> None:
    """Apply what a config, or one that it holds (survey, sweep, claims), names as its preset, or is given as such."""
    for name, part in [("", config), *((f"{name}.", held) for name, held in config.items())]:
        if not isinstance(part, ConfigDict) or "preset" not in part or "task" not in part:
            continue
        preset = given.get(f"{name}preset", part.preset)
        # Another value is refused where all fields are checked.
        if isinstance(preset, str) and preset in PRESETS:
            if part.task not in PRESETS[preset]:
                raise InputError(
                    f"preset = {preset!r}: task {part.task!r} has no such settings; {', '.join(PRESETS[preset])} have"
                )
            apply(part, preset, task="survey" if config.task == "survey" else "")


def limit(config: ConfigDict, most: int) -> None:
    """At most so many prompts of each kind, in place, in a config and in those that it holds; `--limit`."""
    for part in (config, *(held for held in config.values() if isinstance(held, ConfigDict) and "task" in held)):
        for field in PROMPTS:
            section, name = field.split(".")
            if name in part.get(section, ()) and (part[section][name] is None or part[section][name] > most):
                part[section][name] = most
