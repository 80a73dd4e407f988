"""Whether judge and model lie on a device together is told from sizes alone."""

import jax
import pytest

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.experiments.judging import memory
from tests.support import tiny


def test_the_weights_are_counted():
    for case in ("llama3", "gemma2", "mixtral", "qwen3_5"):
        cfg, params = models.load(tiny.checkpoint(case))
        assert memory.weight_bytes(cfg, "float32") == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        assert memory.weight_bytes(cfg, "bfloat16") * 2 == memory.weight_bytes(cfg, "float32")
        assert memory.asking_bytes(cfg, "bfloat16", 8) * 4 == memory.asking_bytes(cfg, "float32", 16)


@pytest.mark.parametrize(
    "judge, model, limit, parts, together",
    [(26, 7, 60, 1, True), (26, 7, 33, 1, True), (26, 7, 32, 1, False), (26, 7, 17, 2, True), (26, 7, 16, 2, False)]
    + [(26, 7, None, 1, True)],
)
def test_both_fit_or_it_is_said_with_what_to_do(judge, model, limit, parts, together):
    said = memory.words_of_two(judge * 10**9, model * 10**9, limit and limit * 10**9, parts=parts)
    assert (said == "") == together
    if said:
        assert f"({model}.0 GB)" in said and f"({judge}.0 GB)" in said and "judge.live_kind = 'refusal'" in said
        assert said.isprintable() and (f"over {parts} devices" in said) == (parts > 1)


def test_a_judge_without_room_is_refused_before_its_weights_are_read(monkeypatch):
    cfg = models.check(tiny.checkpoint("llama3")).cfg
    needed = memory.weight_bytes(cfg, "float32") + memory.asking_bytes(cfg, "float32", memory.ONE_ROW)
    memory.check_room(cfg, "float32")  # a CPU does not say
    monkeypatch.setattr(memory, "device_bytes", lambda: (needed + 100, 100))
    memory.check_room(cfg, "float32")
    monkeypatch.setattr(memory, "device_bytes", lambda: (needed + 100, 101))
    with pytest.raises(InputError, match="GB are free beside the model: judge.live_kind = 'refusal'") as caught:
        memory.check_room(cfg, "float32")
    assert str(caught.value).isprintable()
    memory.check_room(cfg, "float32", parts=2)
