"""The page of measurements is what its template makes of the numbers beside it."""

import json
import pathlib

from benchmarks import report

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def record():
    rest = json.loads((DOCS / "benchmark_rest.json").read_text(encoding="utf-8"))
    return rest | {"lines": json.loads((DOCS / "benchmark.json").read_text(encoding="utf-8"))}


def test_the_performance_page_is_made_of_the_stored_numbers():
    assert report.render(record()) == (DOCS / "performance.md").read_text(encoding="utf-8")


def test_an_aim_is_reached_by_the_numbers_alone():
    lines = [
        {"name": "search, toy", "rival": "A: the paper's loop", "ratio": 8.0, "over_floor": 1.35},
        {"name": "search, toy", "rival": "B: tuned torch", "ratio": 1.79, "over_floor": 1.35},
        {"name": "search, toy, mixed prompt lengths", "rival": "B: tuned torch", "ratio": 3.1, "over_floor": 2.0},
        {"name": "search and 16 tokens", "rival": "A: the paper's loop", "ratio": 4.9},
        {"name": "generation under perturbation", "rival": "transformers.generate", "ratio": 3.0},
    ]
    found = report.aims({"lines": lines, "loading": {"peak_gigabytes": 2.0, "allowed_gigabytes": 1.9}})
    assert [line["reached"] for line in found] == [True, True, False, True, False, True, False]
    assert found[0]["found"] == "1.35 (toy), 2 (toy, mixed prompt lengths)"
