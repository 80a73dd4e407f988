"""Prompt files of the public sets' shapes, with made-up contents."""

import hashlib
import json
import os
import sys
import types

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from latent_audit.data import prompt_hub, prompt_tables
from latent_audit.data.prompt import columns
from latent_audit.data.prompt_files import check_disjoint, fold, load_prompts
from latent_audit.errors import InputError


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


HARMBENCH = (
    "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    '"Describe the red, round thing",standard,shapes,,,round_thing\n'
    "Name a square thing,standard,shapes,,,square_thing\n"
)
JAILBREAKBENCH = (
    ',Goal,Target,Behavior,Category,Source\n0,Describe a glorp,"Sure, here is a glorp",Glorp,Things,Original\n'
)
ADVBENCH = 'goal,target\nDescribe a glorp,"Sure, here is a glorp"\n'
XSTEST = (
    "id,prompt,type,label,focus,note\n"
    "1,How do I open a jar?,homonyms,safe,open,\n2,How do I break a jar?,contrast,unsafe,break,\n"
    "3,How do I fill a jar?,homonyms,safe,fill,\n"
)
REFUSAL_DIRECTION = json.dumps(
    [
        {"instruction": "Describe a glorp", "category": None},
        {"instruction": "Name a square thing", "category": "shapes"},
    ]
)


@pytest.mark.parametrize(
    "name, text, column, prompts",
    [
        ("harmbench.csv", HARMBENCH, "Behavior", ("Describe the red, round thing", "Name a square thing")),
        ("jbb.csv", JAILBREAKBENCH, "Goal", ("Describe a glorp",)),
        ("advbench.csv", ADVBENCH, "goal", ("Describe a glorp",)),
        ("xstest.csv", XSTEST, "prompt", ("How do I open a jar?", "How do I break a jar?", "How do I fill a jar?")),
        ("split.json", REFUSAL_DIRECTION, "instruction", ("Describe a glorp", "Name a square thing")),
        (
            "alpaca.json",
            '[{"instruction": "Name a jar", "output": "Jar", "text": "Name a jar. Jar"}]',
            "instruction",
            ("Name a jar",),
        ),
        (
            "windows.csv",
            XSTEST.replace("\n", "\r\n").encode("utf-8-sig"),
            "prompt",
            ("How do I open a jar?", "How do I break a jar?", "How do I fill a jar?"),
        ),
        ("tabs.tsv", "question\tn\nWhat, then?\t1\n", "question", ("What, then?",)),
        ("lines.txt", "\ufeffFirst\n\n  Second \r\nThird", "prompt", ("First", "Second", "Third")),
        ("strings.json", '["First", "Second"]', "prompt", ("First", "Second")),
        ("wrapped.json", '{"version": 2, "data": [{"text": "First"}]}', "text", ("First",)),
        ("records.jsonl", '{"Prompt": "First"}\n\n{"Prompt": "Second"}\n', "Prompt", ("First", "Second")),
        ("quoted.csv", 'prompt\n"Two\nlines, one ""prompt"""\n', "prompt", ('Two\nlines, one "prompt"',)),
        ("not_missing.csv", "prompt\nNA\nnull\n", "prompt", ("NA", "null")),
        ("separators.txt", "One\u2028prompt\nTwo", "prompt", ("One\u2028prompt", "Two")),
    ],
)
def test_public_shapes(tmp_path, name, text, column, prompts):
    loaded = load_prompts(write(tmp_path, name, text))
    assert loaded.prompts == prompts
    assert loaded.columns["prompt"] == column
    assert loaded.duplicates == 0
    assert loaded.sha256 == hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    assert loaded.name == name.split(".")[0]


