"""What every task ends with: files that run nothing and forge nothing, and the box of the run."""

import json
import re
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import latent_audit
from latent_audit.reports import figures, html, outputs
from tests.reports.test_html import metrics_table, only_our_script

HOSTILE = "=cmd|' /C calc'!A0\x1b[31mRED\nerror: all fine\u202e\u2028\u200b<script>"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


class Page(HTMLParser):
    """Links, headers of tables, texts of classes of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.heads, self.inside, self.texts = [], [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given["href"]] if tag == "a" else []
        self.heads += [""] if tag == "th" and given.get("scope") == "col" else []
        if tag not in ("meta", "br", "path", "use"):
            self.inside.append((tag, given.get("class", "")))

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if any(tag == "th" for tag, _ in self.inside) and self.heads:
            self.heads[-1] += data
        for _, name in self.inside:
            self.texts[name] = self.texts.get(name, "") + data


def write(workdir, *, name="model", warnings=(), table=None, caveat=""):
    workdir.mkdir(exist_ok=True)
    table = pd.DataFrame({"arch": [name], "nll_first": [0.5], "fell": [1.0]}) if table is None else table
    record = {"inputs": {"variants": {"base": {"fingerprint": "f00d", "n": 3}}}, "name": name}
    page = dict(
        title=f"Audit of {name}",
        headline=f"{name} is hollow",
        verdicts=[html.Verdict(name, "hollow", name, name, name, [(name, name, name, name)], caveat)],
        facts={name: name},
        sections=[html.Section(name, name, table=table, settings={name: name}, limits=name, caveat=caveat)],
        warnings=warnings,
    )
    outputs.write_run(workdir, task="hand", tables={"hand.csv": table}, record=record, page=page)
    return {name: (workdir / name).read_text(encoding="utf-8") for name in ("hand.csv", "report.json", "report.html")}


def test_no_file_holds_a_control_character_of_others(tmp_path):
    table = pd.DataFrame({"arch": [HOSTILE], HOSTILE: [HOSTILE], "n": [3], "mixed": [HOSTILE]})
    table["mixed"] = table["mixed"].astype("category")
    written = write(tmp_path / "run", name=HOSTILE, table=table, warnings=[HOSTILE], caveat=HOSTILE)
    for name, text in written.items():
        assert not UNSAFE.search(text), name
    only_our_script(written["report.html"])
    assert len(written["hand.csv"].splitlines()) == 2, "a line break of others makes no row"
    assert not re.search(r"^error:", written["report.html"], re.MULTILINE)
    assert json.loads(written["report.json"])["name"] == HOSTILE, "JSON keeps what was there, escaped"


@pytest.mark.parametrize("start", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_no_cell(tmp_path, start):
    outputs.write_table(tmp_path / "t.csv", pd.DataFrame({start: [start], "number": [-0.5], "text": ["-0.5"]}))
    read = pd.read_csv(tmp_path / "t.csv", dtype=str)
    assert read.columns[0].startswith("'") and read.iloc[0, 0].startswith("'")
    assert read.iloc[0, 1:].tolist() == ["-0.5", "-0.5"], "a number is no formula"


def test_numbers_and_plain_text_are_written_as_they_are(tmp_path):
    table = pd.DataFrame(
        {"a": [1, 2], "b": [0.1, np.nan], "c": ["x, y", None], "d": [True, False], "layer_idx": [-1, 3]}
    )
    table["e"] = pd.array([1, None], dtype="Int64")
    outputs.write_table(tmp_path / "t.csv", table)
    assert (tmp_path / "t.csv").read_text() == table.to_csv(index=False, lineterminator="\n")


def test_the_box_says_when_how_and_on_what_and_links_the_files(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"seed": 7}))
    (run / "training 1.csv").write_text("a\n")
    written = write(run)
    page = Page(written["report.html"])
    box = page.texts["run"]
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", box) and f"latent_audit {latent_audit.__version__}" in box
    for word in ("How to reproduce", "command", "hardware", "CPUs", "minutes", "fingerprint", "f00d"):
        assert word in box, word
    assert re.search(r"seed\s*7", box)
    linked = [urllib.parse.unquote(link) for link in page.links if not link.startswith("#")]
    assert linked == ["hand.csv", "training 1.csv", "config.json", "report.json"]
    assert all((run / name).is_file() for name in linked)
    told = json.loads(written["report.json"])["about"]
    assert told["seed"] == 7 and set(told) == {"date", "version", "command", "seed", "hardware", "minutes"}
    # Before the evidence, and hashes folded away.
    text = written["report.html"]
    assert text.index('class="run"') < text.index('class="verdicts"') and "<details><summary>hashes" in text


def test_a_task_of_tasks_has_the_seed_of_its_base(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"base": {"seed": 5}}))
    assert outputs._seed(tmp_path) == 5 and outputs._seed(tmp_path / "nowhere") is None


def test_two_runs_differ_in_the_box_alone(tmp_path, monkeypatch):
    first = write(tmp_path / "a")
    monkeypatch.setattr(outputs.about, "describe", lambda **k: {"date": "later", "version": "other", "seed": 1}
        | {"command": "other", "minutes": 9, "hardware": dict.fromkeys(
            ("device", "devices", "host_cpus", "host_memory_gb", "peak_memory_gb"), 1)})  # fmt: skip
    second = write(tmp_path / "b")
    assert first["hand.csv"] == second["hand.csv"] and first["report.html"] != second["report.html"]
    without = [re.sub(r"<aside.*?</aside>", "", one["report.html"], flags=re.DOTALL) for one in (first, second)]
    assert without[0] == without[1]
    records = [json.loads(one["report.json"]) for one in (first, second)]
    assert records[0].pop("about") != records[1].pop("about") and records[0] == records[1]


def test_each_warning_stands_once_and_is_referred_to(tmp_path):
    said = "Fallback scoring: phrases. Phrases, not harm, are seen."
    text = write(tmp_path / "run", warnings=[said, "Few prompts.", said], caveat=said)["report.html"]
    assert text.count(said) == 1 and text.count("Few prompts.") == 1
    assert text.count("see warning 1") == 2 and 'id="warnings"' in text
    alone = write(tmp_path / "alone", caveat=said)["report.html"]
    assert alone.count(f'class="caveat">{said}<') == 2, "where it is no warning it stands in full"


def test_no_header_is_a_raw_column_name(tmp_path):
    table = metrics_table().assign(nll_first=1.0, nll_last=0.5, at_bound=0.1)
    page = Page(write(tmp_path / "run", table=table)["report.html"])
    assert len(page.heads) > 8 and not [head for head in page.heads if re.search(r"\w_\w", head)]
    assert "nll_first" in page.texts["legend"] and "lvs_lo" in page.texts["legend"]


def test_hashes_are_found_wherever_they_stand():
    inputs = {"llama": {"prompts": {"S": {"n": 3, "sha256": "aa"}}}, "template_sha256": "bb", "judge": {"name": "x"}}
    assert outputs.hashes_of(inputs) == {"llama, prompts, S, sha256": "aa", "template_sha256": "bb"}
    assert outputs.hashes_of(None) == {}


def test_every_report_names_quantised_weights_and_adapters(tmp_path):
    # Of checkpoints, of the families of a RAS run, and of a frozen calibration's targets.
    of_one = {"fingerprint": "f00d", "quantization": "Q4_K_M", "adapter": "beef"}
    variants = {"base": of_one, "other": {"fingerprint": "f00d"}, "third": {"adapter": "beef"}}
    named = {"stored weights": "base Q4_K_M, with an adapter; third with an adapter"}
    for inputs in ({"variants": variants}, {"llama": {"variants": variants}}, {"targets": variants}):
        assert outputs.stored_weights(inputs) == named
    assert outputs.stored_weights({"variants": {"other": variants["other"]}, "arch": "a"}) == {}
    assert outputs.stored_weights(None) == {}
    page = dict(title="t", headline="h", verdicts=[], facts={"model": "m"}, sections=[])
    table, record = pd.DataFrame({"n": [1]}), {"inputs": {"variants": variants}}
    outputs.write_run(tmp_path, task="hand", tables={"hand.csv": table}, record=record, page=page)
    assert "base Q4_K_M, with an adapter; third with an adapter" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["inputs"]["variants"]["base"] == of_one


def test_a_figure_shows_no_control_character(tmp_path):
    evil = "\x1b[31m=cmd\u202e--><script>alert(1)</script>"
    svg = figures.save_figure(figures.lvs_by_depth(metrics_table(2, (0.01,), ("base", evil))), tmp_path, "lvs")
    for text in (svg, (tmp_path / "lvs.svg").read_text(encoding="utf-8")):
        assert not UNSAFE.search(text) and "<script" not in text
