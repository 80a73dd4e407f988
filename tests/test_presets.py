"""Every setting that preset=paper sets, by task, with the paper's value written out once more."""

import pytest

from latent_audit.commandline import config_files, presets
from latent_audit.commandline.presets import PAPER
from latent_audit.errors import InputError
from latent_audit.experiments import fields, settings, tasks
from latent_audit.experiments.organisms import construct
from latent_audit.experiments.tampering import dissociate, finetune_settings

EVERY = """
model.dtype bfloat16 | chat.preset paper | chat.template_file '' | generation.repetition_penalty True
prompts.harmful_offset 0 | judge.kind auto | judge.path cais/HarmBench-Llama-2-13b-cls | judge.form reference
reward.kind auto | reward.path Ray2333/gpt2-large-harmless-reward_model | reward.form paper
"""
LATENT = """
attack.layers all | attack.budgets (.0005,.001,.005) | attack.reference_budget .001 | attack.budget_mode linf_of_max
attack.skip_first_token False | attack.steps 10 | attack.step_fraction .25 | attack.target 'Sure, here is'
attack.controls True | score.preset paper | score.resamples 500
"""
AUDIT = """
generation.max_new_tokens None | prompts.harmful_count 200 | attack.offset 0 | attack.prompts 24
place.nudge saved | place.layer None | place.fraction None
panel.harmful_offset 140 | panel.harmful_count 60 | panel.wrapped_offset 120 | panel.wrapped_count 15
l2.offset 0 | l2.prompts 100 | l2.layers nudge | l2.multiples (1.0,) | l2.steps 16 | l2.step_fraction .3 | l2.starts 1
l2.rounds 0 | patch.offset 140 | patch.prompts 60 | static.offset 4000 | static.gap 64
steer.direction auto | steer.layers all | steer.fractions () | steer.offset 0 | steer.prompts 24
steer.source evaluated | steer.cone True
gcg.offset 140 | gcg.prompts 25 | gcg.steps 500 | gcg.candidates 512 | gcg.top_k 256 | gcg.length 20 | gcg.start tokens
"""
SURVEY = """
l2.offset 140 | l2.prompts 60 | steer.direction own | steer.layers nudge | steer.offset 140 | steer.prompts 60
steer.cone False
"""
FINETUNE = """
generation.max_new_tokens None | prompts.harmful_count 60 | judge.path cais/HarmBench-Mistral-7b-val-cls
finetune.preset attack | finetune.pairs 2000 | finetune.max_tokens 512 | finetune.seeds 3 | finetune.clip 1.0
finetune.steps 0 | finetune.batch 0 | finetune.learning_rate 0.0 | finetune.schedule '' | finetune.warmup -1.0
finetune.method full | finetune.loss_on all | finetune.rows padded | finetune.every_step_until 0 | finetune.eval_every 5
finetune.levels (.8,)
"""
DISSOCIATE = """
generation.max_new_tokens None | prompts.harmful_offset 100 | prompts.harmful_count 100
judge.path cais/HarmBench-Mistral-7b-val-cls | construct.preset paper | construct.pairs_count 4000
construct.benign_count 1000 | construct.benign_tokens 192 | construct.selection_count 100 | construct.max_tokens 512
"""
SETS = {
    "lvs": (EVERY, LATENT, "generation.max_new_tokens 128 | prompts.harmful_count 24"),
    **{name: (EVERY, LATENT, AUDIT) for name in ("audit", "panel", "l2", "steer", "patch", "static", "gcg")},
    "survey": (EVERY, LATENT, AUDIT, SURVEY),
    "finetune": (EVERY, FINETUNE),
    "dissociate": (EVERY, DISSOCIATE),
}


def listed(*texts):
    """Field -> value of lists as above; a later one counts before an earlier one."""
    found = {}
    for text in texts:
        for part in text.strip().replace("\n", "|").split("|"):
            name, value = part.split(maxsplit=1)
            try:
                found[name] = eval(value, {"__builtins__": {}})
            except (NameError, SyntaxError, TypeError):
                found[name] = value.strip()
    return found


def made(name, given):
    config = config_files.load(name).config
    config_files.set_fields(config, given)
    return config


@pytest.mark.parametrize("name", SETS)
def test_every_setting_of_the_paper_is_set(name):
    prefix = "base." if name == "survey" else ""
    plain, paper = (dict(fields.leaves(made(name, given))) for given in ({}, {f"{prefix}preset": "paper"}))
    expected = {prefix + field: value for field, value in listed(*SETS[name]).items()}
    assert {field: paper[field] for field in expected} == expected
    # What it leaves alone is as without it, and what it changes is on the list.
    changed = {field for field in paper if paper[field] != plain[field]}
    assert changed <= expected.keys() | {f"{prefix}preset"}
    task = "survey" if name == "survey" else config_files.load(name).config.task
    assert {prefix + field for field in PAPER[task]} == expected.keys()
    fields.check(made(name, {f"{prefix}preset": "paper"}))


def test_every_task_of_the_paper_has_the_preset_and_no_other():
    for name in config_files.tasks():
        config = config_files.load(name if name != "sweep" else "sweep:lvs").config
        held = config.get("base", config)
        assert ("preset" in held) == (held.task in PAPER), name
        assert "preset" not in held or held.preset == ""


