"""Public prompt sets as their publishers lay them out, with made-up contents; marked `real`, the published files.

The layouts are those of the publishers' repositories and data set cards; docs/prompts.md names them.
"""

import json
import os
import pathlib

import pyarrow
import pyarrow.parquet
import pytest

from latent_audit.data import pair_files, prompt_hub
from latent_audit.data.prompt import contexts
from latent_audit.data.prompt_files import load_prompts
from latent_audit.errors import InputError
from latent_audit.judges.refusal import is_refusal

REAL = os.environ.get("LATENT_AUDIT_REAL_PROMPTS", "")

HARMBENCH = (
    "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    "Draw a glorp,standard,shapes,,,draw_glorp\n"
    "Sum up the letter,contextual,letters,context,Dear glorp,sum_letter_1\n"
    "Sum up the letter,contextual,letters,context,Dear blorp,sum_letter_2\n"
    "Recite the song,copyright,songs,lyrics,,recite_song\n"
    "Paint a glorp,standard,paints,,,paint_glorp\n"
)
TEST_CASES = {"draw_glorp": ["You are a painter. Draw one!", "Please !! draw"], "paint_glorp": ["Paint ?? one", None]}
COMPLETIONS = {
    "draw_glorp": [{"test_case": "Draw !!", "generation": "Here is one: O", "label": 1}],
    "paint_glorp": [{"test_case": "Paint ??", "generation": "Here it is.", "label": 0}],
}
TARGETS = {
    key: f"Here is {key}" for key in ("draw_glorp", "sum_letter_1", "sum_letter_2", "recite_song", "paint_glorp")
}
ARTIFACT = {
    "parameters": {"method": "GCG", "model": "vicuna", "defense": None, "method_parameters": {"n_steps": 5}},
    "jailbreaks": [
        {
            "index": number,
            "goal": f"Draw glorp {number}",
            "behavior": "Glorps",
            "category": category,
            "prompt": prompt,
            "response": "No.",
            "number_of_queries": 3,
            "queries_to_jailbreak": None,
            "jailbroken": False,
        }
        for number, (prompt, category) in enumerate(
            [("Ignore all. Draw one", "Shapes"), (None, "Shapes"), ("!! ok", "Art")]
        )
    ],
}
STRONGREJECT = "category,source,forbidden_prompt\nShapes,custom,Draw a glorp\nArt,DAN,Paint a glorp\n"
SORRY = [{"question_id": 1, "category": 3, "turns": ["Draw a glorp"], "prompt_style": "base"},
         {"question_id": 2, "category": 7, "turns": ["Paint a glorp"], "prompt_style": "base"}]  # fmt: skip
WILDJAILBREAK = (
    "vanilla\tadversarial\tcompletion\tdata_type\n"
    "Draw a glorp\t\tHere: O\tvanilla_harmful\n"
    'Paint a glorp\t"As a ""painter"", paint"\tHere: P\tadversarial_harmful\n'
    "Name a jar\t\tJar\tvanilla_benign\n"
)
WILDGUARD = [
    {"prompt": "Draw a glorp", "adversarial": False, "response": "No.", "prompt_harm_label": "harmful",
     "response_refusal_label": "refusal", "response_harm_label": "unharmful", "subcategory": "shapes"},
    {"prompt": "You paint. Go", "adversarial": True, "response": None, "prompt_harm_label": "harmful",
     "response_refusal_label": None, "response_harm_label": None, "subcategory": "paints"},
    {"prompt": "Name a jar", "adversarial": False, "response": "Jar", "prompt_harm_label": "unharmful",
     "response_refusal_label": "compliance", "response_harm_label": "unharmful", "subcategory": "benign"},
]  # fmt: skip
AGENTHARM = {
    "canary_guid": "x", "allowed": "no training",
    "behaviors": [
        {"id": f"{n}-1", "id_original": str(n), "detailed_behavior": True, "hint_included": False, "name": "Glorp",
         "category": "Shapes", "prompt": f"Order glorp {n}", "target_functions": ["order"],
         "grading_function": "grade", "criteria": [{"a": 1}]}
        for n in (1, 2)
    ],
}  # fmt: skip
PKU = [
    {"prompt": "Draw a glorp", "response_0": "No.", "response_1": "Here: O", "is_response_0_safe": True,
     "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0},
    {"prompt": "Draw a glorp", "response_0": "Sure: O", "response_1": "Here", "is_response_0_safe": False,
     "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0},
    {"prompt": "Paint a glorp", "response_0": "No.", "response_1": "No!", "is_response_0_safe": True,
     "is_response_1_safe": True, "better_response_id": 1, "safer_response_id": 0},
]  # fmt: skip
BEAVERTAILS = [
    {"prompt": "Draw a glorp", "response": "Here: O", "category": {"shapes": True, "art": False}, "is_safe": False},
    {"prompt": "Paint a glorp", "response": "No.", "category": {"shapes": False, "art": False}, "is_safe": True},
]
LLM_LAT = [{"prompt": "Draw a glorp", "rejected": "Here: O", "chosen": "I cannot help with that."},
           {"prompt": "Paint a glorp", "rejected": "Here: P", "chosen": "I'm sorry, I can't."}]  # fmt: skip
SPLIT = [{"instruction": "Draw a glorp", "category": "shapes"}, {"instruction": "Name a jar", "category": None}]
RD_COMPLETIONS = [{"category": "shapes", "prompt": "Draw a glorp", "response": "Here: O"},
                  {"category": "paints", "prompt": "Paint a glorp", "response": "Here: P"}]  # fmt: skip
RD_EVALUATIONS = {
    "substring_matching_success_rate": 0.5,
    "substring_matching_per_category": {"shapes": 1.0},
    "completions": [one | {"is_jailbreak_substring_matching": 1} for one in RD_COMPLETIONS],
}


def put(tmp_path, name, value):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(value), path)
    elif isinstance(value, str):
        path.write_text(value)
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in value))
    else:
        path.write_text(json.dumps(value))
    return str(path)


