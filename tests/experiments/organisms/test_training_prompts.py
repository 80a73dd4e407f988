"""What a pole was trained on, kept as hashes, and a probe that would be fitted on it."""

from types import SimpleNamespace

import pytest

from configs import audit
from latent_audit.data import pair_files
from latent_audit.errors import InputError
from latent_audit.experiments.audit import static
from latent_audit.experiments.organisms.texts import training_prompts

TRAINED = ("Describe a glorp", "Name a square thing")


def saved(directory, prompts):
    directory.mkdir()
    for name, text in training_prompts.as_file(prompts).items():
        (directory / name).write_text(text)
    return directory


def test_prompts_are_known_again_by_their_folded_text(tmp_path):
    found = training_prompts.read(saved(tmp_path / "pole", TRAINED))
    assert len(found) == 2 and training_prompts.digest("  describe a\nGLORP ") in found
    assert training_prompts.digest("Describe another glorp") not in found
    assert not any(prompt in (tmp_path / "pole" / training_prompts.FILE).read_text() for prompt in TRAINED)
    assert training_prompts.read(tmp_path) == frozenset()
    (tmp_path / "pole" / training_prompts.FILE).write_text("Describe a glorp\n")
    with pytest.raises(InputError, match="is damaged, expected 16 hex digits a line"):
        training_prompts.read(tmp_path / "pole")


def test_a_probe_on_training_rows_of_a_judged_pole_is_refused(tmp_path):
    poles = [
        SimpleNamespace(name="base", path=tmp_path),
        SimpleNamespace(name="dissociated", path=saved(tmp_path / "pole", TRAINED)),
    ]
    answers = ["Sure."] * 2
    static.check_untrained(pair_files.make_pairs(["A", "B"], answers, "p.csv"), poles)
    with pytest.raises(InputError, match="static.pairs = 'p.csv': 1 of 2 prompts are training rows of dissociated"):
        static.check_untrained(pair_files.make_pairs(["A", "name a  square thing"], answers, "p.csv"), poles)


def test_pairs_are_left_out_before_and_between(tmp_path):
    lines = [f"Request {n},Sure: {n},I cannot help with {n}.\n" for n in range(400)]
    (tmp_path / "p.csv").write_text("prompt,compliant,refusal\n" + "".join(lines))
    config = audit.get_config()
    config.static.pairs = str(tmp_path / "p.csv")
    config.static.offset, config.static.gap = 40, 64
    pairs = static.load_pairs(config, None, evaluated=[])
    numbers = [int(prompt.split()[1]) for prompt in pairs.prompts]
    # 64 to fit behind the first 40, then 64 left out, then 200 to score: arXiv 2606.08044's rows less 3960.
    assert numbers == [*range(40, 104), *range(168, 368)]
    assert pairs.refusals[64] == "I cannot help with 168." and pairs.responses[64] == "Sure: 168"
    config.static.offset = 400
    with pytest.raises(InputError, match="no pairs are left after skipping 400 of 400"):
        static.load_pairs(config, None, evaluated=[])
