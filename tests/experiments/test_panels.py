"""Panels of prompts: which part of a file or split they are, and which of them belong together."""

import numpy as np
import pytest

from configs import audit
from latent_audit.data import world_rules
from latent_audit.errors import InputError
from latent_audit.experiments import panels

HARMFUL = "Behavior,SemanticCategory\n" + "".join(f"Request {n},{'ab'[n % 2]}\n" for n in range(12))


@pytest.fixture
def config(tmp_path):
    (tmp_path / "harmful.csv").write_text(HARMFUL)
    config = audit.get_config()
    config.prompts.harmful = str(tmp_path / "harmful.csv")
    config.prompts.harmful_count, config.prompts.benign_count = 4, 3
    return config


def numbers(panel):
    return [int(prompt.split("Request ")[1].split()[0].strip(".\"'")) for prompt in panel.prompts]


def test_a_panel_is_the_part_behind_its_offset(config):
    config.prompts.harmful_offset, config.prompts.benign_offset = 6, 1
    made = panels.request_panels(config, None)
    assert numbers(made["harmful"]) == [6, 7, 8, 9]
    config.prompts.benign_offset = 0
    assert made["benign"].prompts[:2] == panels.request_panels(config, None)["benign"].prompts[1:]
    # The same prompts have the same noise wherever they stand.
    config.prompts.harmful_offset = 8
    assert panels.request_panels(config, None)["harmful"].ids[0] == made["harmful"].ids[2]


@pytest.mark.parametrize("field, value", [("prompts.harmful_offset", 12), ("panel.wrapped_offset", 99)])
def test_an_offset_beyond_the_file_is_refused(config, field, value):
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(InputError, match=f"{field} = {value}, but .*harmful.csv holds 12 prompts; .*from 0 to 11"):
        panels.audit_panels(config, None)


def test_wrapped_requests_stand_at_their_own_offset(config):
    config.panel.wrapped_count = 2
    made = panels.audit_panels(config, None)
    wrapped = [panel for name, panel in made.items() if name.startswith(panels.WRAPPED)]
    assert wrapped and all(set(panel.clusters.tolist()) == {0, 1} for panel in wrapped)
    for offset, first in ((None, 4), (9, 9)):
        config.panel.wrapped_offset = offset
        panel = panels.audit_panels(config, None)[wrapped[0].name]
        assert f"Request {first}" in panel.prompts[0] and f"Request {first + 1}" in panel.prompts[1]


def test_the_worlds_offset_ends_where_the_split_ends():
    world, config = world_rules.make_world(0), audit.get_config()
    config.prompts.harmful_offset, config.prompts.harmful_count = 3, 5
    made = panels.request_panels(config, world)["harmful"]
    assert list(made.prompts) == world_rules.requests(world, "evaluation", "restricted", 8)[3:]
    config.prompts.harmful_offset = 10**5
    with pytest.raises(InputError, match=r"prompts.harmful_count \+ prompts.harmful_offset: 100005 restricted"):
        panels.request_panels(config, world)


def test_a_files_clusters_are_its_categories(config):
    made = panels.request_panels(config, None)
    assert made["harmful"].clusters.tolist() == [0, 1, 0, 1]
    # The built-in harmless ones have no categories: each is its own.
    assert made["benign"].clusters.tolist() == [0, 1, 2]
    cut = panels.part(made["harmful"], 2, 1)
    assert cut.clusters.tolist() == [1, 0] and cut.prompts == made["harmful"].prompts[1:3]
    assert np.array_equal(cut.ids, made["harmful"].ids[1:3])


def test_the_organisms_clusters_are_its_nouns():
    world = world_rules.make_world(0)
    panel = panels.world_panel("harmful", world, "evaluation", "harmful", 60)
    nouns = [world_rules.find_request(prompt).noun for prompt in panel.prompts]
    same = panel.clusters[:, None] == panel.clusters
    assert np.array_equal(same, np.array(nouns)[:, None] == np.array(nouns))
    assert 1 < len(set(nouns)) < 60
