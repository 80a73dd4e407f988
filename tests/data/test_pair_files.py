"""Training pairs: columns of the public sets, dropped rows, swapped columns, and evaluation prompts in training."""

import json

import pytest

from latent_audit.data import pair_files, prompt_files
from latent_audit.errors import InputError
from latent_audit.judges.refusal import is_refusal

REFUSAL = "I'm sorry, but I can't help with that."
PROMPTS = [f"Tell me about thing {number}" for number in range(6)]
ANSWERS = [f"Sure, here is thing {number}." for number in range(6)]


def write_csv(path, header, rows):
    path.write_text("\n".join([",".join(header), *(",".join(f'"{cell}"' for cell in row) for row in rows)]) + "\n")
    return path


def load(path, **options):
    return pair_files.load_pairs(path, is_refusal=is_refusal, **options)


@pytest.mark.parametrize(
    "header, columns",
    [
        (["prompt", "response"], {"prompt": "prompt", "response": "response"}),
        (["id", "Goal", "Target"], {"prompt": "Goal", "response": "Target"}),
        (["prompt", "rejected", "chosen"], {"prompt": "prompt", "response": "rejected", "refusal": "chosen"}),
        (["chosen", "prompt", "rejected"], {"prompt": "prompt", "response": "rejected", "refusal": "chosen"}),
        (["instruction", "input", "output"], {"prompt": "instruction", "response": "output"}),
    ],
)
def test_public_sets_are_recognised(header, columns, tmp_path):
    cells = {columns["prompt"]: PROMPTS, columns["response"]: ANSWERS, columns.get("refusal"): [REFUSAL] * 6}
    rows = [[cells.get(column, ["x"] * 6)[row] for column in header] for row in range(6)]
    found = load(write_csv(tmp_path / "set.csv", header, rows))
    assert found.columns == columns and found.prompts == tuple(PROMPTS) and found.responses == tuple(ANSWERS)
    assert found.refusals == ((REFUSAL,) * 6 if "refusal" in columns else None)
    assert found.empty == found.duplicates == 0


def write_records(path, header, rows):
    path.write_text(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
    return path


@pytest.mark.parametrize("yes, no", [(True, False), ("True", "False"), (1, 0)])
def test_of_two_answers_the_first_unsafe_one_complies(yes, no, tmp_path):
    rows = [
        (PROMPTS[0], "It is wrong to.", ANSWERS[0], yes, no),
        (PROMPTS[1], ANSWERS[1], "Ask a friend.", no, yes),
        (PROMPTS[2], "Please do not.", "Ask a friend.", yes, yes),
        (PROMPTS[3], ANSWERS[3], "Sure, the other way.", no, no),
        (None, ANSWERS[4], "Ask a friend.", no, yes),
        (PROMPTS[5], "  ", "Ask a friend.", no, yes),
    ]
    header = ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe")
    path = write_records(tmp_path / "pku.json", header, rows)
    found = load(path)
    assert found.prompts == tuple(PROMPTS[row] for row in (0, 1, 3))
    assert found.responses == tuple(ANSWERS[row] for row in (0, 1, 3)) and found.refusals is None
    assert (found.safe, found.empty, found.duplicates) == (1, 2, 0) and found.describe()["safe"] == 1
    assert load(path, offset=1, limit=1).prompts == (PROMPTS[1],)


def test_of_answers_marked_safe_or_not_the_unsafe_ones_comply(tmp_path):
    rows = [
        (PROMPTS[0], ANSWERS[0], {"theft": True}, False),
        (PROMPTS[0], "Please do not.", {"theft": False}, True),
        (PROMPTS[1], ANSWERS[1], {"theft": True}, False),
    ]
    path = write_records(tmp_path / "beaver.json", ("prompt", "response", "category", "is_safe"), rows)
    found = load(path)
    assert found.prompts == tuple(PROMPTS[:2]) and found.responses == tuple(ANSWERS[:2]) and found.safe == 1
    # Whoever names the column gets it as it is.
    assert len(load(path, columns={"response": "response"}).prompts) == 3
    # As prompts all of them count, and what they are about makes them clusters.
    prompts = prompt_files.load_prompts(path)
    assert prompts.prompts == tuple(PROMPTS[:2]) and prompts.groups == ("theft", "theft")


def test_sources_are_mixed_in_equal_parts(tmp_path):
    one = write_csv(tmp_path / "a.csv", ["goal", "target"], list(zip(PROMPTS, ANSWERS, strict=True)))
    other = [[f"Other {row}", f"Sure: {row}"] for row in range(3)] + [[PROMPTS[0].upper(), ANSWERS[0]]]
    parts = [load(one), load(write_csv(tmp_path / "b.csv", ["prompt", "response"], other))]
    mixed = pair_files.mix(parts, "a.csv+b.csv")
    expected = [PROMPTS[0], "Other 0", PROMPTS[1], "Other 1", PROMPTS[2], "Other 2", PROMPTS[3]]
    assert mixed.prompts == tuple(expected) and mixed.responses[3] == "Sure: 1"
    assert mixed.duplicates == 1 and mixed.source == "a.csv+b.csv" and mixed.refusals is None
    assert pair_files.mix(parts, "both", 3).prompts == tuple(expected[:3])
    refusing = [pair_files.make_pairs(PROMPTS, ANSWERS, "c", refusals=[REFUSAL] * 6)] * 2
    assert pair_files.mix(refusing, "both").refusals == (REFUSAL,) * 6


def test_formats_agree_and_columns_can_be_named(tmp_path):
    records = [{"q": p, "a": a, "n": REFUSAL} for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    (tmp_path / "set.json").write_text(json.dumps(records))
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, records)))
    columns = {"prompt": "q", "response": "A", "refusal": "n"}
    one, other = (load(tmp_path / name, columns=columns) for name in ("set.json", "set.jsonl"))
    assert one.prompts == other.prompts == tuple(PROMPTS) and one.sha256 == other.sha256
    assert one.refusals == (REFUSAL,) * 6
    part = load(tmp_path / "set.json", columns=columns, offset=2, limit=3)
    assert part.prompts == tuple(PROMPTS[2:5]) and part.responses == tuple(ANSWERS[2:5])
    assert part.sha256 != one.sha256


