"""Layouts on a mesh, and that every computation gives the numbers of one device on any mesh."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from benchmarks.scaling import collectives
from benchmarks.scaling_report import elements
from configs import audit as audit_config
from configs import lvs as lvs_config
from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.experiments import fields, scorers
from latent_audit.interventions import edits, latent, lora
from latent_audit.interventions import finetune as ft
from latent_audit.models import sharding
from latent_audit.models.config import plain_name
from latent_audit.models.families import config_from_hf
from latent_audit.models.generate import generate
from latent_audit.runtime import mesh
from tests.support import tiny
from tests.support.checkpoints import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[2]
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
CONFIGS = {
    "llama": config_from_hf(
        SHAPE
        | {"model_type": "llama", "vocab_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
    ),
    # Caps, post-norms, windows, a tied head, and a vocabulary that cannot be cut into four.
    "gemma2": config_from_hf(
        SHAPE
        | {
            "model_type": "gemma2",
            "vocab_size": 94,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": 5,
            "query_pre_attn_scalar": 8,
            "tie_word_embeddings": True,
        }
    ),
}
B, T, BUDGETS, TARGET = 8, 10, (0.02, 0.2), (5, 17, 60)
# Name -> the dimension that is cut over "model", L counted; what is absent lies whole on every device.
CUT = {
    "embed": 0,
    "head": 1,
    "query": 2,
    "key": 2,
    "value": 2,
    "query_bias": 1,
    "key_bias": 1,
    "value_bias": 1,
    "output": 1,
    "gate": 2,
    "up": 2,
    "gate_bias": 1,
    "up_bias": 1,
    "down": 1,
    "delta_mixed": 1,
    "delta_gate": 2,
    "delta_beta": 2,
    "delta_decay": 2,
    "delta_output": 1,
    "sinks": 1,
    "shared_gate": 2,
    "shared_up": 2,
    "shared_down": 1,
    "expert_gate_bias": 2,
    "expert_up_bias": 2,
    "inputs_embed": 0,
    "inputs_projection": 2,
    "inputs_gate": 2,
    "inputs_output": 1,
    "expert_gate": 3,
    "expert_up": 3,
    "expert_down": 2,
}
forward = jax.jit(models.forward, static_argnames="cfg")


@pytest.mark.parametrize("case", tiny.CASES)
def test_every_parameter_of_every_family_has_a_layout(case):
    cfg = config_from_hf(tiny.config(case).to_dict())
    for name, shape in sharding.named_shapes(cfg).items():
        last = plain_name(name.split("/")[-1])
        spec = sharding.spec_of(name, shape, {"data": 2, "model": 2})
        cut = [place for place, axis in enumerate(spec) if axis]
        if shape[2:3] == (1,) and last in ("key", "value"):  # one key-value head
            assert cut == []
        else:
            assert cut == ([CUT[last]] if last in CUT else []) and {*spec} <= {"model", None}, name


def test_a_layout_gives_way_or_names_what_does_not_divide():
    sizes = {"data": 1, "model": 4}
    assert sharding.spec_of("embed", (96, 32), sizes) == PartitionSpec("model", None)
    assert sharding.spec_of("embed", (97, 32), sizes) == PartitionSpec(None, "model")
    assert sharding.spec_of("blocks/key", (3, 32, 2, 8), sizes) == PartitionSpec()
    assert sharding.spec_of("optimizer/1/0/mu/blocks/down", (3, 64, 32), sizes) == PartitionSpec(None, "model", None)
    for name, shape, message in (
        ("blocks/query", (3, 32, 6, 8), r"blocks/query \[3, 32, 6, 8\]: dimension 2 of 6 .* mesh\.model = 4"),
        ("embed", (97, 33), r"embed \[97, 33\]: dimension 1 of 33"),
        ("blocks/gate", (3, 32, 63), "dimension 2 of 63"),
        ("blocks/signpost", (3, 32, 8), r"no rule says how the parameter blocks/signpost \[3, 32, 8\]"),
        ("embedding", (96, 32), "no rule says"),
    ):
        with pytest.raises(InputError, match=message):
            sharding.spec_of(name, shape, sizes)


def test_adapters_are_cut_as_their_matrices_are():
    cfg = CONFIGS["llama"]
    config = lora.LoraConfig(rank=2, targets=(".*",))
    adapters = jax.eval_shape(lambda key: lora.init_adapters(key, cfg, config), jax.random.key(0))
    for name, pair in adapters.items():
        specs = {
            side: sharding.spec_of(f"weights/{name}/{side}", pair[side].shape, {"data": 1, "model": 4}) for side in "ab"
        }
        # Column-parallel matrices are cut on their way out, row-parallel ones on their way in.
        cut, whole = ("a", "b") if name in ("output", "down") else ("b", "a")
        assert "model" in specs[cut] and "model" not in specs[whole], name


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"data": 0}, "mesh.data = 0, expected a whole number of at least 1"),
        ({"model": -2}, "mesh.model = -2"),
        ({"model": True}, "mesh.model = True"),
        ({"model": 2.0}, "mesh.model = 2.0"),
        ({"data": 4, "model": 4}, "mesh.data = 4 times mesh.model = 4 needs 16 devices, there are 4"),
    ],
)
def test_a_mesh_that_cannot_be_is_named(sizes, message):
    with pytest.raises(InputError, match=message), mesh.use(sizes):
        pass


def test_a_model_that_does_not_fit_a_mesh_and_a_batch_that_does_not_are_named_before_any_weight_is_read():
    with mesh.use({"model": 3}), pytest.raises(InputError, match=r"blocks/query \[3, 32, 8, 8\]: dimension 2 of 8"):
        sharding.check(CONFIGS["llama"])
    with mesh.use({"model": 4}):
        sharding.check(CONFIGS["llama"])
    sharding.check(CONFIGS["llama"])  # without a mesh everything fits
    for config, field, value in ((lvs_config.get_config(), "prompt_batch", 9), (audit_config.get_config(), "rows", 25)):
        config.mesh.data = 2
        fields.check_batches(config, *(["rows"] if field == "rows" else []))
        config[field] = value
        with pytest.raises(InputError, match=f"{field} = {value}, expected a multiple of mesh.data = 2"):
            fields.check_batches(config, *(["rows"] if field == "rows" else []))


def test_a_loaded_checkpoint_is_cut_and_its_numbers_are_those_of_the_file():
    cfg, whole = models.load(tiny.checkpoint("llama3"))
    with mesh.use({"data": 2, "model": 2}):
        _, params = models.load(tiny.checkpoint("llama3"))
        query = params["blocks"]["query"]
        assert query.sharding.spec == PartitionSpec(None, None, "model", None)
        assert {part.data.shape for part in query.addressable_shards} == {(3, 32, 2, 16)}
        assert params["final_norm"].sharding.is_fully_replicated
        jax.tree.map(lambda cut, one: np.testing.assert_array_equal(sharding.to_host(cut), one), params, whole)
    assert jax.tree.leaves(whole)[0].devices() == {jax.devices()[0]}


def test_constrain_drops_what_does_not_divide_and_is_the_identity_without_a_mesh():
    run = jax.jit(lambda x: sharding.constrain(x, "data", "model"))
    x = jnp.arange(24.0).reshape(4, 6)
    assert run(x).sharding.is_fully_replicated
    with mesh.use({"data": 2, "model": 2}):
        assert run(x).sharding.spec == PartitionSpec("data", "model")
        odd = run(x[:3])
        assert odd.sharding.spec == PartitionSpec(None, "model")
        np.testing.assert_array_equal(sharding.to_host(odd), x[:3])
        assert jax.jit(sharding.replicate)(run(x)).sharding.is_fully_replicated


@functools.cache
def host_params(cfg):
    return jax.tree.map(np.asarray, jax.jit(models.init_params, static_argnums=1)(jax.random.key(0), cfg))


def placed(cfg):
    params = host_params(cfg)
    blocks = {name: sharding.place(f"blocks/{name}", array) for name, array in params["blocks"].items()}
    return {name: sharding.place(name, array) for name, array in params.items() if name != "blocks"} | {
        "blocks": blocks
    }


def lies_as(one, other):
    return one.sharding.is_equivalent_to(other.sharding, one.ndim)


@functools.cache
def keys():
    """Made without a mesh: eager operations are compiled for each mesh anew, which tests nothing here."""
    return latent.row_keys(jax.random.key(1), np.arange(B, dtype=np.uint32), 1, jnp.asarray(BUDGETS))


def rows():
    return tiny.rows(3, [T - row % 4 for row in range(B)])


def run_forward(cfg, params, tokens, mask):
    return forward(params, tokens, mask, cfg=cfg)._asdict()


def run_search(cfg, params, tokens, mask):
    clean = latent.clean_pass(params, tokens, mask, np.array(TARGET), cfg=cfg)
    found = latent.attack_state(
        params, clean, mask, np.array(TARGET), 1, np.array(BUDGETS), keys(), cfg=cfg, search=latent.Search(steps=4)
    )
    assert found.nll_last.is_fully_replicated, "what the host reads"
    return found._asdict()


def run_answers(cfg, params, tokens, mask):
    delta = np.random.default_rng(0).normal(size=(B, T, cfg.embed_dim)).astype(np.float32)
    new = generate(params, tokens, mask, cfg=cfg, max_new_tokens=5, eos_ids=(1,), prompt_edit=edits.add_at(1, delta))
    assert new.tokens.is_fully_replicated, "what the host reads"
    return new._asdict()


def run_training(cfg, params, tokens, mask):
    optimizer = ft.make_optimizer(learning_rate=1e-2, steps=2)
    state = ft.start(params, optimizer=optimizer)
    examples = ft.Examples(tokens, mask, mask & (np.arange(T) > T // 2))
    state, loss, norm = ft.update(state, None, examples, cfg=cfg, optimizer=optimizer, method=ft.PLAIN)
    for moved in (state.weights, state.optimizer[1][0].mu):
        assert jax.tree.all(jax.tree.map(lies_as, moved, params)), "training leaves weights where they were put"
    return {"weights": state.weights, "loss": loss, "gradient_norm": norm}


PARTS = {"forward": run_forward, "search": run_search, "answers": run_answers, "training": run_training}


@functools.cache
def numbers(name: str, part: str, data: int, model: int) -> dict:
    """What data x model devices make of the same weights and prompts, on the host."""
    cfg = CONFIGS[name]
    with mesh.use({"data": data, "model": model}):
        return jax.tree.map(sharding.to_host, PARTS[part](cfg, placed(cfg), *rows()))


def assert_same_numbers(name: str, part: str, data: int, model: int):
    one, other = numbers(name, part, 1, 1), numbers(name, part, data, model)
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(other), jax.tree.leaves(one), strict=True):
        label = jax.tree_util.keystr(path)
        if "delta" in label or "weights" in label:
            # Both move by the sign of a gradient, which rounding decides where it is nearly zero.
            assert (np.abs(ours - theirs) > 1e-5).mean() <= 2e-3, label
            assert np.abs(theirs).max() > 0
        elif ours.dtype == np.int32:
            np.testing.assert_array_equal(ours, theirs, label)
            assert "tokens" not in label or np.ptp(theirs) > 0
        else:
            loose = {"search": 1e-3, "training": 1e-4}.get(part, 2e-5)
            np.testing.assert_allclose(
                ours, theirs, rtol=loose, atol=loose / 10 if part == "search" else 2e-5, err_msg=label
            )


# Compiling takes most of the time: the rest of the table is run by hand.
FAST = {
    ("llama", "forward", 2, 2),
    ("llama", "forward", 4, 1),
    ("llama", "forward", 1, 4),
    ("gemma2", "forward", 1, 4),
    ("llama", "search", 2, 2),
    ("llama", "answers", 1, 4),
    ("llama", "training", 2, 2),
}
ALL = [(name, part, *sizes) for name in CONFIGS for part in PARTS for sizes in ((2, 2), (4, 1), (1, 4))]


@pytest.mark.parametrize(
    "name, part, data, model", [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow) for case in ALL]
)
def test_every_mesh_gives_the_numbers_of_one_device(name, part, data, model):
    assert_same_numbers(name, part, data, model)


def test_the_search_that_is_compared_finds_something():
    found = numbers("llama", "search", 1, 1)
    assert (found["nll_last"][0] < found["nll_first"][0]).all() and found["delta"].any()


def test_a_judge_that_does_not_fit_a_mesh_is_named_at_once(tmp_path):
    config = lvs_config.get_config()
    config.judge.kind, config.judge.path = "classifier", str(tiny_checkpoint("llama2", tmp_path))
    with mesh.use({"model": 3}), pytest.raises(InputError, match=r"no judge for this run: blocks/query \[3, 32, 4, 8"):
        scorers.make_judge(config, None)


@pytest.mark.parametrize("data, model", [(2, 2), (4, 1), (1, 4)])
def test_the_forward_pass_moves_no_more_than_planned(data, model):
    cfg, (tokens, mask) = CONFIGS["llama"], rows()
    with mesh.use({"data": data, "model": model}):
        found = collectives(forward.lower(placed(cfg), tokens, mask, cfg=cfg).compile().as_text())
    if model == 1:
        assert found == []
        return
    arrays = [array for one in found for array in one.arrays]
    # One for the embedding, whose vocabulary is cut; and two in the loop over blocks: attention's output and the MLP's.
    # However rows and columns are put together.
    assert all(array.startswith("f32") for array in arrays)
    assert list(map(elements, arrays)) == [B // data * T * cfg.embed_dim] * 3
    assert {one.kind for one in found} == {"all-reduce"}
    in_loop = [one.computation for one in found if "region" in one.computation]
    assert len(in_loop) == 2 and len({*in_loop}) == 1


def test_the_search_moves_no_more_than_planned():
    cfg, (tokens, mask) = CONFIGS["llama"], rows()
    with mesh.use({"data": 2, "model": 2}):
        params = placed(cfg)
        clean = latent.clean_pass(params, tokens, mask, np.array(TARGET), cfg=cfg)
        compiled = latent.attack_state.lower(
            params, clean, mask, np.array(TARGET), 1, np.array(BUDGETS), keys(), cfg=cfg, search=latent.Search(steps=4)
        ).compile()
    found = collectives(compiled.as_text())
    rows_here, columns = B * len(BUDGETS) // 2, T + len(TARGET) - 1
    # The states of the rows of one part of the batch: never weights, logits or the rows of others.
    assert max(elements(array) for one in found for array in one.arrays) == rows_here * columns * cfg.embed_dim
    assert {one.kind for one in found} <= {"all-reduce", "all-gather"}
    gathered = [array for one in found if one.kind == "all-gather" for array in one.arrays]
    # Losses and norms, which the host reads.
    assert max(map(elements, gathered)) <= 3 * B * len(BUDGETS) * 5


def test_collectives_are_read_from_a_programs_text():
    text = """
%region_1.2_spmd (p: f32[2]) -> f32[2] {
  %all-reduce.3 = (f32[4,26]{1,0}, bf16[4]{0}) all-reduce(%a, %b), channel_id=1
  %done = f32[4] all-reduce-done(%x)
}
ENTRY %main.9_spmd (p: f32[2]) -> f32[2] {
  ROOT %all-gather.1 = s32[8,5]{1,0} all-gather(%c), channel_id=2
  %s = f32[2] add(%all-reduce.3, %all-gather.1)
}
"""
    assert [tuple(one) for one in collectives(text)] == [
        ("all-reduce", ("f32[4,26]", "bf16[4]"), "region_1.2_spmd"),
        ("all-gather", ("s32[8,5]",), "main.9_spmd"),
    ]
    assert elements("f32[4,26]") == 104 and elements("f32[]") == 1


EIGHT = """
from tests import test_sharding as t
for data, model in ((2, 4), (8, 1), (1, 8)):
    for part in t.PARTS:
        t.assert_same_numbers("llama", part, data, model)
    print("same", data, model)
"""


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
    }
    done = subprocess.run([sys.executable, "-c", EIGHT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["same 2 4", "same 8 1", "same 1 8"], done.stderr
