"""The table of fields: it covers every config, its bounds hold, and what is shown of it is generated from it."""

import importlib
import math

import numpy as np
import pytest

from latent_audit.errors import InputError
from latent_audit.experiments import fields, tasks
from latent_audit.experiments.organisms import train
from latent_audit.experiments.tampering.dissociate import PRESETS as CONSTRUCTIONS
from latent_audit.experiments.tampering.finetune_settings import PRESETS
from latent_audit.field_table import FIELDS, HOLDS, VALUES
from latent_audit.interventions import latent
from latent_audit.metrics import lvs
from tests.support.house import ROOT

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py") if path.stem != "common")


def config(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_covered_and_passes(name):
    made = config(name)
    fields.check(made)
    known, there = dict(fields.rows(made)), dict(fields.leaves(made))
    assert there.keys() <= known.keys()
    assert {name for name in known.keys() - there.keys() if name.rpartition(".")[2] != "name"} == set()


def test_every_task_has_its_fields():
    assert FIELDS.keys() == tasks.TASKS.keys() and HOLDS.keys() <= FIELDS.keys()


def wrong_values(field):
    """Values that no field of this row may take."""
    if field.kind == "switch":
        return ["yes", 1, "\ud800"]
    if field.kind == "text":
        too_long = "a" * (int(field.most) + 1)
        return [7, "a\x1b[31m", "a\nb", "a\0", "a\ud800", too_long, "no such choice" if field.choices else None]
    if field.kind == "texts":
        return [["a", 1], "a", None, [str(number) for number in range(VALUES + 1)]]
    beyond = [
        field.least if field.above else field.least - 1,
        field.most * 2 + 1,
        math.nan,
        math.inf,
        10**400,
        "3",
        True,
    ]
    if field.kind in ("whole", "number"):
        # 0 in float32, in which a length is computed.
        small = [field.least + 1e-320] if field.above else []
        return [*beyond, *small, [1], *([] if field.optional else [None]), *([0.5] if field.kind == "whole" else [])]
    if field.kind == "wholes":
        return [[value] for value in beyond] + [3, None, "1", [1, 1], [1.5]]
    if field.kind == "numbers":
        many = np.linspace(field.least, field.most, VALUES + 3)[1:-1].tolist()
        return [[value] for value in beyond] + [3, None, "1", [1.0, 1.0], many]
    raise AssertionError(field.kind)


def test_every_row_refuses_what_is_beyond_it_and_names_field_and_value():
    rows = {name: field for own in FIELDS.values() for name, field in own.items()}
    assert len(rows) > 150
    for name, field in rows.items():
        for value in wrong_values(field):
            if value is None and field.optional:
                continue
            with pytest.raises(InputError) as caught:
                fields.check_value(name, value, field)
            message = str(caught.value)
            assert name in message and "\n" not in message and "\x1b" not in message, (name, value)


def test_bounds_themselves_are_allowed():
    for own in FIELDS.values():
        for name, field in own.items():
            if field.kind in ("whole", "number"):
                for value in ([] if field.above else [field.least]) + [field.most]:
                    fields.check_value(name, int(value) if field.kind == "whole" else value, field)


def test_unknown_and_missing_fields_are_named():
    made = config("lvs")
    made.attack.stepz = 3
    with pytest.raises(InputError, match="attack.stepz is no field of task lvs: did you mean attack.steps"):
        fields.check(made)
    made = config("lvs")
    del made.attack["steps"]
    with pytest.raises(InputError, match="the config lacks attack.steps, which task lvs reads"):
        fields.check(made)


def test_held_configs_are_checked_as_their_own_tasks():
    made = config("sweep")
    made.base.attack.steps = 0
    with pytest.raises(InputError, match="base.attack.steps = 0, expected a whole number from 1"):
        fields.check(made)
    made = config("claims")
    del made["lvs"]
    with pytest.raises(InputError, match="lvs is no config of a task"):
        fields.check(made)


def test_choices_are_those_of_the_code():
    def choices(task, name):
        return set(FIELDS[task][name].choices)

    assert choices("lvs", "organism.family") == set(train.FAMILIES)
    assert choices("lvs", "organism.size") == set(train.SIZES)
    assert choices("lvs", "attack.budget_mode") == set(latent.BUDGET_MODES)
    assert choices("lvs", "score.preset") == set(lvs.PRESETS)
    assert choices("finetune", "finetune.preset") == {"auto", *PRESETS}
    assert choices("dissociate", "construct.preset") == {"auto", *CONSTRUCTIONS}


def test_the_page_of_fields_is_the_table():
    made = {name: config(name) for name in tasks.TASKS}
    assert (ROOT / "docs" / "fields.md").read_text(encoding="utf-8") == fields.markdown(made), (
        "docs/fields.md is stale: run `python -m latent_audit fields > docs/fields.md`"
    )


def test_lines_show_name_default_and_what_a_field_takes():
    shown = fields.lines(config("lvs"), "attack.*")
    assert len(shown) == sum(name.startswith("attack.") for name, _ in fields.rows(config("lvs")))
    assert any(line.startswith("attack.steps ") and "10: a whole number from 1" in line for line in shown)
