"""Pages that are kept: measurements are what their template makes of the numbers, the example is small and whole."""

import json
import pathlib
import re
import urllib.parse

from benchmarks import report
from tests.reports.test_html import only_our_script

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def record():
    rest = json.loads((DOCS / "benchmark_rest.json").read_text(encoding="utf-8"))
    return rest | {"lines": json.loads((DOCS / "benchmark.json").read_text(encoding="utf-8"))}


def test_the_performance_page_is_made_of_the_stored_numbers():
    assert report.render(record()) == (DOCS / "performance.md").read_text(encoding="utf-8")


def test_an_aim_is_reached_by_the_numbers_alone():
    lines = [
        {"name": "search, toy", "rival": "A: the paper's loop", "ratio": 8.0, "over_floor": 1.6},
        {"name": "search, toy", "rival": "B: tuned torch", "ratio": 1.79, "over_floor": 1.6},
        {"name": "search, toy, mixed prompt lengths", "rival": "B: tuned torch", "ratio": 3.1, "over_floor": 2.0},
        {"name": "search and 16 tokens", "rival": "A: the paper's loop", "ratio": 4.9},
        {"name": "generation under perturbation", "rival": "transformers.generate", "ratio": 3.0},
    ]
    found = report.aims({"lines": lines, "loading": {"peak_gigabytes": 2.0, "allowed_gigabytes": 1.9}})
    assert [line["reached"] for line in found] == [True, True, False, True, False, True, False]
    assert found[0]["found"] == "1.6 (toy), 2 (toy, mixed prompt lengths)"


def test_the_example_report_is_small_whole_and_of_this_writer():
    place = DOCS / "example_report"
    text = (place / "report.html").read_text(encoding="utf-8")
    assert len(text) < 400_000 and not re.search(r"https?://|/tmp/|/home/|/root/", text)
    only_our_script(text)
    links = re.findall(r'href="([^"#][^"]*)"', text)
    assert links and all((place / urllib.parse.unquote(link)).is_file() for link in links)
    # As reports/page/report.html.j2 writes it now: style and words, the box of the run, readable heads.
    style = (DOCS.parent / "latent_audit" / "reports" / "page" / "style.css").read_text(encoding="utf-8")
    assert style in text and text.count('<svg class="heat"') == 3
    assert '<aside class="run"' in text and "python main.py --config=configs/lvs.py" in text
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)', text)
    assert len(heads) > 20 and not [head for head in heads if re.search(r"\w_\w", head)]


def test_the_readme_is_short_and_its_excerpt_too():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 160
    (excerpt,) = re.findall(r"```text\n(.*?)```", readme, re.DOTALL)
    assert len(excerpt.splitlines()) <= 8
