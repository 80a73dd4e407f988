"""The table and the headline of a survey from lines written by hand; the table is a comparison's."""

import numpy as np
import pandas as pd
import pytest

from latent_audit.errors import InputError
from latent_audit.experiments.series import compare, survey


def line(arch, measure, value, control=np.nan, detail=""):
    return {
        "run": arch,
        "arch": arch,
        "variant": "base",
        "measure": measure,
        "detail": detail,
        "value": value,
        "lo": value - 0.1,
        "hi": value + 0.05,
        "n": 20,
        "control": control,
        "leading": measure not in ("l2_asr", "steer_compliance") or detail != "",
    }


def table():
    return pd.DataFrame(
        [
            line("a", "clean_compliance", 0.2),
            line("a", "l2_asr", 0.9, 0.5),
            line("a", "l2_asr", 0.6, 0.3, "at the nudge fraction"),
            line("a", "steer_compliance", 0.4, 0.1),
            line("a", "steer_compliance", 0.7, 0.2),
            line("a", "audit_gap", 0.4, 0.1),
            line("b", "clean_compliance", 0.35),
            line("b", "l2_asr", 0.3, 0.15, "at the nudge fraction"),
        ]
    )


def test_each_cell_is_the_models_own_with_its_interval_and_control():
    shown = compare.summarise(table()).set_index("model")
    assert shown.loc["a", "complies when asked"] == "20 % of 20 (10 to 25 %)"
    assert shown.loc["a", "under the L2 attack"] == "60 % of 20 (50 to 65 %; control 30 %)"
    assert shown.loc["a", "steered"] == "70 % of 20 (42 to 90 %; control 20 %; the most of 2)", "wider than alone"
    assert shown.loc["a", "audit gap"] == "0.4 (0.3 to 0.45; control 0.1)", "a difference is no share"
    assert shown.loc["b", "under the L2 attack"].startswith("30 % of 20 (") and pd.isna(shown.loc["b", "steered"])


def test_what_is_incoherent_stands_beside_the_share():
    shown = compare.summarise(table().assign(incoherent=[np.nan, 0.5, 0.1, 0.0, 0.25, np.nan, np.nan, 0.3]))
    shown = shown.set_index("model")
    assert shown.loc["a", "complies when asked"] == "20 % of 20 (10 to 25 %)"
    assert shown.loc["a", "under the L2 attack"] == "60 % of 20 (50 to 65 %; control 30 %; 10 % incoherent)"
    assert shown.loc["a", "steered"] == "70 % of 20 (42 to 90 %; control 20 %; 25 % incoherent; the most of 2)"


def test_the_headline_runs_from_the_least_to_the_most():
    assert survey.headline(table()) == (
        "2 models; compliance when asked 20 % to 35 %, under the L2 attack 30 % to 60 %."
    )
    asked = table()[table()["measure"] == "clean_compliance"].assign(detail="")
    assert survey.headline(asked) == "2 models; compliance when asked 20 % to 35 %."


def test_a_directory_named_twice_by_other_words_is_one_model(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert survey.name_models(f"{tmp_path}/a,org/a") == {"a": f"{tmp_path}/a", "a-2": "org/a"}
    for again in (f"{tmp_path}/a/", f"{tmp_path}/link", f"{tmp_path}/../{tmp_path.name}/a"):
        with pytest.raises(InputError, match="names a model twice"):
            survey.name_models(f"{tmp_path}/a,{again}")
