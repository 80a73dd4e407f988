"""What the largest targets need on each device of a mesh, compiled from shapes alone: no weights, no accelerator.

    python -m benchmarks.scaling                                          writes docs/scaling.json and docs/scaling.md
    TPU_LIBRARY_PATH=DIR/libtpu/libtpu.so python -m benchmarks.scaling    the same, compiled for TPUs as well

Every program is lowered for a whole mesh and compiled, never run: for fake CPU devices, and by the TPU's own compiler
where its library is given (pip install --target DIR libtpu; no TPU is needed). Bytes of parameters, optimiser state and
key-value cache follow from shapes and layouts (models/sharding.py) exactly; temporaries are the compiler's
(memory_analysis). Cases that docs/scaling.json holds are not measured again, unless other versions or
--anew ask for it.
"""

import argparse
import collections
import contextlib
import functools
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from typing import NamedTuple

from benchmarks import scaling_report

ROOT = pathlib.Path(__file__).parents[1]
# config.json as published, the fields that decide sizes and switches.
TARGETS = {
    "Llama-3.1-70B": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 128256,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    "Gemma-2-27B": {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "vocab_size": 256000,
        "hidden_size": 4608,
        "intermediate_size": 36864,
        "num_hidden_layers": 46,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 144,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "attention_bias": False,
        "tie_word_embeddings": True,
    },
}
# arXiv 2606.08044's sweep: 24 prompts, three budgets, ten steps, 128 new tokens; 64 prompt columns and layer_batch = 1
# are ours. Its fine-tuning has 4 rows; 8 of 512 tokens divide over more devices.
PROMPTS, COLUMNS, TARGET_TOKENS, BUDGETS, NEW_TOKENS = 24, 64, 4, 3, 128
ROWS, TOKENS = 8, 512
# data x model; 8 is one host of GPUs.
MESHES = ((1, 8), (2, 8), (4, 8), (2, 32), (4, 16), (1, 64))
# Those that the TPU's own compiler is asked about, minutes each: (kind, target, mesh, prompts in one search).
ON_TPU = (
    ("v5p", "Llama-3.1-70B", (1, 8), PROMPTS),
    ("v5e", "Llama-3.1-70B", (2, 32), PROMPTS),
    ("v5e", "Llama-3.1-70B", (2, 32), 8),
    ("v5e", "Gemma-2-27B", (2, 8), PROMPTS),
)
# Kind of TPU -> the slice of so many chips.
SLICES = {
    "v5e": {8: "v5e:2x4", 16: "v5e:4x4", 32: "v5e:4x8", 64: "v5e:8x8"},
    "v5p": {8: "v5p:2x2x2", 16: "v5p:2x2x4", 32: "v5p:2x4x4", 64: "v5p:4x4x4"},
}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


class Collective(NamedTuple):
    """Arrays that devices exchange in one instruction of a compiled program.

    kind: such as "all-reduce"; arrays: their types on one device, "f32[8,26,256]"; computation: the name of the part
    of the program it stands in, a loop's body being one.
    """

    kind: str
    arrays: tuple[str, ...]
    computation: str


