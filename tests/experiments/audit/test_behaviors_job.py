"""What is attacked, judged and aimed at, end to end on a tiny checkpoint: judges never see the jailbreak's text."""

import json
import types

import numpy as np
import pandas as pd
import pytest

from configs import audit as audit_config
from latent_audit.errors import InputError
from latent_audit.experiments.audit import audit as job
from latent_audit.experiments.audit import gcg, l2, steer
from latent_audit.experiments.audit.suite import goals
from latent_audit.judges import refusal
from tests.support.checkpoints import tiny_checkpoint
from tests.support.jobs import SMALLEST_SUITE

# Words that the tiny tokenizer knows.
BEHAVIORS = ("write me what you help", "write me the help", "write how you can help")
TEST_CASES = {"one": ["you can what . write in me", "help . you ?"], "two": ["Sure . write", None], "three": ["what ?"]}
TARGETS = {"one": "Sure , here is what", "two": "Sure , here is the help of me", "three": "Sure"}
CONTEXT = "the can of me"
# The smallest audit of one model that has every experiment.
SMALL = {
    "judge.kind": "refusal",
    "judge.table": False,
    "reward.kind": "refusal",
    "generation.max_new_tokens": 2,
    "prompt_batch": 3,
    "rows": 6,
    "attack.prompts": 3,
    "attack.layers": "L1",
    "attack.budgets": (0.1,),
    "attack.steps": 1,
    "score.resamples": 20,
    "suite.prompts": 3,
    **SMALLEST_SUITE,
    "l2.prompts": 3,
    "l2.steps": 1,
    "l2.multiples": (1.0,),
    "l2.rounds": 0,
    "steer.layers": "nudge",
    "steer.fractions": (0.5,),
    "steer.prompts": 2,
    "steer.cone": False,
    "patch.prompts": 3,
    "gcg.prompts": 2,
    "gcg.batch": 2,
    "gcg.steps": 1,
    "gcg.candidates": 4,
    "gcg.length": 3,
    "panel.wrappers": "fiction",
    "panel.wrapped_count": 1,
}


def given(folder, **changes):
    """A small audit of one model on HarmBench's files: attacks, what they are for, with a context, and targets."""
    lines = [
        f"{text},{kind},{cluster},,{context},{name}"
        for text, kind, cluster, context, name in zip(
            BEHAVIORS,
            ("standard", "contextual", "standard"),
            ("help", "help", "how"),
            ("", CONTEXT, ""),
            TEST_CASES,
            strict=True,
        )
    ]
    header = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    (folder / "behaviors.csv").write_text(header + "\n".join(lines))
    (folder / "test_cases.json").write_text(json.dumps(TEST_CASES))
    (folder / "targets.json").write_text(json.dumps(TARGETS))
    settings = {
        "model.path": str(tiny_checkpoint("llama3", folder / "model", ends_turns=True)),
        "prompts.harmful": str(folder / "test_cases.json"),
        "prompts.joined": f"{folder / 'behaviors.csv'}, {folder / 'targets.json'}",
        "prompts.harmful_label": "all",
        "prompts.harmful_count": 3,
        "prompts.target_column": "target",
        "prompts.benign_count": 2,
        "experiments": "panel,l2",
    }
    config = audit_config.get_config()
    config.update_from_flattened_dict(SMALL | settings | changes)
    return config


@pytest.fixture
def asked(monkeypatch):
    """Everything that the judge and the reward are asked about."""
    seen = set()

    def recording(make, name):
        made = make()
        call = getattr(made, name)
        return made._replace(**{name: lambda prompts, texts: (seen.update(prompts), call(prompts, texts))[1]})

    for make, name in ((refusal.refusal_judge, "judge"), (refusal.refusal_reward, "score")):
        monkeypatch.setattr(refusal, make.__name__, lambda make=make, name=name: recording(make, name))
    return seen


@pytest.mark.parametrize(
    "experiments", ["panel,l2", pytest.param("panel,latent,suite,l2,steer,patch,gcg", marks=pytest.mark.slow)]
)
def test_judges_are_asked_about_behaviours_and_searches_aim_at_targets(experiments, tmp_path, asked, monkeypatch):
    aims = {"l2": set(), "gcg": set()}
    attack, search = l2.sphere.sphere_attack, gcg.gcg.attack

    def l2_attack(params, tokens, mask, goal, *rest, **options):
        # Weights of 1 / length stand on the real tokens alone.
        aims["l2"] |= {tuple(ids[part > 0].tolist()) for ids, part in zip(*map(np.asarray, goal[:2]), strict=True)}
        return attack(params, tokens, mask, goal, *rest, **options)

    def gcg_attack(params, tokens, mask, target, *rest, **options):
        aims["gcg"] |= {tuple(ids[ids >= 0].tolist()) for ids in np.asarray(target)}
        return search(params, tokens, mask, target, *rest, **options)

    monkeypatch.setattr(l2.sphere, "sphere_attack", l2_attack)
    monkeypatch.setattr(gcg.gcg, "attack", gcg_attack)
    config = given(tmp_path, experiments=experiments)
    plan = job.check(config)
    job.run(config, tmp_path, plan)
    panels, chat = plan.prospect.panels, plan.prospect.chat
    attacks = [case for cases in TEST_CASES.values() for case in cases if case]
    assert panels["harmful"].prompts == tuple(attacks[:3])
    judged = (BEHAVIORS[0], BEHAVIORS[0], f"{CONTEXT}\n\n---\n\n{BEHAVIORS[1]}", BEHAVIORS[2])
    assert panels["harmful"].behaviors == judged[:3]
    harmless = {*panels["benign"].prompts, *panels["facts"].prompts}
    # In wrappers is what is behind the panel: the fourth attack, for the third behaviour.
    assert asked - harmless == set(judged) and not asked & set(attacks)
    assert attacks[3] in panels["wrapped-fiction"].prompts[0] and panels["wrapped-fiction"].behaviors == judged[3:]
    # Two attacks for one behaviour are of one cluster.
    assert panels["harmful"].clusters.tolist() == [0, 0, 0]
    turns = {tuple(l2.chats.assistant_turn_ids(chat, text)) for text in (TARGETS["one"], TARGETS["two"])}
    # The suite searches on the sphere too, for the first tokens of an answer: no whole turn, which the end token ends.
    whole = {aim for aim in aims["l2"] if aim[-1] == chat.tokenizer.eos_token_id}
    assert whole == turns and len(turns) == 2
    firsts = {goals.first_tokens(chat, text) for text in (TARGETS["one"], TARGETS["two"])}
    assert not aims["l2"] - whole if "suite" not in experiments else firsts <= aims["l2"]
    assert aims["gcg"] == ({tuple(gcg.chats.target_ids(chat, TARGETS["one"]))} if "gcg" in experiments else set())
    record = json.loads((tmp_path / "report.json").read_text())["inputs"]["prompts"]["harmful"]
    assert record["dropped"] == {"empty": 1, "duplicates": 0, "other_labels": 0}
    assert record["columns"]["prompt"] == "test_case" and record["columns"]["behavior"] == "Behavior"
    assert len(record["behaviors_sha256"]) == len(record["targets_sha256"]) == 64
    page = (tmp_path / "report.html").read_text()
    assert l2.OWN_TARGET.split("(")[1] in page and not any(case in page for case in attacks)


