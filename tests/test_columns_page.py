"""The data dictionary: its page, its reach over the tables of the code, and that it says no column it does not know."""

import dataclasses
import pathlib
import re

import pytest

from latent_audit import column_table
from latent_audit.experiments.audit.card import card
from latent_audit.experiments.audit.readings import latent_report
from latent_audit.experiments.ras import tables
from latent_audit.experiments.tampering import abliterate_report, dissociate, finetune_report, impostors
from latent_audit.interventions.dissociate import Weights
from latent_audit.reports import columns

ROOT = pathlib.Path(__file__).parents[1]
WRITTEN = {
    "metrics.csv": latent_report.COLUMNS,
    "audit.csv": card.COLUMNS,
    "curves.csv": finetune_report.COLUMNS,
    "dissociate.csv": dissociate.COLUMNS,
    "abliterate.csv": abliterate_report.COLUMNS,
    "ras.csv": tables.COLUMNS,
    "impostors.csv": impostors.COLUMNS,
}


def test_the_page_of_columns_is_the_table():
    assert (ROOT / "docs" / "columns.md").read_text(encoding="utf-8") == column_table.markdown(), (
        "docs/columns.md is stale: run `python -m latent_audit columns > docs/columns.md`"
    )


@pytest.mark.parametrize("file", WRITTEN)
def test_every_column_of_the_code_is_described_and_none_beside(file):
    assert column_table.undescribed(file, list(WRITTEN[file])) == []
    if file in ("metrics.csv", "audit.csv", "curves.csv", "abliterate.csv", "impostors.csv"):
        assert set(column_table.TABLES[file].names) <= set(WRITTEN[file]), "described, and never written"


def test_every_term_of_the_constructions_loss_is_described():
    terms = {field.name for field in dataclasses.fields(Weights)} - {"margin", "part"}
    assert terms <= set(column_table.TABLES["training.csv"].names)


def test_every_csv_that_a_task_writes_is_described():
    named = set()
    for path in (ROOT / "latent_audit").rglob("*.py"):
        # As keys of a task's tables and as write_table is given them.
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"(?:tables=\{|tables = \{|, |workdir / )\"(\w+\.csv)\"(?=:|, table|, written)", text))
    assert named >= {"metrics.csv", "audit.csv", "sweep.csv", "training.csv"} and named <= set(column_table.TABLES)


def test_a_column_is_described_by_its_stem_and_an_unknown_one_is_not():
    say = column_table.describe
    assert say("ras.csv", "l2_asr_n").kind == column_table.WHOLE
    assert say("metrics.csv", "lvs_mean_hi").what == "upper end of the 95 % interval of `lvs_mean`"
    assert say("compare.csv", "published_value_lo") == say("compare.csv", "run_value_lo")._replace(
        what=say("compare.csv", "published_value_lo").what
    )
    assert say("impostors.csv", "kind") != say("ras.csv", "kind"), "a word that means something else there says so"
    assert say("metrics.csv", "frac") is None and say("audit.csv", "asr") is None
    assert column_table.undescribed("audit.csv", ["value", "colour", "value_lo"]) == ["colour"]
    assert column_table.undescribed("sweep.csv", ["attack.steps"]) == []


def test_every_title_on_a_page_is_of_something_described():
    # Of tables that stand on a page alone.
    page = {"of_base", "auroc"}
    assert set(columns.TITLES) <= {*column_table.COLUMNS, *column_table.MEASURES, *page}


def test_a_writer_of_an_undescribed_column_fails_its_test(tmp_path):
    import pandas as pd  # noqa: PLC0415

    from latent_audit.reports import outputs  # noqa: PLC0415

    with pytest.raises(AssertionError, match="no line in column_table.py for .'colour'"):
        outputs.write_table(tmp_path / "audit.csv", pd.DataFrame({"value": [1.0], "colour": ["red"]}))