def collectives(text: str) -> list[Collective]:
    """All of them in the text of a compiled program; an instruction in a loop stands there once."""
    found, computation = [], ""
    for line in text.splitlines():
        if line.endswith("{") and (begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", line)):
            computation = begins[1]
        instruction = re.search(rf" = (\(.*?\)|\S+) ({_KINDS})(?:-start)?\(", line)
        if instruction:
            found.append(Collective(instruction[2], tuple(re.findall(r"\w+\[[\d,]*\]", instruction[1])), computation))
    return found


def shaped(cfg, mesh):
    """Parameters of `cfg` in bfloat16 as shapes laid out over `mesh`."""
    import jax
    import jax.numpy as jnp

    from latent_audit import models
    from latent_audit.models import sharding

    tree = jax.eval_shape(lambda key: models.init_params(key, cfg, jnp.bfloat16), key_shape())
    return laid_out(tree, mesh, lambda name, leaf: sharding.spec_of(name, leaf.shape, dict(mesh.shape)))


@functools.cache
def key_shape(*shape: int):
    """Of PRNG keys. Asked for first where nothing can be computed: before a mesh of devices that are not there."""
    import jax

    return jax.ShapeDtypeStruct(shape, jax.random.key(0).dtype)


def laid_out(tree, mesh, spec_of):
    """Shapes with layouts: spec_of(name, leaf) -> PartitionSpec; scalars are copied to every device."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = spec_of(name, leaf) if leaf.ndim else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(one, tree)


def bytes_of(tree) -> int:
    """On one device."""
    import jax

    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def over_data(tree, mesh, axis: int = 0):
    """Shapes whose dimension `axis` lies over "data" where it divides, as models.sharding.constrain has it."""
    from jax.sharding import PartitionSpec

    def spec(_, leaf):
        return PartitionSpec(*[None] * axis, "data" if leaf.shape[axis] % mesh.shape["data"] == 0 else None)

    return laid_out(tree, mesh, spec)


def clean_states(cfg, mesh, params, prompts):
    """What the search reads beside the parameters, as clean_pass leaves it: rows over "data"."""
    import jax
    import jax.numpy as jnp

    from latent_audit.interventions import latent

    shape = jax.ShapeDtypeStruct
    tokens, mask = shape((prompts, COLUMNS), jnp.int32), shape((prompts, COLUMNS), bool)
    clean = jax.eval_shape(
        functools.partial(latent.clean_pass, cfg=cfg), params, tokens, mask, shape((TARGET_TOKENS,), jnp.int32)
    )
    return clean._replace(
        nll=over_data(clean.nll, mesh),
        **{name: over_data(getattr(clean, name), mesh, axis=1) for name in ("states", "gradient", "scale")},
    )


def training(cfg, mesh):
    """The state of a training of rank-16 adapters of query and value: these in float32 and AdamW's moments."""
    import jax

    from latent_audit.interventions import finetune, lora
    from latent_audit.models import sharding

    adapters = jax.eval_shape(lambda key: lora.init_adapters(key, cfg, lora.LoraConfig()), key_shape())
    state = jax.eval_shape(functools.partial(finetune.start, optimizer=optimizer()), adapters)
    return laid_out(state, mesh, lambda name, leaf: sharding.spec_of(name, leaf.shape, dict(mesh.shape)))


def optimizer():
    """The fine-tuning attack's, docs/method.md section 5."""
    from latent_audit.interventions import finetune

    return finetune.make_optimizer(learning_rate=1e-5, steps=150)


def lower_search(cfg, mesh, params, prompts):
    """(lowered attack on one state, {what: bytes on one device} of its arguments beside the parameters)."""
    import jax
    import jax.numpy as jnp

    from latent_audit.interventions import latent

    shape = jax.ShapeDtypeStruct
    mask, target = shape((prompts, COLUMNS), bool), shape((TARGET_TOKENS,), jnp.int32)
    clean = clean_states(cfg, mesh, params, prompts)
    budgets = shape((BUDGETS,), jnp.float32)
    keys = key_shape(prompts, BUDGETS)
    lowered = latent.attack_state.lower(params, clean, mask, target, shape((), jnp.int32), budgets, keys, cfg=cfg)
    return lowered, {"clean states": bytes_of(clean)}


def lower_answers(cfg, mesh, params, prompts):
    """Greedy answers to the perturbed prompts of one state: three attacks x prompts x budgets."""
    import jax
    import jax.numpy as jnp

    from latent_audit.interventions import edits
    from latent_audit.models import continuing, generate

    shape = jax.ShapeDtypeStruct
    rows = 3 * prompts * BUDGETS
    tokens, mask = shape((rows, COLUMNS), jnp.int32), shape((rows, COLUMNS), bool)
    edit = jax.eval_shape(edits.add_at, shape((rows,), jnp.int32), shape((rows, COLUMNS, cfg.embed_dim), jnp.float32))
    edit = over_data(edit, mesh)
    options = {"cfg": cfg, "rules": continuing.Rules(NEW_TOKENS, (1,))}

    def answers(params, tokens, mask, edit):
        going, usable = generate.begin(params, tokens, mask, edit, None, **options)
        going = continuing.go_on(params, going, None, None, NEW_TOKENS, 0, 0, **options)
        return going.out, going.lengths, usable

    lowered = jax.jit(answers).lower(params, tokens, mask, edit)
    return lowered, {"perturbations": bytes_of(edit)}


def lower_lora(cfg, mesh, params, prompts):
    """One training step of the adapters, blocks computed again in the backward pass; prompts play no part."""
    import jax
    import jax.numpy as jnp

    from latent_audit.interventions import finetune, lora

    method = finetune.Method(remat=True, lora_scale=lora.LoraConfig().scale)
    state = training(cfg, mesh)
    examples = finetune.Examples(*(jax.ShapeDtypeStruct((ROWS, TOKENS), kind) for kind in (jnp.int32, bool, bool)))
    lowered = finetune.update.lower(state, params, examples, cfg=cfg, optimizer=optimizer(), method=method)
    return lowered, {"adapters, optimiser": bytes_of(state)}


PROGRAMS = {"search": lower_search, "answers": lower_answers, "LoRA": lower_lora}


def measure(hf: dict, program: str, data: int, model: int, kind: str = "cpu", prompts: int = PROMPTS) -> dict:
    """Bytes on one device and collectives of one program, compiled for data x model devices of this process.

    kind: "cpu" (fake devices: XLA_FLAGS=--xla_force_host_platform_device_count), "v5e" or "v5p".
    """
    import jax

    from latent_audit.models.families import config_from_hf
    from latent_audit.runtime import mesh as meshes

    devices = jax.devices()
    if kind != "cpu":
        from jax.experimental import topologies

        devices = topologies.get_topology_desc(SLICES[kind][data * model], platform="tpu").devices
    cfg = config_from_hf(hf)
    mesh = meshes.make_mesh(data, model, devices=devices)
    key_shape(), key_shape(prompts, BUDGETS)
    began = time.monotonic()
    with jax.set_mesh(mesh):
        params = shaped(cfg, mesh)
        lowered, others = PROGRAMS[program](cfg, mesh, params, prompts)
        compiled = lowered.compile()
    memory = compiled.memory_analysis()
    return {
        "parameters": bytes_of(params),
        "others": others,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "collectives": tally(collectives(compiled.as_text())),
        "seconds": round(time.monotonic() - began, 1),
    }


def tally(found: list[Collective]) -> dict[str, dict[str, int]]:
    """Part of the program -> {"all-reduce f32[8,26,256]": how many}; arrays that travel together count each."""
    counted = {}
    for one in found:
        counted.setdefault(one.computation, collections.Counter()).update(f"{one.kind} {array}" for array in one.arrays)
    return counted


def exact(hf: dict, data: int, model: int) -> dict:
    """Bytes on one device that follow from shapes and layouts; the key-value cache is that of all devices together."""
    import jax
    from jax.sharding import AbstractMesh

    from latent_audit.errors import InputError
    from latent_audit.models import decode
    from latent_audit.models.families import config_from_hf

    cfg, mesh = config_from_hf(hf), AbstractMesh((data, model), ("data", "model"))
    try:
        params = shaped(cfg, mesh)
    except InputError as error:
        return {"error": str(error)}
    rows, columns = 3 * PROMPTS * BUDGETS, COLUMNS + decode.room_behind(COLUMNS, NEW_TOKENS, cfg=cfg)
    cache = 2 * 2 * cfg.num_layers * rows * columns * cfg.num_kv_heads * cfg.head_dim
    return {
        "parameters": bytes_of(params),
        "blocks": bytes_of(params["blocks"]),
        "cache": cache,
        "training": bytes_of(training(cfg, mesh)),
        "clean": bytes_of(clean_states(cfg, mesh, params, PROMPTS)),
        "count": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }


def planned(hf: dict, program: str, data: int, prompts: int) -> int:
    """The largest array that devices may exchange, in numbers: states of one part of the batch, [rows, T, D]."""
    rows = {"search": prompts * BUDGETS, "answers": 3 * prompts * BUDGETS, "LoRA": ROWS}[program]
    columns = {"search": COLUMNS + TARGET_TOKENS - 1, "answers": COLUMNS, "LoRA": TOKENS}[program]
    return rows // data * columns * hf["hidden_size"]


def cases() -> list[dict]:
    """Arguments of `measure` of every case, and the name of its target."""
    wanted = [("cpu", target, mesh, PROMPTS) for target in TARGETS for mesh in MESHES]
    wanted += ON_TPU if os.environ.get("TPU_LIBRARY_PATH") else ()
    return [
        {"kind": kind, "target": target, "program": program, "data": data, "model": model, "prompts": prompts}
        for kind, target, (data, model), prompts in wanted
        for program in PROGRAMS
        if program != "LoRA" or prompts == PROMPTS
    ]


CASE = ("kind", "target", "program", "data", "model", "prompts")


def run_case(case: dict) -> dict:
    """`case` with what was measured, in a process of its own with that many fake devices, or with the error."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={case['data'] * case['model']}",
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--case", json.dumps(case)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode < 0:
        raise SystemExit(f"{case} was ended by signal {-done.returncode}; the same command goes on from here")
    if done.returncode:
        return case | {"error": done.stderr.strip().splitlines()[-1][:600]}
    return case | json.loads(done.stdout.strip().splitlines()[-1])


def versions() -> dict[str, str]:
    """Of what computed the numbers."""
    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        packages["libtpu"] = importlib.metadata.version("libtpu")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        **packages,
    }


def missing(record: dict) -> list[dict]:
    """Cases that are asked for and not there."""
    known = [{key: case[key] for key in CASE} for case in record["cases"]]
    return [case for case in cases() if case not in known]


def complete(record: dict) -> dict:
    """`record` with what needs no compiler."""
    meshes = [(target, data, model) for target in TARGETS for data, model in MESHES]
    return record | {
        "missing": missing(record),
        "work": {
            "prompts": PROMPTS,
            "columns": COLUMNS,
            "target_tokens": TARGET_TOKENS,
            "budgets": BUDGETS,
            "new_tokens": NEW_TOKENS,
            "rows": ROWS,
            "tokens": TOKENS,
        },
        "exact": [
            {"target": target, "data": data, "model": model} | exact(TARGETS[target], data, model)
            for target, data, model in meshes
        ],
        "cases": [
            case | {"planned": planned(TARGETS[case["target"]], case["program"], case["data"], case["prompts"])}
            for case in sorted(record["cases"], key=_place)
        ],
    }


def _place(case: dict) -> tuple:
    """Where a case stands in the tables, in whatever order it was measured."""
    return (
        case["kind"],
        list(TARGETS).index(case["target"]),
        MESHES.index((case["data"], case["model"])),
        -case["prompts"],
        list(PROGRAMS).index(case["program"]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", help="used by this program itself: one case as JSON, measured in this process")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs")
    parser.add_argument("--anew", action="store_true", help="measure again what scaling.json holds already")
    parser.add_argument("--page", action="store_true", help="measure nothing: the page of what scaling.json holds")
    flags = parser.parse_args()
    if flags.case:
        case = json.loads(flags.case)
        print(json.dumps(measure(TARGETS[case.pop("target")], **case)))
        return 0
    path = flags.out / "scaling.json"
    record = {"versions": versions(), "cases": []}
    if path.exists() and not flags.anew:
        old = json.loads(path.read_text(encoding="utf-8"))
        record = old if old["versions"] == versions() else record
    if flags.page and path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
    for case in missing(record):
        if not flags.page:
            record["cases"].append(run_case(case))
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(case, record["cases"][-1].get("temporaries", record["cases"][-1].get("error")), flush=True)
    os.environ["JAX_PLATFORMS"] = "cpu"
    record = complete(record)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    scaling_report.write(flags.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