def test_a_field_given_beside_the_preset_counts():
    given = {"attack.steps": "3", "preset": "paper", "chat.preset": "default"}
    for order in (list(given), list(given)[::-1]):
        config = made("lvs", {name: given[name] for name in order})
        assert (config.attack.steps, config.chat.preset, config.score.resamples) == (3, "default", 500)
    # As for one that is the default already.
    assert made("audit", {"preset": "paper", "prompts.harmful_count": "100"}).prompts.harmful_count == 100
    with pytest.raises(InputError, match="preset = 'papr', expected one of '' \\(empty\\), paper"):
        tasks.check_fields(made("lvs", {"preset": "papr"}))
    with pytest.raises(InputError, match="config.preset: there is no such field"):
        made("abliterate", {"preset": "paper"})


def test_configs_that_are_held_have_their_own():
    config = made("claims", {"lvs.preset": "paper"})
    assert config.lvs.score.resamples == 500 and config.finetune.finetune.loss_on == "response"
    assert made("sweep:l2", {"base.preset": "paper"}).base.l2.multiples == (1.0,)


def test_the_numbers_that_are_left_to_presets_of_their_own_are_the_papers():
    config = made("finetune", {"preset": "paper"})
    attack = finetune_settings.check_finetune(config, is_organism=True)
    assert (attack.steps, attack.batch, attack.learning_rate, attack.schedule) == (150, 4, 1e-5, "constant")
    assert attack.evaluated == tuple(range(0, 151, 5)) and attack.loss_on == "all"
    # The harmful pole's, where it is named beside the paper's.
    pole = finetune_settings.check_finetune(made("finetune", {"preset": "paper", "finetune.preset": "pole"}),
                                            is_organism=False)  # fmt: skip
    assert (pole.steps, pole.batch, pole.learning_rate, pole.schedule, pole.warmup) == (600, 16, 5e-5, "cosine", 0.03)
    recipe = dissociate.make_recipe(made("dissociate", {"preset": "paper"}), is_organism=True, num_layers=28)
    assert recipe == construct.PAPER
    assert (recipe.fraction, recipe.steps, recipe.learning_rate, recipe.eval_every) == (0.06, 3130, 1e-5, 50)
    assert (recipe.micro_batch, recipe.accumulate, recipe.warmup_fraction, recipe.nudge_layer) == (2, 8, 0.1, None)
    weights = recipe.weights
    assert (weights.refuse, weights.stay, weights.match, weights.comply) == (1.0, 0.3, 0.2, 1.0)
    assert (weights.clean_hinge, weights.nudged_hinge, weights.margin) == (1.0, 1.0, 0.5)


def test_tokens_of_every_experiment_are_the_papers():
    from latent_audit.experiments.audit import behaviour, gcg, l2, latent, patch, steer
    from latent_audit.experiments.tampering import finetune_training

    short, long = (latent, steer, patch), (l2, behaviour, gcg, finetune_training, dissociate)
    assert [module.PAPER_TOKENS for module in short] == [128] * 3
    assert [module.PAPER_TOKENS for module in long] == [256] * 5
    assert all(made(name, {}).generation.max_new_tokens is None for name in ("audit", "finetune", "dissociate"))


@pytest.mark.parametrize("task", ["lvs", "audit"])
def test_a_quick_look_takes_little_and_what_is_typed_counts_before_it(task):
    config = config_files.load(task).config
    config_files.set_fields(config, {"preset": "quick", "prompts.harmful_count": "3"})
    assert config.prompts.harmful_count == 3 and config.prompts.benign_count == 8
    assert config.generation.max_new_tokens == 32
    attack = settings.check_attack(config, is_organism=False, num_layers=30)
    assert attack.budgets == (0.0005, 0.001) and len(attack.states) == 9
    assert {attack.states[0], attack.states[-1]} == {0, 30}
    # A small model has fewer states than nine, all of which are taken once.
    assert settings.check_attack(config, is_organism=True, num_layers=4).states == (0, 1, 2, 3, 4)


def test_tasks_without_a_quick_form_say_so():
    with pytest.raises(InputError, match="task 'finetune' has no such settings; lvs, audit have"):
        config_files.set_fields(config_files.load("finetune").config, {"preset": "quick"})


@pytest.mark.parametrize("name", config_files.tasks())
def test_a_limit_holds_for_every_number_of_prompts(name):
    """Of every field whose unit is prompts; where one is left out (batches, offsets, what is trained on) is listed."""
    spared = {
        "prompt_batch",
        "batch",
        "train",
        "validation",
        "selection_prompts",
        "nudged_prompts",
        "benign_count",
        "selection_count",
    }
    config = config_files.load(name).config
    counted = {
        field
        for field, known in fields.rows(config)
        if known.unit == "prompts" and "offset" not in field and not set(field.split(".")[-1:]) & spared
    }
    counted |= {field for field, _ in fields.rows(config) if field.endswith("prompts.benign_count")}
    presets.limit(config, 2)
    values = {field: value for field, value in fields.leaves(config) if field in counted}
    assert values.keys() == counted and all(value is not None and value <= 2 for value in values.values()), values
    presets.limit(config, 5)
    assert values == {field: value for field, value in fields.leaves(config) if field in counted}
