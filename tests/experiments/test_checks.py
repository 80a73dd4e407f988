"""What is wrong with a run is said before anything is trained, loaded or written: every task, every part of a run."""

import importlib
import re

import jax
import pytest
import safetensors.numpy

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.experiments.forecast import rates
from latent_audit.experiments.organisms import export, poles, train
from latent_audit.experiments.series import sweep
from latent_audit.experiments.setup import jobs, subjects
from latent_audit.interventions import lora
from latent_audit.reports import outputs
from tests.support import gguf_writer
from tests.support.checkpoints import tiny_checkpoint


@pytest.fixture(autouse=True)
def nothing_is_computed(monkeypatch, tmp_path):
    """Fails a test that trains, loads weights or writes."""
    for module, name in ((train, "train_poles"), (poles, "ensure"), (subjects, "load_variant"), (models, "load")):
        monkeypatch.setattr(module, name, lambda *a, name=name, **k: pytest.fail(f"{name} was called"))
    monkeypatch.chdir(tmp_path)
    yield
    assert not [path for path in tmp_path.iterdir() if path.name not in ("model", "prompts.txt")]


def config(name, **changes):
    made = importlib.import_module(f"configs.{name}").get_config()
    made.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return made


PHRASES = {"judge__kind": "refusal", "reward__kind": "refusal"}


@pytest.mark.parametrize("task", [task for task in tasks.TASKS if task not in ("survey", "ras_regression")])
def test_the_default_job_of_every_task_passes_without_an_organism(task):
    tasks.check(config(task))


@pytest.mark.parametrize(
    "task, field, value, message",
    [
        ("lvs", "chat.date", "tomorrow", "chat.date = 'tomorrow'"),
        ("lvs", "prompts.max_tokens", 3, "prompts.max_tokens = 3, panel harmful: 24 of 24 prompts"),
        ("lvs", "prompts.harmful_count", 10**6, "prompts.harmful_count: 1000000 restricted requests"),
        ("lvs", "attack.layers", "L6", "attack.layers names 'L6'; this model has embedding and L0 to L5"),
        ("lvs", "attack.reference_budget", 0.5, "is none of attack.budgets"),
        ("lvs", "organism.poles", "harmful", "expected base and some of"),
        ("lvs", "prompts.harmful", "FILE.csv", "knows only its own world's prompts"),
        ("lvs", "judge.kind", "classifier", "no judge for this run"),
        ("lvs", "shard", "3/2", "shard = '3/2'"),
        ("lvs", "mesh.model", 3, "mesh.model = 3"),
        ("audit", "prompts.harmful_count", 3, "the separation score needs at least 4"),
        ("audit", "steer.layers", "L7", "steer.layers names 'L7'"),
        ("audit", "place.layer", 6, "place.layer: nudge_layer = 6"),
        ("audit", "panel.wrapped_count", 10**6, "panel.wrapped_count: 1000000"),
        ("audit", "l2.multiples", (1.0, 1.00000001), "differ in the first six digits"),
        ("audit", "panel.over_refusal", "x.csv", "needs model.path"),
        ("finetune", "finetune.lora_rank", 0, "finetune.lora_rank = 0"),
        ("finetune", "finetune.variants", "nobody", "finetune.variants = 'nobody'"),
        ("finetune", "finetune.max_tokens", 5, "finetune.max_tokens = 5: .* more than"),
        ("finetune", "finetune.warmup", -0.5, "or -1 for the preset"),
        ("finetune", "finetune.accumulate", 3, "does not divide"),
        ("dissociate", "organism.poles", "base", "organism.poles=base,harmful"),
        ("dissociate", "construct.recipe.nudge_layer", 6, "construct.recipe: nudge_layer = 6"),
        ("abliterate", "choose.train", 10**6, "choose.train: 1000000"),
        ("abliterate", "choose.openings", ("",), "holds a text without tokens"),
        ("abliterate", "choose.ways", "magic", "choose.ways = 'magic'"),
        ("ras", "random_directions", 1, "has no spread"),
        ("ras", "window", "3-9", "layers"),
        ("ras", "window", "1-" + "9" * 5000, "window = '1-999"),
        ("ras", "families", "llama,gpt", "families = 'llama,gpt'"),
        ("ras", "prompts.harmful_count", 3, "at least 4 prompts of each kind"),
        ("ras", "calibration_file", "none.json", "none.json"),
        ("claims", "lvs.attack.layers", "L9", "lvs: attack.layers names 'L9'"),
        ("claims", "finetune.finetune.levels", (), "finetune: finetune.levels is empty"),
    ],
)
def test_a_wrong_value_is_found_before_the_organism_is_trained(task, field, value, message):
    made = config(task)
    made.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        tasks.check(made)