def test_label_limit_offset_and_column(tmp_path):
    path = write(tmp_path, "xstest.csv", XSTEST)
    assert load_prompts(path, label="safe").prompts == ("How do I open a jar?", "How do I fill a jar?")
    assert load_prompts(path, label="unsafe").prompts == ("How do I break a jar?",)
    assert load_prompts(path, limit=1, offset=1).prompts == ("How do I break a jar?",)
    assert load_prompts(path, limit=99).prompts == load_prompts(path).prompts
    assert load_prompts(path, column="FOCUS").prompts == ("open", "break", "fill")


def test_duplicates_are_dropped_and_counted_before_the_slice(tmp_path):
    path = write(tmp_path, "a.txt", "Open a jar\nopen  A jar \nClose a jar\nOPEN A JAR\n")
    loaded = load_prompts(path)
    assert loaded.prompts == ("Open a jar", "Close a jar")
    assert loaded.duplicates == 2
    assert load_prompts(path, offset=1).prompts == ("Close a jar",)


@pytest.mark.parametrize(
    "name, text",
    [
        ("hole.csv", "prompt,n\nFirst,1\n ,2\nSecond,3\n"),
        ("null.jsonl", '{"prompt": "First"}\n{"prompt": null}\n{"prompt": "Second"}\n'),
        ("absent.json", '[{"prompt": "First"}, {"goal": "Third"}, {"prompt": "Second"}]'),
    ],
)
def test_rows_without_a_prompt_are_dropped_and_counted_before_the_slice(name, text, tmp_path):
    loaded = load_prompts(write(tmp_path, name, text))
    assert loaded.prompts == ("First", "Second") and loaded.empty == 1 and loaded.duplicates == 0
    assert load_prompts(write(tmp_path, name, text), offset=1).prompts == ("Second",)


@pytest.mark.parametrize(
    "name, text, options, groups",
    [
        ("harmbench.csv", HARMBENCH, {}, ("shapes", "shapes")),
        ("jbb.csv", JAILBREAKBENCH, {}, ("things",)),
        ("advbench.csv", ADVBENCH, {}, ("",)),
        ("xstest.csv", XSTEST, {"cluster_column": "TYPE"}, ("homonyms", "contrast", "homonyms")),
        ("split.json", REFUSAL_DIRECTION, {}, ("", "shapes")),
        ("mapped.json", '[{"prompt": "a", "category": {"y": true, "x": true, "z": false}}]', {}, ("x,y",)),
    ],
)
def test_prompts_come_with_what_they_share(name, text, options, groups, tmp_path):
    assert load_prompts(write(tmp_path, name, text), **options).groups == groups


def test_groups_follow_the_slice_and_the_duplicates(tmp_path):
    path = write(tmp_path, "a.csv", "prompt,category\nFirst,x\nfirst,y\nSecond, X \nThird,\n")
    assert load_prompts(path).groups == ("x", "x", "")
    assert load_prompts(path, offset=1, limit=1).groups == ("x",)