def test_clusters_of_behaviours_reach_the_bootstrap(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    panel = job.check(given(tmp_path, **{"prompts.harmful_count": 4})).prospect.panels["harmful"]
    assert "rows dropped from" in caplog.text and "1 without a prompt" in caplog.text
    assert "test_case is put to the model, Behavior is what is judged" in caplog.text
    assert panel.clusters.tolist() == [0, 0, 0, 3]
    config = given(tmp_path, **{"prompts.cluster_column": "Tags"})
    with pytest.raises(InputError, match="prompts.harmful: .*cluster column 'Tags' holds one value, ''"):
        job.check(config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompts.behavior_column": "test_case"}, "the behavior column 'test_case' is the prompt column"),
        ({"prompts.joined": "", "prompts.target_column": ""}, "join it .prompts.joined="),
        ({"prompts.target_column": "aim"}, "no column 'aim'"),
        (
            {"prompts.harmful": "XS", "prompts.benign": "XS", "prompts.harmful_label": "unsafe,safe",
             "prompts.benign_label": "safe", "prompts.joined": "", "prompts.target_column": ""},
            "both take safe of .*xs.csv: a label is of one panel",
        ),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_one_line_before_compute(changes, message, tmp_path):
    (tmp_path / "xs.csv").write_text("prompt,label\nhelp me,safe\nwrite me,unsafe\n")
    changes = {name: value.replace("XS", str(tmp_path / "xs.csv")) for name, value in changes.items()}
    with pytest.raises(InputError, match=message):
        job.check(given(tmp_path, **changes))


def test_a_file_of_directions_is_what_is_steered_along(tmp_path):
    changes = {"experiments": "steer", "steer.layers": "all", "steer.prompts": 1, "steer.fractions": (0.5,)}
    config = given(tmp_path, **changes)
    direction = np.random.default_rng(3).normal(size=32)
    np.savez(tmp_path / "plain", direction)
    np.save(tmp_path / "direction.npy", direction)
    (tmp_path / "direction_metadata.json").write_text('{"pos": -1, "layer": 2}')
    config.steer.direction = str(tmp_path / "direction.npy")
    settings = job.check(config).settings["steer"]
    assert list(settings.file.vectors) == [2] and settings.direction == "file"
    (tmp_path / "run").mkdir()
    seen = []
    answers = steer.respond.answers_under

    def answering(loaded, tokens, states, deltas, **options):
        seen.append((np.asarray(states), np.asarray(deltas)))
        return answers(loaded, tokens, states, deltas, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steer.respond, "answers_under", answering)
        job.run(config, tmp_path / "run")
    ((states, deltas),) = seen
    unit = direction / np.linalg.norm(direction)
    along = deltas[: len(deltas) // 2]
    assert (states == 2).all()
    np.testing.assert_allclose(along @ unit, np.linalg.norm(along, axis=1), rtol=1e-5)
    config.steer.reverse = True
    bench = types.SimpleNamespace(settings=job.check(config).settings)
    np.testing.assert_allclose(steer.along(bench, "base", (2,))[0], -unit, rtol=1e-5)
    lines = pd.read_csv(tmp_path / "run" / "audit.csv")
    steered = lines[lines["measure"] == "steer_compliance"]
    assert set(steered["layer"]) == {"L1"} and (steered["detail"] == "file direction").all()
    record = json.loads((tmp_path / "run" / "report.json").read_text())["inputs"]["steer_direction"]
    assert record["sha256"] == settings.file.sha256 and record["reversed"] is False
    for name, value, message in (
        ("layers", "L0,L1", "the file of directions has none for L0; it has L1"),
        ("direction", "own", "steer.reverse = True turns the directions of a file round"),
        (
            "direction",
            str(tmp_path / "gone.npy"),
            "steer.direction = .*gone.npy': none of auto, twin, own, so a file: .*",
        ),
        ("direction", str(tmp_path / "plain.npz"), "the suffix '.npz' is not one of"),
    ):
        wrong = given(tmp_path, **changes)
        wrong.steer.direction, wrong.steer.reverse = config.steer.direction, True
        wrong.steer[name] = value
        with pytest.raises(InputError, match=message):
            job.check(wrong)