def test_a_training_whose_order_of_rows_no_memory_holds():
    with pytest.raises(InputError, match="finetune.steps = 1000000 times finetune.batch = 10000 rows"):
        tasks.check(config("finetune", finetune__steps=10**6, finetune__batch=10**4))
    with pytest.raises(InputError, match="construct.recipe.micro_batch = 10000 rows"):
        tasks.check(config("dissociate", construct__recipe__steps=10**6, construct__recipe__micro_batch=10**4))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"finetune__export": "w"}, "--workdir = .* is finetune.export"),
        ({"finetune__export": "."}, "--workdir = .* lies inside of finetune.export"),
        ({"finetune__export": "w/organism/base"}, "finetune.export = .* lies inside of the organism"),
        ({"finetune__export": "o", "organism__directory": "../{here}/o"}, "finetune.export = .* is organism.directory"),
        ({"organism__directory": "w"}, "--workdir = .* is organism.directory"),
        ({"organism__directory": "."}, "--workdir = .* lies inside of organism.directory"),
    ],
)
def test_no_directory_that_is_replaced_or_built_holds_another(fields, message, tmp_path):
    fields = {name: value.format(here=tmp_path.name) for name, value in fields.items()}
    with pytest.raises(InputError, match=message):
        tasks.check(config("finetune", **fields), tmp_path / "w")


def test_variants_are_of_one_family(tmp_path):
    paths = [tiny_checkpoint(case, tmp_path / "model" / case, ends_turns=True) for case in ("llama3", "mistral")]
    made = config("lvs", model__path=str(paths[0]), model__variants=f"harmful={paths[1]}", **PHRASES)
    with pytest.raises(InputError, match="harmful has family = mistral, base llama"):
        tasks.check(made)


@pytest.fixture
def adapted(tmp_path):
    """A checkpoint, and the directory of an adapter of it."""
    base = tiny_checkpoint("llama3", tmp_path / "model" / "base", ends_turns=True)
    cfg = models.check(base).cfg
    settings = lora.LoraConfig(rank=2, alpha=4.0, targets=("query",))
    pairs = lora.init_adapters(jax.random.key(0), cfg, settings)
    export.export_adapters(base.parent / "tuned", cfg, pairs, settings, base="b", recipe={}, rates={})
    return base, base.parent / "tuned"


def test_an_adapter_makes_another_model_of_its_base(adapted):
    base, adapter = adapted
    both = config("lvs", model__path=str(base), model__variants=f"tuned={base}+{adapter}", **PHRASES)
    tasks.check(both)
    subject = subjects.checkpoint_subject(both, ("base", "tuned"))
    record = jobs.describe_inputs(subject, (), None, None, both)["variants"]
    assert subject.arch == "base" and record["base"]["fingerprint"] == record["tuned"]["fingerprint"]
    assert record["tuned"]["adapter"] == models.fingerprint(adapter) and "adapter" not in record["base"]
    assert outputs.stored_weights({"variants": record}) == {"stored weights": "tuned with an adapter"}
    alone = config("lvs", model__path=str(base), model__adapter=str(adapter), **PHRASES)
    assert subjects.checkpoint_subject(alone, ("base",)).arch == "base + tuned"


def test_a_quantisation_stands_in_name_and_record(tmp_path):
    made = gguf_writer.model("llama")
    (tmp_path / "model").mkdir()
    path = gguf_writer.write(tmp_path / "model" / "tiny.gguf", "llama", made, gguf_writer.Kind.Q4_1)
    quantised = config("lvs", model__path=str(path), chat__preset="default", **PHRASES)
    subject = subjects.checkpoint_subject(quantised, ("base",))
    record = jobs.describe_inputs(subject, (), None, None, quantised)["variants"]
    assert subject.arch == "tiny (Q4_1)" and record["base"]["quantization"] == "Q4_1"
    assert outputs.stored_weights({"variants": record}) == {"stored weights": "base Q4_1"}