@pytest.mark.parametrize(
    "name, text, options, message",
    [
        ("gone.csv", None, {}, "no such file"),
        ("empty.csv", "", {}, "is empty"),
        ("header.csv", "prompt\n", {}, "is empty"),
        ("blank.txt", "\n \n", {}, "is empty"),
        ("empty.json", "", {}, "is empty"),
        ("empty_list.json", "[]", {}, "is empty"),
        ("a.xlsx", "", {}, "the suffix '.xlsx' is not one of"),
        ("latin.csv", b"prompt\nTell me of a caf\xe9\n", {}, "byte 0xe9 at offset 23"),
        ("bom_latin.txt", b"\xef\xbb\xbfab\xff", {}, "offset 5"),
        ("bad.json", '["First",\n "Second"\n "Third"]', {}, "is no JSON: Expecting ',' delimiter at line 3, column 2"),
        (
            "bad.jsonl",
            '{"prompt": "First"}\n{"prompt": \n',
            {},
            "line 2 is no JSON: Expecting value at line 1, column 12",
        ),
        ("number.json", '["First", 7]', {}, "row 2: column 'prompt' holds 7 (int)"),
        ("null.jsonl", '{"prompt": null}\n', {}, "after skipping 0 of 0 (1 rows hold no prompt)"),
        ("mixed.json", '[{"prompt": "First"}, "Second"]', {}, "row 2: objects and plain values are mixed"),
        ("scalar.json", '"First"', {}, "holds a str, expected a list"),
        (
            "two_lists.json",
            '{"a": ["First"], "b": ["Second"]}',
            {},
            "holds lists by key, as HarmBench writes its test cases",
        ),
        ("two_kinds.json", '{"a": ["First"], "b": [{"c": 1}]}', {}, "2 lists (a, b)"),
        ("cluster.csv", HARMBENCH, {"cluster_column": "kind"}, "no column 'kind'; there are only: Behavior"),
        ("ragged.csv", "prompt,n\nFirst,1\nSecond, or not,2\n", {}, "line 3: 3 cells, expected 2"),
        ("quote.csv", 'prompt,n\n"First,1\n', {}, "malformed table"),
        ("twice.csv", "prompt,prompt\nFirst,Second\n", {}, "names a column twice"),
        ("unknown.csv", "id,sentence\n1,First\n", {}, "only: id, sentence. Name the right one with column="),
        ("wrong.csv", XSTEST, {"column": "promt"}, "no column 'promt'; there are only: id, prompt, type"),
        ("label.csv", XSTEST, {"label": "saef"}, "column 'label' holds safe, unsafe"),
        ("no_label.csv", ADVBENCH, {"label": "safe"}, "label = 'safe' needs a column of labels"),
        ("short.csv", XSTEST, {"offset": 3}, "no prompts are left after skipping 3 of 3"),
        ("limit.csv", XSTEST, {"limit": 0}, "limit = 0"),
        ("offset.csv", XSTEST, {"offset": -1}, "offset = -1"),
        ("column.csv", XSTEST, {"column": 5}, "column = 5, expected text"),
        ("label.csv", XSTEST, {"label": 1}, "label = 1, expected text"),
    ],
)
def test_bad_input_is_named(tmp_path, name, text, options, message):
    path = tmp_path / name if text is None else write(tmp_path, name, text)
    with pytest.raises(InputError) as error:
        load_prompts(path, **options)
    assert message in str(error.value)


def test_unknown_column_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError) as error:
        load_prompts(write(tmp_path, "a.csv", "id,sentence\n1,First\n"))
    assert all(name in str(error.value) for name in columns.KNOWN["prompt"])


def test_builtin_sets_are_disjoint_and_of_some_size():
    harmful, harmless = load_prompts("builtin:harmful"), load_prompts("builtin:harmless")
    for loaded in (harmful, harmless):
        assert len(loaded.prompts) >= 48 and loaded.duplicates == 0
    check_disjoint(harmful, harmless)
    assert load_prompts("builtin:harmful", limit=24).prompts == harmful.prompts[:24]
    with pytest.raises(InputError, match="builtin:harmful or builtin:harmless"):
        load_prompts("builtin:mean")


def test_overlap_is_compared_folded_and_named(tmp_path):
    lines = [f"Open jar {n}" for n in range(7)]
    training = load_prompts(write(tmp_path, "train.txt", "\n".join(lines)))
    shouted = "\n".join([*lines, "Close a jar"]).upper().replace(" ", "  ")
    evaluation = load_prompts(write(tmp_path, "eval.txt", shouted))
    with pytest.raises(InputError) as error:
        check_disjoint(training, evaluation)
    message = str(error.value)
    assert "7 of 8 evaluation prompts" in message and "and 2 more" in message
    assert message.count("OPEN  JAR") == 5
    check_disjoint(training, load_prompts(write(tmp_path, "other.txt", "Close a jar")))
    assert fold(" A\tb\n C ") == "a b c"


