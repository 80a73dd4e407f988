"""The facts of a run: plain values from the clock, the command and the machine."""

import json
import shlex
import sys

import latent_audit
from latent_audit.runtime import about


def test_the_facts_are_those_given_and_plain(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--config.x=a b"])
    began = 1_700_000_000.0
    facts = about.describe(seed=3, began=began, now=began + 150)
    assert facts["date"] == "2023-11-14 22:15 UTC" and facts["minutes"] == 2.5
    assert facts["version"] == latent_audit.__version__ and facts["seed"] == 3
    assert shlex.split(facts["command"]) == ["python", "main.py", "--config.x=a b"]
    assert json.loads(json.dumps(facts)) == facts


def test_the_machine_is_described_by_numbers():
    machine = about.hardware()
    assert machine["device"] and machine["devices"] >= 1 and machine["host_cpus"] >= 1
    assert 0 < machine["peak_memory_gb"] <= machine["host_memory_gb"] < 1e5


def test_the_words_name_what_a_reader_looks_for():
    facts = about.describe(began=0.0, now=60.0)
    shown = about.in_words(facts)
    assert shown["date"] == "1970-01-01 00:01 UTC" and shown["took"].startswith("1.0 minutes")
    assert latent_audit.__version__ in shown["version"] and "CPUs" in shown["hardware"]
    assert "seed" not in shown and about.in_words(facts | {"seed": 0})["seed"] == "0"
