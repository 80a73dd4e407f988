"""The abliteration task from config to files, on tiny random checkpoints with phrase scoring."""

import json

import numpy as np
import pandas as pd
import pytest

from configs import abliterate as abliterate_config
from latent_audit import models
from latent_audit.data import world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.experiments.setup import subjects
from latent_audit.experiments.tampering import abliterate as job
from latent_audit.experiments.tampering import abliterate_report
from latent_audit.interventions import abliterate
from tests.support import reports
from tests.support.checkpoints import WORDS, tiny_checkpoint

WEIGHTS = {"orthogonalize", "subtract_token", "affine_token"}


def prompt_file(path, seed, n=9):
    """Short prompts of the tiny tokenizer's own words, all different from those of another seed."""
    rng = np.random.default_rng(seed)
    lines = [" ".join([("you", "me")[seed % 2], *rng.choice(WORDS, 4)]) for _ in range(n)]
    path.write_text("\n".join(dict.fromkeys(lines)) + "\n")
    return str(path)


def small_config(path, tmp_path, **changes):
    config = abliterate_config.get_config()
    settings = {
        "model.path": str(path),
        "judge.kind": "refusal",
        "generation.max_new_tokens": 3,
        "prompt_batch": 4,
        "prompts.harmful": prompt_file(tmp_path / "harmful.txt", 1),
        "prompts.benign": prompt_file(tmp_path / "benign.txt", 2),
        "prompts.harmful_count": 3,
        "prompts.benign_count": 3,
        "choose.train": 3,
        "choose.validation": 2,
        "choose.strengths": (1.0,),
        "choose.positions": 1,
        "choose.shortlist": 1,
        "choose.openings": ("how", "a", "the"),
    }
    config.update_from_flattened_dict(settings | changes)
    return config


@pytest.mark.parametrize(
    "case, by, ways",
    [
        ("llama3", "judge", ("orthogonalize", "affine_layerwise", "subtract_token")),
        ("qwen3", "log_odds", ("affine", "subtract", "subtract_token")),
        ("gemma2", "log_odds", ("orthogonalize", "affine_token")),
    ],
)
def test_families_go_through_the_config(case, by, ways, tmp_path):
    path = tiny_checkpoint(case, tmp_path / case)
    job.run(small_config(path, tmp_path, **{"choose.by": by, "choose.ways": ",".join(ways)}), tmp_path)
    table = pd.read_csv(tmp_path / "abliterate.csv")
    assert tuple(table.columns) == abliterate_report.COLUMNS
    final = table[table["split"] == "evaluation"]
    assert final["way"].tolist() == ["base", *ways] and (final["n"] == 3).all()
    tried = table[(table["split"] == "validation") & (table["way"] != "base")]
    assert tried["layer"].isin(["L0", "L1"]).all(), "the last fifth of three blocks is out"
    assert (tried.groupby("way")["chosen"].sum() == 1).all()
    assert tried["compliance"].notna().any() if by == "judge" else tried["compliance"].isna().all()
    for row in tried[tried["chosen"]].itertuples():
        mine = tried[tried["way"] == row.way]
        same = final[final["way"] == row.way].iloc[0]
        assert (same["layer"], same["strength"], same["directions"]) == (row.layer, row.strength, row.directions)
        if by == "log_odds" and (mine["kl"] <= abliterate.MAX_KL).any():
            assert row.bypass == mine[mine["kl"] <= abliterate.MAX_KL]["bypass"].max()
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["choices"]) == set(ways) and str(abliterate.MAX_KL) in report["rule"]
    page = (tmp_path / "report.html").read_text()
    assert "Fallback scoring" in page and "bypass" in page
    assert (tmp_path / "figures" / "bypass_by_layer.png").stat().st_size > 10_000
    for way in WEIGHTS & set(ways):
        card = (tmp_path / way / "README.md").read_text()
        assert "deliberately unsafe" in card and way in card and "compliance" in card
        cfg, params = models.load(tmp_path / way)
        assert not cfg.tied_head and params["blocks"]["down"].shape == models.load(path)[1]["blocks"]["down"].shape
    assert not [way for way in set(abliterate.WAYS) - (WEIGHTS & set(ways)) if (tmp_path / way).exists()]


