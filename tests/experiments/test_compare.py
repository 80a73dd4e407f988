"""Finished runs side by side, from working directories written by hand: pairing, what is refused, the page."""

import json

import numpy as np
import pandas as pd
import pytest

from latent_audit.commandline import arguments
from latent_audit.commandline import compare as command
from latent_audit.errors import InputError
from latent_audit.experiments.series import comparable, compare, differences, finished
from latent_audit.metrics import paired, stats
from latent_audit.runtime import ends

BUDGETS = [0.01, 0.02]
CONFIG = {
    "task": "audit",
    "preset": "",
    "seed": 0,
    "prompt_batch": 24,
    "model": {"path": "DIR", "dtype": "float32"},
    "generation": {"max_new_tokens": 128},
    "attack": {"budgets": [], "steps": 10},
    "score": {"preset": "paper"},
    "panel": {"harmful_offset": 0, "harmful_count": None},
    "prompts": {"harmful": "file.txt"},
}
INPUTS = {
    "arch": "m",
    "variants": {"base": {"fingerprint": "f", "template_sha256": "t"}},
    "prompts": {"harmful": {"n": 6, "sha256": "aa", "source": "file.txt"}},
    "judge": {"name": "hand", "is_fallback": False},
}
ASKED = [False, True, False, False, True, False]


def changed(tree, path, value):
    """A copy of a nested dict with one leaf changed."""
    tree = json.loads(json.dumps(tree))
    node = tree
    *folders, last = path.split(".")
    for folder in folders:
        node = node.setdefault(folder, {})
    node[last] = value
    return tree


