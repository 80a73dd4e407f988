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
        ("prompt,response\n ,b\n", {}, "line 2: column 'prompt' is empty"),
        ("prompt,response\na,\n", {}, r"no pairs are left after skipping 0 of 0 \(1 rows had an empty answer\)"),
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