def test_a_second_start_reads_the_units_back_and_writes_the_same_bytes(tmp_path, monkeypatch):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    config = small_config(path, tmp_path, **{"choose.ways": "orthogonalize,subtract"})
    job.run(config, tmp_path)
    first = (tmp_path / "abliterate.csv").read_bytes(), reports.result(tmp_path / "report.html")
    units = sorted(tmp_path.glob("units/**/*.json"))
    units[0].write_text(units[0].read_text()[:-30])
    measured = []
    whole = job._measure
    monkeypatch.setattr(job, "_measure", lambda *a, **k: measured.append(a) or whole(*a, **k))
    job.run(config, tmp_path)
    assert len(measured) == 1, "the damaged unit alone"
    assert first == ((tmp_path / "abliterate.csv").read_bytes(), reports.result(tmp_path / "report.html"))


def test_the_parts_of_a_file_and_of_the_world_are_disjoint(tmp_path):
    config = small_config("unused", tmp_path)
    panels = {name: panel.prompts for name, panel in job.make_panels(config, None).items()}
    lines = (tmp_path / "harmful.txt").read_text().split("\n")
    assert list(panels["evaluation-harmful"]) == lines[:3], "the first ones, as in the main job"
    config = abliterate_config.get_config()
    made = job.make_panels(config, world_rules.make_world(0))
    of_world = {name: panel.prompts for name, panel in made.items() if name != job.FACTS}
    for found in (panels, of_world):
        assert set(found) == {f"{part}-{kind}" for part in job.PARTS for kind in ("harmful", "benign")}
        everything = [prompt for prompts in found.values() for prompt in prompts]
        assert len(set(everything)) == len(everything)
    world = world_rules.make_world(0)
    evaluated = set(world_rules.requests(world, "evaluation", "restricted", 96))
    assert set(of_world["evaluation-harmful"]) == evaluated


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"choose.ways": "orthogonalise"}, "choose.ways = 'orthogonalise', expected some of all, orthogonalize"),
        ({"choose.strengths": ()}, "choose.strengths"),
        ({"choose.strengths": (1.0, -1.0)}, "choose.strengths"),
        ({"choose.positions": 0}, "choose.positions = 0"),
        ({"choose.shortlist": 0}, "choose.shortlist = 0"),
        ({"choose.validation": 0}, "choose.validation = 0"),
        ({"choose.by": "kl"}, "choose.by = 'kl'"),
        ({"model.variants": "harmful=DIR"}, "one model is abliterated at a time"),
        ({"prompts.harmful": "builtin:harmless", "prompts.benign": "builtin:harmless"}, "occur in the training"),
        ({"prompt_batch": 0}, "prompt_batch = 0"),
        ({"judge.kind": "oracle"}, "knows only the organism's world"),
    ],
)
def test_bad_input_is_named_before_any_compute(changes, message, tmp_path, monkeypatch):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    monkeypatch.setattr(subjects, "load_variant", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(InputError, match=message):
        tasks.check(small_config(path, tmp_path, **changes))


def test_too_few_prompts_and_a_refusal_that_does_not_show(tmp_path):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    few = prompt_file(tmp_path / "few.txt", 3, n=5)
    with pytest.raises(InputError, match="holds 5 prompts, expected at least 6"):
        job.run(small_config(path, tmp_path, **{"prompts.harmful": few}), tmp_path)
    said = np.log(np.full((4, 6), 1 / 6))
    loaded = subjects.load_variant(subjects.Variant("base", path), small_config(path, tmp_path))
    silent = small_config(path, tmp_path, **{"choose.openings": ()})
    assert job.find_openings(silent.choose, loaded, said, 2, required=False) == ()
    with pytest.raises(InputError, match="choose.openings, or set choose.by=judge"):
        job.find_openings(silent.choose, loaded, said, 2, required=True)
    named = job.find_openings(small_config(path, tmp_path).choose, loaded, said, 2, required=True)
    assert loaded.chat.tokenizer.convert_ids_to_tokens(list(named)) == sorted(["how", "a", "the"], key=WORDS.index)