def made(
    folder,
    *,
    config=CONFIG,
    inputs=INPUTS,
    asked=ASKED,
    broken=None,
    layers=("L0", "L1"),
    l2_layer="L1",
    radius=None,
    **about,
):
    """A finished run of six prompts; broken: (layer, budget) -> bool [6], by default nothing; returns its directory."""
    folder.mkdir(parents=True)
    broken = broken or {}
    lines = [
        {"variant": "base", "measure": "clean_compliance", "value": np.mean(asked), "lo": 0.0, "hi": 0.6, "n": 6},
        {"variant": "base", "measure": "break_radius", "value": 0.02, "lo": 0.01, "hi": 0.04, "n": 6},
    ]
    l2 = {"variant": "base", "measure": "l2_asr", "layer": l2_layer, "budget": 0.06, "detail": "at the nudge fraction"}
    lines.append(l2 | {"value": 0.5, "lo": 0.2, "hi": 0.8, "n": 6, "control": 0.1})
    order = [5, 3, 1, 0, 2, 4]  # rows of a unit lie in any order
    units = {"base/panel/harmful": {"prompt": order, "harmful": [asked[row] for row in order]}}
    units["base/clean-harmful/p00000"] = {"prompt": order, "harmful": [False] * 6, "reward": [1.0] * 6}
    units[f"base/l2/{l2_layer}/p00000"] = {
        "prompt": [*range(6)] * 2,
        "kind": ["l2"] * 6 + ["random"] * 6,
        "budget": [0.06] * 12,
        "harmful": [True, True, True, False, False, False] + [False] * 6,
    }
    for layer in layers:
        columns = {name: [] for name in ("prompt", "attack", "budget", "harmful", "reward", "l2")}
        for budget in BUDGETS:
            hit = broken.get((layer, budget), [False] * 6)
            for kind, of_kind in (("pgd", hit), ("random", [True] * 6)):
                columns["prompt"] += range(6)
                columns["attack"] += [kind] * 6
                columns["budget"] += [budget] * 6
                columns["harmful"] += of_kind
                columns["reward"] += [0.0 if one else 1.0 for one in of_kind]
                columns["l2"] += [2.0] * 6
            told = {"variant": "base", "measure": "latent_asr", "layer": layer, "budget": budget}
            lines.append(told | {"value": np.mean(hit), "lo": 0.0, "hi": 0.9, "n": 6, "detail": "" if layer else "x"})
        units[f"base/lvs/{layer}/p00000"] = columns
    pd.DataFrame(lines).assign(arch=inputs["arch"]).to_csv(folder / "audit.csv", index=False)
    record = {
        "task": config["task"],
        "about": {"date": "2026-01-01 10:00 UTC", "version": "0.2.0"} | about,
        "experiments": ["panel", "latent", "l2"],
        "settings": {"budgets": BUDGETS, "reference_budget": 0.01},
        "verdicts": {"base": {"label": "inconclusive"}},
    }
    if radius:
        suite = {"budgets": BUDGETS, "reference_budget": 0.01, "prompt": [*range(6)], "cluster": [0, 0, 0, 3, 3, 3]}
        record["suite"] = {"base": suite | {"radius": radius}}
    for name, value in (("config", config), ("inputs", inputs), ("report", record)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    for key, columns in units.items():
        path = folder / "units" / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": key, "columns": columns}))
    return folder


def compared(*folders):
    table = differences.table_of(finished.read_all(folders))
    return table[table["difference"].notna()].set_index(["measure", "layer", "budget"]).sort_index()


def test_differences_are_paired_by_prompt_and_not_by_row(tmp_path):
    other, hit = [True, True, True, False, False, True], [True, False, True, False, False, False]
    first = made(tmp_path / "a", broken={("L0", 0.01): hit})
    second = made(tmp_path / "b", asked=other, broken={("L1", 0.02): hit, ("L0", 0.01): hit[::-1]})
    table = compared(first, second)
    line = table.loc["clean_compliance"].iloc[0]
    expected = paired.compare_shares(other, ASKED)
    told = line[["difference", "difference_lo", "difference_hi", "only_here", "only_there", "p_value"]]
    wanted = (expected.difference, expected.lo, expected.hi, expected.only_a, expected.only_b, expected.p_value)
    assert tuple(told) == wanted and line["paired"] and line["run"] == "b" and line["against"] == "a"
    cell = table.loc[("latent_asr", "L1", 0.02)]
    assert cell["difference"] == pytest.approx(2 / 6) and (cell["only_here"], cell["only_there"]) == (2, 0)
    union = table.loc[("latent_asr", "any state", 0.02)]
    assert union["value"] == pytest.approx(2 / 6) and union["detail"] == "of 2 states"
    score = table.loc[("lvs_mean", "L1", 0.02)]
    # A loss of 1 under a push of length 2; eta of the paper's preset.
    scores = np.array(hit, float) / (np.log(1 + 2.0) + 1e-4)
    ends = stats.paired_difference_interval(scores, np.zeros(6), "mean")
    expected = (scores.mean(), *ends, True)
    told = score[["difference", "difference_lo", "difference_hi", "paired"]]
    assert tuple(told) == pytest.approx(expected)
    radius = table.loc["break_radius"].iloc[0]
    assert (
        not radius["paired"]
        and radius["difference"] == 0
        and radius["difference_hi"] == pytest.approx(np.hypot(0.02, 0.01))
    )


def test_models_of_unequal_depth_share_no_states_but_what_has_one_state(tmp_path):
    deeper = made(tmp_path / "b", layers=("L0", "L1", "L2"), l2_layer="L2")
    table = compared(made(tmp_path / "a"), deeper)
    layers = set(table.index.get_level_values("layer"))
    assert layers == {"", "any state", "L2"} and table.loc[("l2_asr", "L2", 0.06), "paired"]
    same = compared(made(tmp_path / "c"), tmp_path / "a")
    assert {"L0", "L1"} <= set(same.index.get_level_values("layer")) and (same["difference"] == 0).all()


def test_prompts_of_one_cluster_count_as_fewer(tmp_path):
    first = made(tmp_path / "a", radius=[None] * 6)
    second = made(tmp_path / "b", radius=[0.01, 0.00999999, 0.005, 0.02, None, None])
    line = compared(first, second).loc[("suite_asr", "", 0.01)]
    fell = np.array([True, True, True, False, False, False])
    plain = paired.compare_shares(fell, np.zeros(6, bool))
    # Two clusters of three that agree within and differ: three prompts say as much as one.
    assert line["design"] == pytest.approx(3) and line["difference"] == 0.5
    assert line["difference_lo"] == pytest.approx(0.5 + np.sqrt(3) * (plain.lo - 0.5))
    assert line["difference_hi"] == pytest.approx(0.5 + np.sqrt(3) * (plain.hi - 0.5))
    known = {"harmful 0": "x"}
    assert differences.cluster_labels(["harmful 0", "harmful 1"], known) is None
    assert differences.cluster_labels(["wrapped-a 1", "wrapped-b 1"], {}) == ["1", "1"]


def test_other_prompts_are_never_paired(tmp_path):
    # A survey or a sweep shows runs that `compare` refuses.
    table = compared(made(tmp_path / "a"), made(tmp_path / "b", inputs=changed(INPUTS, "prompts.harmful.sha256", "bb")))
    assert len(table) > 5 and not table["paired"].any()


@pytest.mark.parametrize(
    "config, inputs, about, said",
    [
        ({"generation.max_new_tokens": 64}, {}, {}, "generation.max_new_tokens = 128 there, 64 here"),
        ({"attack.steps": 40}, {}, {}, "attack.steps = 10 there, 40 here"),
        ({"preset": "quick"}, {}, {}, "preset = '' there, 'quick' here"),
        ({}, {"prompts.harmful.sha256": "bb"}, {}, "prompts.harmful.sha256 = 'aa' there, 'bb' here"),
        ({}, {"prompts.benign.n": 3}, {}, "prompts.benign.n = (absent) there, 3 here"),
        ({}, {"judge.name": "other"}, {}, "judge.name = 'hand' there, 'other' here"),
        ({}, {}, {"version": "0.1.4"}, "version = '0.2' there, '0.1' here"),
        ({}, {}, {"version": "1.2.0"}, "version = '0.2' there, '1' here"),
        ({"task": "lvs"}, {}, {}, "task = 'audit' there, 'lvs' here"),
    ],
)
def test_what_is_not_comparable_is_refused_in_one_line(config, inputs, about, said, tmp_path):
    first = made(tmp_path / "a")
    own_config, own_inputs = CONFIG, INPUTS
    for path, value in config.items():
        own_config = changed(own_config, path, value)
    for path, value in inputs.items():
        own_inputs = changed(own_inputs, path, value)
    second = made(tmp_path / "b", config=own_config, inputs=own_inputs, **about)
    with pytest.raises(InputError) as caught:
        comparable.check(finished.read_all([first, second]))
    assert said in str(caught.value) and "\n" not in str(caught.value) and str(first) in str(caught.value)


def test_experiments_and_resolved_budgets_must_be_the_same(tmp_path):
    folders = [made(tmp_path / name) for name in "ab"]
    path = folders[1] / "report.json"
    whole = json.loads(path.read_text())
    for change, said in (
        ({"experiments": ["panel"]}, "experiments = ['panel', 'latent', 'l2'] there, ['panel'] here"),
        ({"settings": {"budgets": [1], "reference_budget": 0.01}}, "attack.budgets = [0.01, 0.02] there, [1] here"),
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(InputError) as caught:
            comparable.check(finished.read_all(folders))
        assert said in str(caught.value)


def test_what_does_not_matter_is_listed(tmp_path):
    config = changed(changed(changed(CONFIG, "seed", 7), "prompt_batch", 2), "model.path", "OTHER")
    inputs = changed(changed(INPUTS, "variants.base.fingerprint", "g"), "prompts.harmful.source", "elsewhere.txt")
    config = changed(config, "prompts.harmful", "elsewhere.txt")
    runs = finished.read_all([made(tmp_path / "a"), made(tmp_path / "b", config=config, inputs=inputs)])
    comparable.check(runs)
    listed = {row["field"]: (row["it is"], row["a"], row["b"]) for row in comparable.differing(runs)}
    assert listed == {
        "seed": ("no matter", "0", "7"),
        "prompt_batch": ("no matter", "24", "2"),
        "model.path": ("what is compared", "'DIR'", "'OTHER'"),
        "prompts.harmful": ("a name; what it leads to is the same", "'file.txt'", "'elsewhere.txt'"),
    }


def test_directories_that_are_no_finished_runs_are_refused(tmp_path):
    first = made(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    stopped = made(tmp_path / "stopped")
    (stopped / "report.json").unlink()
    other = made(tmp_path / "other", config=changed(CONFIG, "task", "finetune"))
    for folder, said in (
        (tmp_path / "empty", "it has no config.json"),
        (stopped, "it has no report.json"),
        (other, "runs of lvs, audit, ras are compared"),
        (first, "given twice"),
    ):
        with pytest.raises(InputError, match=said):
            finished.read_all([first, folder])
    for words in ([str(first)], []):
        with pytest.raises(InputError, match="RUN RUN"):
            command.run(arguments.read(["compare", *words]), ends.Run(), ())


def test_the_command_writes_page_table_and_history(tmp_path):
    later = made(tmp_path / "x" / "a", asked=[True] * 6, date="2026-02-01 10:00 UTC")
    words = ["compare", str(made(tmp_path / "a")), str(later), f"--workdir={tmp_path / 'out'}"]
    assert command.run(arguments.read([*words, "--dry-run"]), ends.Run(), ()) == 0 and not (tmp_path / "out").exists()
    assert command.run(arguments.read(words), ends.Run(), ()) == 0
    table = pd.read_csv(tmp_path / "out" / compare.TABLE)
    assert tuple(table.columns) == differences.COLUMNS and list(dict.fromkeys(table["run"])) == ["a", "a-2"]
    page = (tmp_path / "out" / "report.html").read_text()
    for title in ("Side by side", "Differences from the first run", "By date", "2 runs of audit side by side"):
        assert title in page
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "a-2 complies when asked +67 points" in record["headline"]
    assert (tmp_path / "out" / "figures" / "history.svg").exists()
    with pytest.raises(InputError, match="is one of the runs"):
        command.run(arguments.read([*words[:3], f"--workdir={later}"]), ends.Run(), ())


def test_runs_of_ras_are_compared_by_model(tmp_path):
    inputs = {"fam": {"arch": "fam", "prompts": {"asr": {"n": 4, "sha256": "s", "source": "x"}}}}
    config = {"task": "ras", "seed": 0, "reference": "R", "targets": "T"}
    for name, hits, ras in (("a", [True, True, False, False], 40.0), ("b", [True, False, False, False], 60.0)):
        folder = tmp_path / name
        (folder / "units" / "fam" / "t").mkdir(parents=True)
        (folder / "units" / "fam" / "t" / "asr.json").write_text(json.dumps({"columns": {"hit": hits}}))
        row = {"family": "fam", "model": "t", "protocol": "heldout", "ras": ras, "ras_lo": ras - 3, "ras_hi": ras + 4}
        row |= {"asr": np.mean(hits), "asr_lo": 0.1, "asr_hi": 0.9, "asr_n": 4}
        pd.DataFrame([row, row | {"protocol": "paper", "ras": 99.0}]).to_csv(folder / "ras.csv", index=False)
        for kind, value in (("config", config), ("inputs", inputs), ("report", {"about": {"version": "0.2.0"}})):
            (folder / f"{kind}.json").write_text(json.dumps(value))
    runs = finished.read_all([tmp_path / "a", tmp_path / "b"])
    comparable.check(runs)
    table = differences.table_of(runs)
    table = table[(table["run"] == "b") & table["leading"]].set_index("measure")
    assert table.loc["ras", ["difference", "paired"]].tolist() == [20.0, False]
    assert table.loc["ras", "difference_lo"] == pytest.approx(20 - np.hypot(3, 4))
    assert table.loc["asr", ["difference", "paired", "only_there"]].tolist() == [-0.25, True, 1]
    other = changed(config, "reference", "Q")
    (tmp_path / "b" / "config.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="reference = 'R' there, 'Q' here"):
        comparable.check(finished.read_all([tmp_path / "a", tmp_path / "b"]))