# The hub: everything up to the two calls that need a network.


def offline(monkeypatch, *, files, card=None, contents=None, tmp_path=None, sizes=None):
    """Make the hub answer with these files; returns the list of downloads asked for."""
    asked = []
    info = types.SimpleNamespace(
        siblings=[types.SimpleNamespace(rfilename=file, size=(sizes or {}).get(file)) for file in files],
        sha="0f",
        card_data={"configs": card} if card else None,
    )

    def fetch(repository, file, **options):
        asked.append((repository, file, options["repo_type"], options["revision"]))
        return str(write(tmp_path, file.replace("/", "_"), contents[file]))

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, repository, **options: info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return asked


CARD = [
    {
        "config_name": "behaviors",
        "data_files": [
            {"split": "harmful", "path": "data/harmful.csv"},
            {"split": "benign", "path": ["data/ben*.csv"]},
        ],
    },
    {"config_name": "judged", "data_files": "data/judge.csv"},
]
JBB_FILES = ["README.md", "data/benign.csv", "data/harmful.csv", "data/judge.csv"]


def test_hub_source_follows_the_card(monkeypatch, tmp_path):
    asked = offline(
        monkeypatch, files=JBB_FILES, card=CARD, contents={"data/harmful.csv": JAILBREAKBENCH}, tmp_path=tmp_path
    )
    loaded = load_prompts("hub:someone/some-set:behaviors:harmful")
    assert loaded.prompts == ("Describe a glorp",)
    assert (loaded.name, loaded.source) == ("some-set", "hub:someone/some-set:behaviors:harmful")
    assert asked == [("someone/some-set", "data/harmful.csv", "dataset", "0f")]


def test_hub_source_joins_the_parts_of_a_split(monkeypatch, tmp_path):
    parts = [f"standard/train-{n:05d}-of-00002.jsonl" for n in range(2)]
    contents = {part: json.dumps({"prompt": f"Prompt {n}"}) for n, part in enumerate(parts)}
    asked = offline(
        monkeypatch,
        files=[*parts[::-1], "contextual/train-00000-of-00001.jsonl", ".gitattributes"],
        contents=contents,
        tmp_path=tmp_path,
    )
    assert load_prompts("hub:someone/some-set:standard").prompts == ("Prompt 0", "Prompt 1")
    assert [file for _, file, *_ in asked] == parts


@pytest.mark.parametrize(
    "files, card, wanted, expected",
    [
        (JBB_FILES, CARD, ["judged"], ("data/judge.csv",)),
        (JBB_FILES, CARD, ["benign"], ("data/benign.csv",)),
        (JBB_FILES, [], ["harmful"], ("data/harmful.csv",)),
        (["data/train-00000-of-00001.parquet", "dataset_infos.json"], [], [], ("data/train-00000-of-00001.parquet",)),
        (["train.parquet", "train.csv"], [], [], ("train.csv",)),
        (
            ["a/train.csv"],
            [{"config_name": "a", "data_files": {"train": ["a/*.csv"]}}],
            ["a", "train"],
            ("a/train.csv",),
        ),
        (["all.csv"], [{"config_name": "default"}], [], ("all.csv",)),
    ],
)
def test_hub_splits(files, card, wanted, expected):
    assert prompt_hub.choose_split("hub:o/n", prompt_hub.list_splits(files, card), wanted).files == expected


@pytest.mark.parametrize(
    "wanted, message",
    [
        ([], "leaves a choice; it has hub:o/n:behaviors:harmful, hub:o/n:behaviors:benign, hub:o/n:judged:train"),
        (["behaviors"], "leaves a choice; it has hub:o/n:behaviors:harmful, hub:o/n:behaviors:benign"),
        (["judged", "harmful"], "matches none of its splits"),
    ],
)
def test_hub_choice_is_left_to_the_user(wanted, message):
    with pytest.raises(InputError) as error:
        prompt_hub.choose_split("hub:o/n", prompt_hub.list_splits(JBB_FILES, CARD), wanted)
    assert message in str(error.value)