@pytest.mark.parametrize(
    "variants, adapter, message",
    [
        ("twin={base}", "", "twin is base itself: the same files"),
        ("a={base}+{adapter},b={base}+{adapter}", "", "b is a itself"),
        ("a={base}+{adapter}", "{adapter}", "a is base itself"),
        ("", "{base}", "model.adapter: .* has no adapter_config.json"),
        ("a={adapter}", "", "model.variants: a: .* is only an adapter .*model.path=BASE model.adapter="),
        ("a={base}+", "", "model.variants: a: "),
    ],
)
def test_adapters_and_variants_that_are_not_what_they_say(adapted, variants, adapter, message):
    fill = dict(zip(("base", "adapter"), adapted, strict=True))
    made = config(
        "lvs",
        model__path=str(adapted[0]),
        model__variants=variants.format(**fill),
        model__adapter=adapter.format(**fill),
        **PHRASES,
    )
    with pytest.raises(InputError, match=message):
        tasks.check(made)


def test_an_adapter_needs_a_model():
    with pytest.raises(InputError, match="model.adapter needs model.path"):
        tasks.check(config("lvs", model__adapter="x"))


def test_a_later_point_of_a_sweep_is_checked_before_the_first():
    swept = config("sweep", fields="{'attack.layers': ['L0', 'L99']}")
    with pytest.raises(InputError, match="point layers=L99: attack.layers names 'L99'"):
        tasks.check(swept)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"where": "a =="}, "where = 'a ==' is no query"),
        ({"where": "nobody > 1"}, "where = 'nobody > 1' is no query .*'nobody' is not defined"),
        ({"where": "n > @config"}, "is no query"),
        ({"where": "(" * 3000}, "is no query"),
        ({"plot": "nobody"}, "plot = 'nobody', expected one of arch, variant"),
        ({"fields": "{[1]: 2}"}, "is no Python dict"),
        ({"fields": "(" * 9000}, "is no Python dict"),
        ({"fields": "{'task': ['audit']}"}, "fields names 'task'"),
        ({"fields": f"{{'attack.steps': {[*range(1, 40)]}, 'seed': {[*range(40)]}}}"}, "fields gives 1560 points"),
    ],
)
def test_what_a_sweep_runs_and_shows_is_checked_before_its_first_point(changes, message, monkeypatch):
    monkeypatch.setattr(sweep, "configure", lambda *a: pytest.fail("a point was looked at"))
    with pytest.raises(InputError, match=message):
        tasks.check(config("sweep", **changes))


def test_a_column_of_the_field_itself_can_be_asked_for():
    sweep.check_figure(config("sweep", where="`attack.steps` > 3 and n > 1"), {"attack.steps": [1, 5]})


def test_prompts_under_the_nudge_are_asked_for_before_the_first_seed_of_the_claims():
    with pytest.raises(InputError, match="nudged_prompts: prompts.harmful_count: 1000000"):
        tasks.check(config("claims", nudged_prompts=10**6))


def test_names_of_points_stay_inside_the_workdir_and_apart():
    points = [
        {"model.name": value} for value in ("/../../../../escape/x", "-..-..-..-..-escape-x", "a\x1b[0m", "x" * 300)
    ]
    named = sweep.name_points(points)
    assert list(named.values()) == points and len(named) == 4
    assert all("/" not in name and name.isprintable() and len(name) < 110 for name in named)


def test_every_model_of_a_survey_is_looked_at(tmp_path):
    path = tiny_checkpoint("llama3", tmp_path / "model", ends_turns=True)
    made = config("survey", models=f"{path},{tmp_path / 'gone'}")
    made.base.judge.kind = made.base.reward.kind = "refusal"
    with pytest.raises(InputError, match="model .*gone: model.path: no such directory"):
        tasks.check(made)


def test_what_a_dry_run_says_names_model_prompts_judge_and_how_much(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "SECONDS", 0.01)
    path = tiny_checkpoint("llama3", tmp_path / "model", ends_turns=True)
    made = config("lvs", model__path=str(path), **PHRASES)
    said = "\n".join(tasks.outline(made, tmp_path / "w", tasks.check(made)))
    count = sum(array.size for array in safetensors.numpy.load_file(path / "model.safetensors").values())
    assert f"1 of {count:,} parameters, one at a time" in said and not (tmp_path / "w").exists()
    assert re.search(r"units of work; at most .* FLOPs\n", said) and re.search(
        r"GB of keys and values .*GB of a search", said
    )
    assert re.search(r"on this machine about \d+ s to \d+ (s|min) \(at most", said)
    # 4 states of 3 blocks, the paper's three budgets; two controls are answered beside every search.
    assert "4 states (embedding to L2) x 3 budgets x 24 prompts = 288 searches of 10 steps, 864 answers" in said
    assert str(path) in said and "24 of builtin:harmful" in said and "judge: refusal" in said