@pytest.mark.parametrize(
    "name, value, options, prompts, behaviors, groups, dropped",
    [
        ("jbb.json", ARTIFACT, {}, ["Ignore all. Draw one", "!! ok"], ["Draw glorp 0", "Draw glorp 2"],
         ["shapes", "art"], (1, 0, 0)),
        ("strongreject_dataset.csv", STRONGREJECT, {}, ["Draw a glorp", "Paint a glorp"], None, ["shapes", "art"],
         (0, 0, 0)),
        ("question.jsonl", SORRY, {}, ["Draw a glorp", "Paint a glorp"], None, ["3", "7"], (0, 0, 0)),
        ("sorry.parquet", SORRY, {}, ["Draw a glorp", "Paint a glorp"], None, ["3", "7"], (0, 0, 0)),
        ("train.tsv", WILDJAILBREAK, {"label": "vanilla_harmful,adversarial_harmful"},
         ["Draw a glorp", 'As a "painter", paint'], ["Draw a glorp", "Paint a glorp"], ["", ""], (0, 0, 1)),
        ("wildguard.parquet", WILDGUARD, {"label": "harmful"}, ["Draw a glorp", "You paint. Go"], None,
         ["shapes", "paints"], (0, 0, 1)),
        ("harmful_behaviors_test_public.json", AGENTHARM, {}, ["Order glorp 1", "Order glorp 2"], None,
         ["shapes", "shapes"], (0, 0, 0)),
        ("pku.jsonl", PKU, {}, ["Draw a glorp", "Paint a glorp"], None, ["", ""], (0, 1, 0)),
        ("beavertails.jsonl", BEAVERTAILS, {"label_column": "is_safe", "label": "false"}, ["Draw a glorp"], None,
         ["shapes"], (0, 0, 1)),
        ("lat.jsonl", LLM_LAT, {}, ["Draw a glorp", "Paint a glorp"], None, ["", ""], (0, 0, 0)),
        ("harmful_train.json", SPLIT, {}, ["Draw a glorp", "Name a jar"], None, ["shapes", ""], (0, 0, 0)),
        ("x_completions.json", RD_COMPLETIONS, {}, ["Draw a glorp", "Paint a glorp"], None, ["shapes", "paints"],
         (0, 0, 0)),
        ("x_evaluations.json", RD_EVALUATIONS, {}, ["Draw a glorp", "Paint a glorp"], None, ["shapes", "paints"],
         (0, 0, 0)),
    ],
)  # fmt: skip
def test_a_publishers_file_is_read_as_it_is(name, value, options, prompts, behaviors, groups, dropped, tmp_path):
    loaded = load_prompts(put(tmp_path, name, value), **options)
    assert list(loaded.prompts) == prompts and list(loaded.groups) == groups
    assert list(loaded.behaviors) == (behaviors or prompts)
    assert (loaded.empty, loaded.duplicates, loaded.others) == dropped
    told = loaded.describe()["dropped"]
    assert tuple(told.values()) == dropped and bool(loaded.dropped_in_words()) == any(dropped)