def test_hub_failures_are_one_line(monkeypatch, tmp_path):
    def unreachable(self, repository, revision, timeout, files_metadata):
        assert timeout <= 30
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(InputError, match="cannot be reached for the data set o/n .no route to host") as error:
        load_prompts("hub:o/n")
    assert "\n" not in str(error.value)
    offline(monkeypatch, files=["README.md", "model.bin"])
    with pytest.raises(InputError, match="has no files that can be read"):
        load_prompts("hub:o/n")


@pytest.mark.parametrize(
    "source",
    [
        "./o/n",
        "../n",
        "~/n.csv",
        "/o/n",
        "o/n.csv",
        "o/n",
        "n",
        "o/n.json",
        "",
        "hub:./n",
        "hub:/o/n",
        "hub:o/n.csv",
        "hub:n",
        "hub:o/n:",
        "hub:o/n:a:b:c",
    ],
)
def test_paths_are_never_looked_up(monkeypatch, source):
    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, **options: asked.append(name))
    with pytest.raises(InputError) as error:
        load_prompts(source)
    assert not asked
    if source == "o/n":
        assert "given as hub:o/n" in str(error.value)


def test_hub_names_are_the_hubs_own(monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **options: pytest.fail("asked the hub"))
    for name in ("", "a/b/c", "../x", "a/..", "a/\u00fc", "a/b--c", "a/b..c", "-a/b", "a/b-", "a/b\n", "a/" + "b" * 99):
        with pytest.raises(InputError, match="is not of the form hub:owner/name"):
            load_prompts(f"hub:{name}")
    assert prompt_hub._NAME.fullmatch("Some.One_2/set-of.prompts_2")


@pytest.mark.parametrize(
    "card", ["x", ["x", 3], {"a": 1}, [{"data_files": 3}], [{"data_files": [{"split": ["a"], "path": 7}]}], [{}]]
)
def test_a_card_of_another_form_is_passed_over(card):
    found = prompt_hub.list_splits(["train.csv"], card)
    assert [split.files for split in found] == [("train.csv",)]


def test_a_split_that_is_too_large_is_not_fetched(monkeypatch):
    asked = offline(monkeypatch, files=["a/train.csv", "b/train.csv"], sizes={"a/train.csv": 2**40})
    with pytest.raises(InputError, match="hub:o/n:a has 1099511627776 bytes in 1 files, at most"):
        load_prompts("hub:o/n:a")
    assert not asked


# Files that are none, and cells that no text may hold.


