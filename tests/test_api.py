"""The functions of `import latent_audit`: a light import, the command's own way, cards, script and notebook."""

import json
import pathlib
import subprocess
import sys
import types

import pandas as pd
import pytest

import latent_audit
from examples import python_api
from latent_audit import api
from latent_audit.commandline import command
from latent_audit.experiments import respond
from latent_audit.runtime import about, typed
from tests.support.checkpoints import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "python_api.ipynb"
# Enough for a table and a verdict of two prompts.
SMALLEST = {
    "judge.kind": "refusal",
    "reward.kind": "refusal",
    "attack.budgets": [0.1],
    "attack.layers": "L0",
    "attack.steps": 1,
    "generation.max_new_tokens": 2,
    "prompt_batch": 2,
    "score.resamples": 20,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint("llama3", tmp_path_factory.mktemp("api") / "model", ends_turns=True)


def cells() -> dict[str, str]:
    """Tag or number of each code cell -> its text."""
    written = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in written if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code)
    return {
        next(iter(cell["metadata"].get("tags", [])), str(number)): "".join(cell["source"])
        for number, cell in enumerate(code)
    }


def test_the_import_is_light():
    heavy = "sorted({name.partition('.')[0] for name in sys.modules} & {'jax', 'numpy', 'pandas', 'transformers'})"
    words = [sys.executable, "-c", f"import sys, latent_audit; print({heavy}); print(latent_audit.__all__)"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.splitlines() == ["[]", str(latent_audit.__all__)] and "__version__" in latent_audit.__all__


def test_a_call_becomes_the_words_of_a_command(monkeypatch, tmp_path):
    said = []

    def run(words, state):
        said.append((words, typed.command()))
        state.workdir = tmp_path

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(api, "read", lambda place: place)
    before = list(sys.argv)
    config = {"attack.budgets": [0.1, 0.2], "model.dtype": "float32", "attack.controls": False, "place.layer": None}
    assert latent_audit.audit(tmp_path / "-m", config=config, workdir="w", quick=True, limit=8) == tmp_path
    latent_audit.ras("a:0.1,b")
    latent_audit.compare("x", tmp_path / "y")
    fields = [
        "--config.attack.budgets=(0.1, 0.2)",
        "--config.model.dtype=float32",
        "--config.attack.controls=False",
        "--config.place.layer=None",
    ]
    first = ["audit", *fields, "--workdir=w", "--quick", "--limit=8", "--", str(tmp_path / "-m")]
    assert [words for words, _ in said] == [first, ["ras", "--", "a:0.1,b"], ["compare", "--", "x", f"{tmp_path}/y"]]
    assert said[1][1] == "latent-audit ras -- a:0.1,b" and sys.argv == before


def test_what_ends_a_command_is_raised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call, said in (
        (lambda: latent_audit.lvs("", config={"attack.stepz": 3}), "did you mean config.attack.steps"),
        (lambda: latent_audit.lvs("", config={"attack": {"steps": 3}}), "'attack' is a section"),
        (lambda: latent_audit.lvs("", limit=0), "--limit=0"),
        (lambda: latent_audit.lvs("", config={"chat.system": None}), "config.chat.system = 'None', expected text"),
        (lambda: latent_audit.compare("a"), "RUN RUN"),
        (lambda: latent_audit.read(tmp_path), "holds no finished run"),
    ):
        with pytest.raises(latent_audit.InputError) as caught:
            call()
        assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_script_and_its_cards(model, tmp_path, capsys, monkeypatch):
    both = python_api.look_twice(str(model), str(tmp_path), config=SMALLEST, limit=2)
    first = latent_audit.read(tmp_path / "seed0")
    assert first.task == "lvs" and first.verdict == first.verdicts["base"] == "inconclusive"
    assert first.table.equals(pd.read_csv(tmp_path / "seed0" / "metrics.csv"))
    assert first.report.is_file() and str(tmp_path) in repr(first) and "model" in first.sentence
    record = json.loads((tmp_path / "seed0" / "report.json").read_text())["about"]
    assert record["command"].startswith("latent-audit lvs --config.judge.kind=refusal") and record["minutes"] < 9
    assert both.verdict.startswith("2 runs of lvs, against seed0: ") and set(both.table["run"]) == {"seed0", "seed1"}
    printed = capsys.readouterr().out
    assert "base: inconclusive" in printed and f"page: {both.report}" in printed
    # Greedy answers under one search do not depend on the seed, which alone differs.
    asked = both.table[(both.table["measure"] == "clean_compliance") & both.table["difference"].notna()]
    assert (asked["difference"] == 0).all() and asked["paired"].all() and len(asked)
    monkeypatch.setattr(respond, "responses", lambda *a, **k: pytest.fail("computed again"))
    call = {"limit": 2, "workdir": tmp_path / "seed0"}
    assert latent_audit.lvs(model, config=SMALLEST | {"seed": 0}, **call).table.equals(first.table)
    with pytest.raises(latent_audit.InputError, match="seed: 0 there, 7 now"):
        latent_audit.lvs(model, config=SMALLEST | {"seed": 7}, **call)


def test_the_notebook_shows_its_pages(model, tmp_path, monkeypatch):
    shown = []
    front = types.ModuleType("IPython")
    front.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    front.display = types.ModuleType("IPython.display")
    front.display.HTML, front.display.display = (lambda text: text), shown.append
    monkeypatch.setitem(sys.modules, "IPython", front)
    monkeypatch.setitem(sys.modules, "IPython.display", front.display)
    names: dict = {}
    for tag, text in cells().items():
        exec(text, names)
        if tag == "parameters":
            names |= {"MODEL": str(model), "CONFIG": SMALLEST, "LIMIT": 2, "FOLDER": str(tmp_path)}
    assert len(shown) == 2 and all(page.startswith('<iframe srcdoc="&lt;!') for page in shown)
    assert "By date" in shown[1] and "<script" not in shown[0]


@pytest.mark.slow
def test_the_notebook_runs_on_the_organism(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for text in cells().values():
        exec(text, names)
    assert set(names["card"].verdicts) == {"base", "dissociated"}


def test_minutes_are_those_of_the_call():
    about.begin()
    assert about.describe()["minutes"] == 0.0