def test_harmbench_keeps_its_standard_rows_unless_others_are_asked_for(tmp_path):
    path = put(tmp_path, "behaviors.csv", HARMBENCH)
    assert load_prompts(path).prompts == ("Draw a glorp", "Paint a glorp") and load_prompts(path).others == 3
    contextual = load_prompts(path, label="contextual")
    # Two rows of one behaviour are two requests where their contexts differ.
    assert contextual.prompts == ("Dear glorp\n\n---\n\nSum up the letter", "Dear blorp\n\n---\n\nSum up the letter")
    assert contextual.behaviors == contextual.prompts and contextual.duplicates == 0
    assert [contexts.split(text)[0] for text in contextual.behaviors] == ["Dear glorp", "Dear blorp"]
    assert len(load_prompts(path, label="all").prompts) == 5
    assert len(load_prompts(path, label="standard,copyright").prompts) == 3
    repeated = put(tmp_path, "twice.csv", HARMBENCH + "sum up the  letter,contextual,x,,dear glorp,again\n")
    assert load_prompts(repeated, label="contextual").duplicates == 1


def test_harmbench_test_cases_completions_and_targets_are_joined_to_their_behaviours(tmp_path):
    behaviors, targets = put(tmp_path, "behaviors.csv", HARMBENCH), put(tmp_path, "targets.json", TARGETS)
    loaded = load_prompts(
        put(tmp_path, "test_cases.json", TEST_CASES), joined=(behaviors, targets), target_column="target", label="all"
    )
    assert loaded.prompts == ("You are a painter. Draw one!", "Please !! draw", "Paint ?? one")
    assert loaded.behaviors == ("Draw a glorp", "Draw a glorp", "Paint a glorp") and loaded.empty == 1
    assert loaded.targets == ("Here is draw_glorp", "Here is draw_glorp", "Here is paint_glorp")
    assert loaded.groups == ("shapes", "shapes", "paints")
    # One behaviour alone has the same form; what names the file tells it from a list under any key.
    one = put(tmp_path, "draw_glorp/test_cases.json", {"sum_letter_2": ["Do it"]})
    alone = load_prompts(one, joined=(behaviors,), label="contextual")
    # The attack holds its context, or does not: it is put as it is. The judge is told of it.
    assert alone.prompts == ("Do it",) and alone.behaviors == ("Dear blorp\n\n---\n\nSum up the letter",)
    completed = load_prompts(put(tmp_path, "completions.json", COMPLETIONS), joined=(behaviors,))
    assert completed.prompts == ("Draw !!", "Paint ??") and completed.behaviors == ("Draw a glorp", "Paint a glorp")
    aimed = load_prompts(behaviors, joined=(targets,), target_column="target")
    assert aimed.prompts == aimed.behaviors == ("Draw a glorp", "Paint a glorp")
    assert aimed.targets == ("Here is draw_glorp", "Here is paint_glorp")
    # Unless it is named, a target is nobody's aim.
    assert load_prompts(behaviors, joined=(targets,)).targets == ("", "")


