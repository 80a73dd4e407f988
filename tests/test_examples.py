"""The examples in docstrings say what the functions return."""

import doctest

import pytest

from latent_audit import text
from latent_audit.data import prompt_files
from latent_audit.metrics import calibration, lvs, onset, stats, verdict_words
from latent_audit.models import config
from latent_audit.runtime import shards

MODULES = (prompt_files, text, calibration, lvs, onset, stats, verdict_words, config, shards)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.removeprefix("latent_audit."))
def test_examples_hold(module):
    found = doctest.testmod(module)
    assert found.attempted > 0 and not found.failed


def test_at_least_five_examples_run():
    finder = doctest.DocTestFinder()
    assert sum(bool(one.examples) for module in MODULES for one in finder.find(module)) >= 5
