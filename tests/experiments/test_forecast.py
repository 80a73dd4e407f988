"""What a run says that it will compute is what it does: every unit that comes belongs to a part, and none is left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latent_audit import models
from latent_audit.experiments import tasks
from latent_audit.experiments.forecast import amounts, outlook, rates
from latent_audit.experiments.forecast.amounts import Amount, Rates, Work
from latent_audit.models import decoder, sizes
from latent_audit.runtime.telling import progress
from latent_audit.runtime.telling.forecast import Forecast
from tests.experiments.audit import test_audit_job, test_latent_job
from tests.experiments.tampering import test_abliterate_job, test_dissociate_job, test_finetune_job
from tests.support.checkpoints import tiny_checkpoint

RATES = Rates(1e-9, 1e-9, 1e-9, 1e-9, 1e-9, 1.0)


@pytest.fixture
def followed(monkeypatch):
    """run(config, workdir) -> its Forecast at the end, and the labels that belonged to none of its parts."""
    made, strange = [], []

    class Followed(Forecast):
        def __init__(self, parts):
            super().__init__(parts)
            made.append(self)

        def done(self, label, count, seconds):
            if self.part_of(label) is None:
                strange.append(label)
            super().done(label, count, seconds)

    monkeypatch.setattr(progress, "Forecast", Followed)

    def run(config, workdir):
        tasks.run(config, workdir, tasks.check(config))
        return made, strange

    return run


def of_lvs(folder):
    return test_latent_job.small_config(tiny_checkpoint("llama3", folder / "model"))


def of_finetune(folder):
    return test_finetune_job.small_config(tiny_checkpoint("llama3", folder / "model"), folder)


@pytest.mark.parametrize(
    "make",
    [
        of_lvs,
        pytest.param(of_finetune, marks=pytest.mark.slow),
        pytest.param(lambda folder: test_audit_job.small_config("llama3", folder), marks=pytest.mark.slow),
        pytest.param(lambda folder: test_dissociate_job.small_config("llama3", folder), marks=pytest.mark.slow),
    ],
    ids=["lvs", "finetune", "audit", "dissociate"],
)
def test_units_that_come_are_those_that_were_said(make, followed, tmp_path):
    (found,), strange = followed(make(tmp_path), tmp_path)
    assert not strange and found.parts and set(found.left.values()) == {0} and not found.missed


def test_parts_stand_in_the_order_in_which_units_come(tmp_path):
    config = of_lvs(tmp_path)
    found = tasks.outlook(config, tmp_path, tasks.check(config))
    keys = [work.key.split("/")[1] for work in found.works if work.key.startswith("units ")]
    assert list(dict.fromkeys(keys)) == ["clean-harmful", "lvs", "clean-benign"]


@pytest.mark.slow
def test_an_abliteration_takes_at_most_what_was_said(followed, tmp_path):
    """How many candidates there are depends on the means."""
    config = test_abliterate_job.small_config(tiny_checkpoint("llama3", tmp_path / "model"), tmp_path)
    (found,), strange = followed(config, tmp_path)
    thought = {part.key: part.units for part in found.parts}
    assert not strange and set(found.left.values()) == {0}
    assert all(missed < thought[key] and key.startswith("models validation/") for key, missed in found.missed.items())


def test_parameters_are_those_of_the_tree(tmp_path):
    for case in ("llama3", "qwen3_moe"):
        cfg, params = models.load(tiny_checkpoint(case, tmp_path / case))
        assert sizes.parameters(cfg) == sum(leaf.size for leaf in jax.tree.leaves(params))
        matrices = sum(leaf.size for name, leaf in params["blocks"].items() if leaf.ndim > 2)
        if not cfg.num_experts:
            assert sizes.active_weights(cfg) * cfg.num_layers == matrices
        else:
            experts = sum(leaf.size for name, leaf in params["blocks"].items() if name.startswith("expert_"))
            picked = experts * cfg.experts_per_token / cfg.num_experts
            assert sizes.active_weights(cfg) * cfg.num_layers == pytest.approx(matrices - experts + picked)


def test_operations_are_those_that_xla_counts(tmp_path):
    cfg, params = models.load(tiny_checkpoint("llama3", tmp_path / "model"))
    B, T = 4, 24
    x, mask = jnp.zeros((B, T, cfg.embed_dim)), jnp.ones((B, T), bool)
    context = decoder.make_context(mask, cfg=cfg)
    layer, numbers = decoder.take_layer(params, cfg, 0)
    compiled = jax.jit(lambda x: decoder.block(layer, numbers, x, {}, context, cfg=cfg)[0]).lower(x).compile()
    counted = compiled.cost_analysis()["flops"]
    ours = B * T * sizes.block_operations(cfg, T)
    # XLA counts the elementwise operations too, a part that shrinks with width.
    assert ours < counted < 1.6 * ours


def test_amounts_add_up_and_cost_their_rates():
    asked, searched = Amount(passes=2.0, decoded=3.0), amounts.search(4, 10, 2, 3)
    assert amounts.total([asked, asked]) == amounts.times(asked, 2) and amounts.total([]) == Amount()
    assert searched == Amount(passes=4 * 10 * 2 * 4, backward=4 * 10 * 2 * 3)
    assert amounts.seconds(asked, Rates(1.0, 0, 0, 10.0, 0)) == 32.0


def test_works_of_one_key_are_one_part_within_their_shares():
    works = (Work("units a/lvs/L0/", 3, Amount(passes=1e9)), Work("units a/lvs/L0/", 3, Amount(decoded=1e9), 0.2, 0.5))
    cfg = models.ModelConfig("llama", 8, 1, 4, 1, 1, 4, 4, 1e-6, 0.5, rope_of_layer=(0,), windows=(8,))
    seen = outlook.Outlook(cfg, "float32", 1, 1, 4, 1, 1, works)
    (part,) = outlook._parts(seen, RATES)
    assert (part.kind, part.units) == ("lvs", 3)
    own = 3 * outlook.UNIT_SECONDS
    assert (part.least, part.likely, part.most) == pytest.approx((1.2 + own, 1.5 + own, 2.0 + own))


def test_rates_are_measured_at_the_shapes_of_a_model(monkeypatch, tmp_path):
    monkeypatch.setattr(rates, "SECONDS", 0.01)
    cfg = models.check(tiny_checkpoint("llama3", tmp_path / "model")).cfg
    found = rates.measure(cfg, "float32", rows=2, budgets=2, columns=8, answered=4, trains=True)
    assert all(np.isfinite(found)) and all(rate > 0 for rate in found)
    assert found.passes == found.backward <= found.weights


def test_a_mixture_is_measured_as_a_plain_block_of_its_active_weights(tmp_path):
    cfg = models.check(tiny_checkpoint("qwen3_moe", tmp_path / "model")).cfg
    plain = rates._blocks(cfg, "float32")
    assert not plain.num_experts and sizes.active_weights(plain) == pytest.approx(sizes.active_weights(cfg), rel=0.1)