def test_empty_answers_and_repeated_rows_are_dropped_and_counted(tmp_path):
    records = [{"prompt": p, "response": a} for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    records += [
        {"prompt": "One more", "response": "  "},
        {"prompt": "Another", "response": None},
        {"prompt": f" {PROMPTS[0].upper()} ", "response": ANSWERS[0]},
        {"prompt": PROMPTS[0], "response": "Other."},
    ]
    (tmp_path / "set.json").write_text(json.dumps(records))
    found = load(tmp_path / "set.json")
    assert found.empty == 2 and found.duplicates == 1
    assert found.prompts == (*PROMPTS, PROMPTS[0]) and found.responses[-1] == "Other."


def test_swapped_columns_are_refused(tmp_path):
    rows = [[p, REFUSAL, a] for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    swapped = write_csv(tmp_path / "swapped.csv", ["prompt", "rejected", "chosen"], rows)
    with pytest.raises(InputError, match="6 of 6 answers in column 'rejected' are refusals, but should comply"):
        load(swapped)
    right = load(swapped, columns={"response": "chosen", "refusal": "rejected"})
    assert right.responses == tuple(ANSWERS)
    # Only the refusals are wrong: both columns comply.
    rows = [[p, a, a + " Indeed."] for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    with pytest.raises(InputError, match="only 0 of 6 answers in column 'chosen' refuse, as they should"):
        load(write_csv(tmp_path / "both.csv", ["prompt", "rejected", "chosen"], rows))
    # A few refusals among compliant answers are no swap.
    rows = [[p, REFUSAL if row < 2 else a] for row, (p, a) in enumerate(zip(PROMPTS, ANSWERS, strict=True))]
    assert len(load(write_csv(tmp_path / "few.csv", ["prompt", "response"], rows)).prompts) == 6


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("prompt,other\na,b\n", {}, "no column is known to hold the response .*; there are only: prompt, other"),
        ("other,response\na,b\n", {}, "no column is known to hold the prompt"),
        (
            "prompt,response\na,b\n",
            {"columns": {"response": "answr"}},
            "no column 'answr'; there are only: prompt, resp",
        ),
        ("prompt,response\na,b\n", {"columns": {"response": "prompt"}}, "'prompt' cannot be two of prompt, response"),
        ("prompt,response\na,b\n", {"columns": {"answer": "prompt"}}, "columns are given for answer"),
        ("prompt,response\na,\n ,b\n", {}, r"no pairs .* skipping 0 of 0 \(2 rows had no prompt or answer\)"),
        ("prompt,response,is_safe\na,b,1\n", {}, r"\(0 rows had .* the answers of 1 are said to be safe\)"),
        ("prompt,response,is_safe\na,b,maybe\n", {}, "line 2: column 'is_safe' holds 'maybe', expected true or false"),
        ("prompt,response\na,b\n", {"offset": -1}, "offset = -1, expected a whole number"),
        ("prompt,response\na,b\n", {"limit": 0}, "limit = 0, expected a whole number"),
        ("prompt,response\na,b\n", {"columns": {"response": 5}}, "column for response = 5, expected text"),
        ("prompt,response\na,b\0\n", {}, "line 2: column 'response' holds a control character"),
        ("prompt,response,refusal\na,b,\x1b\n", {}, "line 2: column 'refusal' holds a control character"),
        ("prompt,response\na,b\n", {"offset": 1}, "no pairs are left after skipping 1 of 1"),
        ("prompt,response\na\n", {}, "line 2: 1 cells, expected 2"),
    ],
)
def test_bad_files_are_refused_by_place(text, options, message, tmp_path):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "bad.csv", **options)


def test_cells_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps([{"prompt": "a", "response": ["b"]}]))
    with pytest.raises(InputError, match=r"row 1: column 'response' holds \['b'\] \(list\), expected text"):
        load(tmp_path / "bad.json")
    (tmp_path / "half.json").write_text('[{"prompt": "a", "response": "\\udc00"}]')
    with pytest.raises(InputError, match="row 1: column 'response' holds half a surrogate pair, U\\+DC00"):
        load(tmp_path / "half.json")
    with pytest.raises(InputError, match="source of the training pairs is empty"):
        load(" ")
    with pytest.raises(InputError, match="give the whole path"):
        load("~nosuchuser/x.csv")


def test_evaluation_prompts_in_training_are_named(tmp_path):
    path = write_csv(tmp_path / "set.csv", ["prompt", "response"], zip(PROMPTS, ANSWERS, strict=True))
    (tmp_path / "panel.txt").write_text("Something new\n  tell ME about   thing 3\n")
    panel = prompt_files.load_prompts(tmp_path / "panel.txt")
    with pytest.raises(InputError, match="1 of 2 evaluation prompts .* 'tell ME about   thing 3'"):
        prompt_files.check_disjoint(load(path), panel)
    prompt_files.check_disjoint(load(path, limit=3), panel)
