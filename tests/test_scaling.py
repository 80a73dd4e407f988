"""Memory of the largest targets: bytes from shapes against plain arithmetic, a tiny program measured, the page."""

import json

import jax
import pytest

from benchmarks import scaling, scaling_report

LLAMA, GEMMA = scaling.TARGETS["Llama-3.1-70B"], scaling.TARGETS["Gemma-2-27B"]
TINY = LLAMA | {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_the_targets_have_the_published_sizes_and_a_mesh_holds_them_in_parts():
    llama, gemma = (scaling.exact(hf, 1, 8) for hf in (LLAMA, GEMMA))
    assert llama["count"] == 70_553_706_496 and gemma["count"] == 27_227_128_320
    norms = (2 * 80 + 1) * 8192
    assert llama["parameters"] == 2 * ((llama["count"] - norms) // 8 + norms)
    # Rows over data: half the states, the same weights. Key and value whole beyond eight devices.
    wider = scaling.exact(LLAMA, 2, 16)
    key_value = 2 * 80 * 8192 * 8 * 128
    assert wider["parameters"] == 2 * ((llama["count"] - norms - key_value) // 16 + norms + key_value)
    assert wider["clean"] == pytest.approx(llama["clean"] / 2, rel=1e-3)
    states, gradient = 81 * 24 * 67 * 8192 * 2, 81 * 24 * 64 * 8192 * 2
    assert llama["clean"] == pytest.approx(states + gradient, rel=1e-4)
    adapters = 80 * 16 * (8192 + 8192 // 8 + 8192 + 1024 // 8)  # query's and value's, the second factor cut
    assert llama["training"] == pytest.approx(3 * 4 * adapters, rel=1e-4)
    assert "dimension 1 of 32 cannot be cut into mesh.model = 64" in scaling.exact(GEMMA, 1, 64)["error"]


@pytest.fixture(scope="module")
def record():
    case = {"kind": "cpu", "target": "tiny", "program": "answers", "data": 2, "model": 2, "prompts": 2}
    measured = scaling.measure(TINY, **{key: case[key] for key in scaling.CASE if key not in ("target",)})
    refused = case | {"model": 3, "data": 1, "error": "InputError: cannot be cut"}
    tpu = case | {"kind": "v5e", "error": "RESOURCE_EXHAUSTED: 20G of 16G", "program": "search"}
    shared = {"planned": scaling.planned(TINY, "answers", 2, 2)}
    return {
        "missing": [refused],
        "versions": {"python": "3", "platform": "here", "cores": "2", "jax": "0"},
        "work": {
            "prompts": 24,
            "columns": 64,
            "target_tokens": 4,
            "budgets": 3,
            "new_tokens": 128,
            "rows": 8,
            "tokens": 512,
        },
        "exact": [
            {"target": "tiny", "data": 2, "model": 2} | scaling.exact(TINY, 2, 2),
            {"target": "tiny", "data": 1, "model": 3} | scaling.exact(TINY, 1, 3),
        ],
        "cases": [case | shared | measured, refused | shared, tpu | shared],
    }


def test_a_program_is_measured_without_being_run(record):
    found = record["cases"][0]
    assert found["parameters"] == record["exact"][0]["parameters"]
    perturbations = 18 * 64 * 32 * 4 // 2
    assert found["others"]["perturbations"] == pytest.approx(perturbations, abs=18 * 4)
    assert found["arguments"] == pytest.approx(found["parameters"] + perturbations, rel=0.05)
    cache = 2 * 2 * 2 * 18 * (64 + 127) * 2 * 8 // 4
    assert found["temporaries"] >= cache
    moved = scaling_report.describe(found)
    assert moved["exchanged"] >= 3 and 0 < moved["share"] <= 1 and moved["largest"].startswith("all-reduce")
    assert json.loads(json.dumps(found)) == found


def test_the_smallest_mesh_that_holds_all_programs_is_chosen():
    case = {"kind": "cpu", "target": "a", "program": "search", "prompts": 24}
    sizes = {(1, 8): 60e9, (2, 8): 30e9, (8, 8): 5e9, (1, 64): None}
    cases = [case | {"data": data, "model": model, "bound": size} for (data, model), size in sizes.items()]
    cases.append(case | {"program": "LoRA", "data": 1, "model": 8, "bound": 73e9})
    chosen = {one["device"]: one["mesh"] and one["mesh"][1:] for one in scaling_report.needs(cases)}
    assert chosen == {"H100 80 GB": (8, 2), "TPU v5p": (8, 1), "TPU v5e": (8, 8)}
    assert scaling_report.needs(cases[:1])[2]["mesh"] is None


def test_the_page_names_what_was_refused_and_what_does_not_fit(record, tmp_path):
    scaling_report.write(tmp_path, record)
    page = (tmp_path / "scaling.md").read_text()
    assert "refused: blocks/output [2, 4, 8, 32]: dimension 1 of 4" in page and "does not fit: 20G of 16G" in page
    assert page.count("| tiny | answers | 2 x 2 |") == 1 and "{{" not in page
    assert "**Not compiled yet** (the same command goes on with them): 1 programs of tiny." in page


def test_what_is_there_is_not_measured_again(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    record = {"cases": [case | {"temporaries": 1} for case in scaling.cases()[1:]]}
    assert scaling.missing(record) == scaling.cases()[:1]


def test_every_case_is_asked_for_once(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    plain = scaling.cases()
    assert len({json.dumps(case) for case in plain}) == len(plain) == 2 * len(scaling.MESHES) * 3
    monkeypatch.setenv("TPU_LIBRARY_PATH", "x")
    with_tpu = scaling.cases()
    assert with_tpu[: len(plain)] == plain and {case["kind"] for case in with_tpu[len(plain) :]} == {"v5p", "v5e"}
    assert all(case["data"] * case["model"] in scaling.SLICES[case["kind"]] for case in with_tpu[len(plain) :])
    assert jax.device_count() == 4, "nothing of this asks for more devices than a test has"