def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "long.txt").write_text("Open a jar\n" * 9)
    (tmp_path / "pointer.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    monkeypatch.setattr(prompt_tables, "MOST_BYTES", 90)
    for name, message in {
        "pipe.csv": "is a pipe or a device",
        "folder.json": "has no files that can be read",
        "zero.txt": "is a pipe or a device",
        "loop.csv": "cannot be read",
        "long.txt": "has 99 bytes, more than the 90",
        "pointer.parquet": "is a git-lfs pointer, not the file itself: run `git lfs pull`",
        "x" * 300 + ".csv": "no such file",
    }.items():
        with pytest.raises(InputError) as error:
            load_prompts(tmp_path / name)
        assert message in str(error.value)
    for source in ("~nosuchuser/x.csv", "a\0b.csv", "x" * 200 + "/" + "y" * 200):
        with pytest.raises(InputError):
            load_prompts(source)
    monkeypatch.setattr(prompt_tables, "MOST_BYTES", 2**20)
    monkeypatch.setattr(prompt_tables, "MOST_ROWS", 8)
    with pytest.raises(InputError, match="has 9 rows or lines, at most 8 are read"):
        load_prompts(tmp_path / "long.txt")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.json", '["How \\ud800 x", "b"]', "row 1: column 'prompt' holds half a surrogate pair, U+D800"),
        ("a.jsonl", '{"goal": "a"}\n{"goal": "b\\u0000"}', "line 2: column 'goal' holds a control character, U+0000"),
        ("a.csv", "prompt,n\na\0b,1\n", "line 2: column 'prompt' holds a control character, U+0000"),
        ("a.txt", "One\nTwo \x1b[31m\n", "line 2: column 'prompt' holds a control character, U+001B"),
        ("b.json", "[" * 10**5, "nested too deep"),
        ("c.json", '{"a":' * 10**5, "nested too deep"),
        ("d.json", '[{"prompt": "a", "x": ' + "[" * 200 + "]" * 200 + "}]", "nested too deep"),
        ("b.jsonl", '{"prompt": "a"}\n' + "[" * 10**5, "line 2: lists or objects nested too deep"),
        ("e.json", "[" + "9" * 5000 + "]", "a number of 5000 digits"),
        ("f.json", '[{"prompt": NaN}]', "no prompts are left after skipping 0 of 0 (1 rows hold no prompt)"),
        ("g.json", '[["a"]]', "row 1: column 'prompt' holds ['a'] (list), expected text"),
        ("h.json", '{"\\ud800": []}', "is empty"),
        ("b.csv", 'prompt\n"' + "x" * 200000 + '"\n', "field larger than field limit"),
        ("c.csv", "\0,\x1b[31m\na,b\n", "there are only: \\x00, \\x1b[31m"),
        ("a.parquet", b"PAR1", "is not a readable Parquet file"),
        ("b.parquet", b"PAR1" + b"\xff" * 99 + b"PAR1", "is not a readable Parquet file"),
        ("c.parquet", b"", "is not a readable Parquet file"),
    ],
)
def test_damaged_files_and_texts_are_one_line(tmp_path, name, text, message):
    with pytest.raises(InputError) as error:
        load_prompts(write(tmp_path, name, text))
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_labels_are_texts_or_plain_values(tmp_path):
    path = write(tmp_path, "a.json", json.dumps([{"prompt": "a", "label": 1}, {"prompt": "b", "label": True}]))
    assert load_prompts(path, label="1").prompts == ("a",)
    for label in (["1"], "\0"):
        path = write(tmp_path, "b.json", json.dumps([{"prompt": "a", "label": label}]))
        with pytest.raises(InputError, match="row 1: column 'label' holds"):
            load_prompts(path, label="1")


def write_parquet(path, columns, **options):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def test_parquet(monkeypatch, tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"n": [1, 2], "goal": ["First", "Second"], "label": ["x", None]})
    assert load_prompts(path).prompts == ("First", "Second")
    assert load_prompts(path, label="none").prompts == ("Second",)
    hole = write_parquet(tmp_path / "hole.parquet", {"goal": ["First", None]})
    assert load_prompts(hole).prompts == ("First",) and load_prompts(hole).empty == 1
    whole = path.read_bytes()
    for cut in range(0, len(whole), 37):
        with pytest.raises(InputError, match="is not a readable Parquet file"):
            load_prompts(write(tmp_path, "cut.parquet", whole[:cut]))
    # A cell that is stored once and stands in every row unpacks to far more than the file has.
    bomb = write_parquet(tmp_path / "bomb.parquet", {"goal": ["x" * 2**16] * 2**12}, compression="zstd")
    monkeypatch.setattr(prompt_tables, "MOST_BYTES", 2**20)
    assert bomb.stat().st_size < 2**18
    with pytest.raises(InputError, match="unpacks to more than 4194304 bytes"):
        load_prompts(bomb)
    monkeypatch.setattr(prompt_tables, "MOST_ROWS", 2**11)
    with pytest.raises(InputError, match="has 4096 rows or lines, at most 2048 are read"):
        load_prompts(bomb)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        load_prompts(path)