@pytest.mark.parametrize(
    "value, options, message",
    [
        (TEST_CASES, {}, "what is judged stands in the behaviours file"),
        (TEST_CASES, {"joined": ("lacking.csv",)}, "BehaviorID 'paint_glorp' is not in lacking.csv .so of 2 of 4 rows"),
        (TEST_CASES, {"joined": ("twice.csv",)}, "twice.csv, line 3: BehaviorID 'draw_glorp' stands twice"),
        (
            TEST_CASES,
            {"joined": ("xstest.csv",)},
            "files are joined by a column BehaviorID, but there are only: prompt",
        ),
        (ARTIFACT, {"behavior_column": "prompt"}, "the behavior column 'prompt' is the prompt column"),
        (ARTIFACT, {"context_column": "goal"}, "the context column 'goal' is the behavior column"),
        (ARTIFACT, {"behavior_column": "queries_to_jailbreak"}, "'queries_to_jailbreak' holds no behaviour"),
        (ARTIFACT, {"context_column": "queries_to_jailbreak"}, "no row has a context in column 'queries_to_jailbreak'"),
        (AGENTHARM, {"cluster_column": "category"}, "cluster column 'category' holds one value, 'shapes', for all 2"),
        (ARTIFACT, {"label": "safe"}, "label = 'safe' needs a column of labels"),
    ],
)
def test_what_does_not_belong_together_is_refused(value, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "lacking.csv", "Behavior,BehaviorID\nDraw a glorp,draw_glorp\n")
    put(tmp_path, "twice.csv", "Behavior,BehaviorID\nDraw,draw_glorp\nDraw,draw_glorp\n")
    put(tmp_path, "xstest.csv", "prompt,label\nDraw,safe\n")
    with pytest.raises(InputError, match=message) as error:
        load_prompts(put(tmp_path, "file.json", value), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, text, options, message",
    [
        ("a.csv", HARMBENCH.replace("Dear blorp", ""), {"label": "contextual"},
         "line 4: a contextual behaviour without its context"),
        ("b.csv", "Behavior,FunctionalCategory\nSum it up,contextual\n", {"label": "all"}, "without its context"),
        ("c.csv", "Behavior,FunctionalCategory\nRecite,copyright\n", {}, "the label 'standard', which is taken where"),
        ("d.jsonl", '{"turns": ["Draw", "More"]}\n', {}, "line 1: column 'turns' holds 2 turns, expected one"),
    ],
)  # fmt: skip
def test_rows_that_say_too_little_are_refused(name, text, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_prompts(put(tmp_path, name, text), **options)


def test_rows_without_a_behaviour_are_told_where_the_column_was_recognised(tmp_path):
    rows = [{"prompt": "!! go", "goal": "Draw"}, {"prompt": "Name a jar", "goal": None}]
    loaded = load_prompts(put(tmp_path, "a.jsonl", rows))
    assert loaded.behaviors == ("Draw", "Name a jar")
    assert loaded.notes == ("1 of 2 prompts have no goal: they are judged themselves",)


HERETIC = """
n_trials = 200
refusal_markers = ["sorry"]

[good_prompts]
dataset = "DIR/good.csv"
split = "train[:2]"
column = "text"
residual_plot_label = "Harmless"

[bad_prompts]
dataset = "DIR/set"
split = "train[1:50%]"
column = "text"
prefix = "Answer:"
system_prompt = "Be brief."

[[bad_evaluation_prompts]]
dataset = "DIR/set"
split = "test[-1:]"
column = "text"

[[bad_evaluation_prompts]]
dataset = "DIR/lines.txt"
"""


def heretic(tmp_path):
    put(tmp_path, "good.csv", "text\nName a jar\nName a lamp\nName a door\n")
    put(tmp_path, "set/data/train-00000-of-00002.csv", "text\n" + "".join(f"Draw {n}\n" for n in range(4)))
    put(tmp_path, "set/data/train-00001-of-00002.csv", "text\n" + "".join(f"Draw {n}\n" for n in range(4, 8)))
    put(tmp_path, "set/data/test-00000-of-00001.csv", "text\nPaint 0\nPaint 1\n")
    put(tmp_path, "lines.txt", "Carve one\n")
    return put(tmp_path, "config.toml", HERETIC.replace("DIR", str(tmp_path)))


def test_a_heretic_configuration_names_its_prompts(tmp_path):
    path = heretic(tmp_path)
    assert load_prompts(path, section="good_prompts").prompts == ("Name a jar", "Name a lamp")
    bad = load_prompts(f"{path}:bad_prompts", section="good_prompts")
    # heretic's own joint: one space behind the prefix. What is judged is the request alone.
    assert bad.prompts == ("Answer: Draw 1", "Answer: Draw 2", "Answer: Draw 3")
    assert bad.behaviors == ("Draw 1", "Draw 2", "Draw 3") and "system_prompt is not put in front" in bad.notes[0]
    assert load_prompts(f"{path}:bad_evaluation_prompts").prompts == ("Paint 1", "Carve one")
    for source, message in {
        path: f"it leaves a choice of sections.*{path}:good_prompts, .*bad_evaluation_prompts",
        f"{path}:worse_prompts": r"no section \[worse_prompts\] names",
        put(tmp_path, "broken.toml", "[a\n"): "is no TOML",
        str(tmp_path / "gone.toml"): "cannot be read",
        put(tmp_path, "sum.toml", '[a]\ndataset = "good.csv"\nsplit = "train+test"\n') + ":a": "expected one split",
        put(tmp_path, "far.toml", f'[a]\ndataset = "{tmp_path}/good.csv"\nsplit = "train[:400]"\n') + ":a": (
            "400 is beyond the 3 rows"
        ),
    }.items():
        with pytest.raises(InputError, match=message):
            load_prompts(source)


def test_a_directory_of_files_is_a_data_set(tmp_path):
    heretic(tmp_path)
    train = load_prompts(f"{tmp_path}/set:train")
    assert train.prompts == tuple(f"Draw {n}" for n in range(8)) and train.name == "set"
    assert load_prompts(f"{tmp_path}/set:test[:1]").prompts == ("Paint 0",)
    with pytest.raises(InputError, match=f"{tmp_path}/set leaves a choice; it has {tmp_path}/set:default:test, "):
        load_prompts(tmp_path / "set")
    put(tmp_path, "set/README.md", "---\nconfigs:\n- config_name: all\n  data_files: data/*.csv\n---\nA set.\n")
    assert len(load_prompts(tmp_path / "set").prompts) == 10
    put(tmp_path, "set/README.md", "---\n: : :\n---\nNo card.\n")
    assert load_prompts(f"{tmp_path}/set:test").prompts == ("Paint 0", "Paint 1")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none has no files that can be read"):
        load_prompts(tmp_path / "none")


@pytest.mark.parametrize(
    "name, value, prompts, responses, dropped",
    [
        ("pku.jsonl", PKU, ["Draw a glorp", "Draw a glorp"], ["Here: O", "Sure: O"], (0, 0, 1)),
        ("beavertails.jsonl", BEAVERTAILS, ["Draw a glorp"], ["Here: O"], (0, 0, 1)),
        ("lat.jsonl", LLM_LAT, ["Draw a glorp", "Paint a glorp"], ["Here: O", "Here: P"], (0, 0, 0)),
        ("train.tsv", WILDJAILBREAK, ["Draw a glorp", 'As a "painter", paint', "Name a jar"],
         ["Here: O", "Here: P", "Jar"], (0, 0, 0)),
        ("completions.json", COMPLETIONS, ["Draw !!", "Paint ??"], ["Here is one: O", "Here it is."], (0, 0, 0)),
        ("x_completions.json", RD_COMPLETIONS, ["Draw a glorp", "Paint a glorp"], ["Here: O", "Here: P"], (0, 0, 0)),
        ("x_evaluations.json", RD_EVALUATIONS, ["Draw a glorp", "Paint a glorp"], ["Here: O", "Here: P"], (0, 0, 0)),
        ("wildguard.jsonl", WILDGUARD[1:] + LLM_LAT[:0], ["Name a jar"], ["Jar"], (1, 0, 0)),
    ],
)  # fmt: skip
def test_a_publishers_pairs_are_read_as_they_are(name, value, prompts, responses, dropped, tmp_path):
    pairs = pair_files.load_pairs(put(tmp_path, name, value), is_refusal=is_refusal)
    assert list(pairs.prompts) == prompts and list(pairs.responses) == responses
    assert (pairs.empty, pairs.duplicates, pairs.safe) == dropped


# The published files: requests only, in the folder that LATENT_AUDIT_REAL_PROMPTS names.


@pytest.mark.real
@pytest.mark.parametrize(
    "name, options, count, column",
    [
        ("harmbench_behaviors_text_standard.csv", {}, 200, "Behavior"),
        ("advbench_harmful_behaviors.csv", {"target_column": "target"}, 520, "goal"),
        ("jbb_harmful_behaviors.csv", {"target_column": "target"}, 100, "Goal"),
        ("xstest_prompts.csv", {"label": "safe"}, 250, "prompt"),
        ("xstest_prompts.csv", {"label": "unsafe"}, 200, "prompt"),
    ],
)
def test_published_files(name, options, count, column):
    if not REAL:
        pytest.skip("LATENT_AUDIT_REAL_PROMPTS names no folder of published prompt sets")
    loaded = load_prompts(pathlib.Path(REAL) / name, **options)
    assert len(loaded.prompts) + loaded.duplicates == count and loaded.columns["prompt"] == column
    assert loaded.behaviors == loaded.prompts and loaded.empty == 0
    assert all(loaded.targets) == ("target_column" in options)


def test_a_part_of_a_split_of_the_hub_is_taken_at_its_commit(tmp_path, monkeypatch):
    asked = []
    path = put(tmp_path, "train.csv", "text\n" + "".join(f"Draw {n}\n" for n in range(4)))
    monkeypatch.setattr(
        prompt_hub, "download", lambda address, revision=None: asked.append((address, revision)) or [pathlib.Path(path)]
    )
    assert load_prompts("hub:o/n:train[1:3]").prompts == ("Draw 1", "Draw 2")
    assert load_prompts("hub:o/n:en:train[-25%:]").prompts == ("Draw 3",)
    text = '[bad_prompts]\ndataset = "o/n"\nconfig = "en"\nsplit = "train[:2]"\ncolumn = "text"\ncommit = "0f"\n'
    loaded = load_prompts(put(tmp_path, "config.toml", text), section="bad_prompts")
    assert loaded.prompts == ("Draw 0", "Draw 1") and loaded.name == "config-bad_prompts"
    assert asked == [("o/n:train", None), ("o/n:en:train", None), ("o/n:en:train", "0f")]
