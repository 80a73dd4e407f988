"""What judge and reward cost beside the sweep: the paper's LVS table of three poles, end to end.

    python -m benchmarks.judge                   one H100 or H200, about 10 minutes: the aim is the total
    python -m benchmarks.judge --answers 432 --sweep docs/benchmark_gpu.json     3 minutes: a sweep measured before, and
                                                 so many of the answers, whose seconds count for all
    python -m benchmarks.judge --cpu             small models on a CPU, step by step what each cut saves
    python -m benchmarks.judge --quick           tiny models on whatever there is: that everything runs

24 prompts x every residual state x 3 budgets x {pgd, random}, 128 tokens each: searched and generated as in
benchmarks.gpu for one pole, whose seconds count three times (the poles have one shape); then every answer is put to a
judge of 13 billion parameters in HarmBench's form and to a reward of GPT-2 large's size. Weights are random, answers
are made of the package's own texts, so only seconds count. Without --tokenizer DIR a token is four letters of a word.
No two answers are equal unless --repeats says what share of them is the clean one; real tables have many.
"""

import argparse
import json
import pathlib
import re
import sys
import time
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import gpu, run, work
from latent_audit import models
from latent_audit.data import builtin_prompts, tokenizer_files
from latent_audit.data.answers import builtin
from latent_audit.experiments.judging import asking
from latent_audit.experiments.judging.once import once
from latent_audit.judges import classifier, reward_model
from latent_audit.models import gpt2
from latent_audit.models.families import config_from_hf
from latent_audit.models.generate import generate
from latent_audit.runtime import xla_flags

POLES, PROMPTS, BUDGETS, KINDS, ANSWER_TOKENS = 3, 24, 3, 2, 128
AIM_SECONDS = 600
MODEL = "Llama 3.2 3B"
# A share of the answers is a refusal, which is short.
SHORT_SHARE, SHORT_TOKENS = 0.3, (12, 60)


def llama(layers: int, width: int, mlp: int, heads: int, vocab: int) -> dict:
    """config.json of a Llama of these sizes."""
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }


def reward_config(layers: int, width: int, heads: int, vocab: int) -> gpt2.GPT2Config:
    return gpt2.GPT2Config(vocab, 1024, layers, width, heads, 4 * width, 1e-5, "gelu_tanh")


def tokenizer_of(path: str, vocab: int):
    """A published tokenizer; or one that makes a token of every four letters, with ids below `vocab`."""
    if path:
        return tokenizer_files.load_tokenizer(path)

    def encode(text, add_special_tokens=False):
        return [3 + zlib.crc32(piece.encode()) % (vocab - 3) for piece in re.findall(r"\s?\w{1,4}|\s?[^\w\s]|\s", text)]

    def batch_decode(rows, skip_special_tokens=True):
        return [" ".join(map(str, row)) for row in rows]

    return types.SimpleNamespace(
        encode=encode, batch_decode=batch_decode, bos_token_id=1, eos_token_id=2, pad_token_id=0, get_vocab=dict
    )


def answers(prompts, count: int, *, repeats: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """(prompts, answers) of `count` cells: words of our own texts, short ones among them, `repeats` the clean one."""
    rng = np.random.default_rng(seed)
    words = " ".join(answer.response for answer in builtin.answers()).split()

    def text():
        # An English word has about 1.3 tokens.
        tokens = rng.integers(*SHORT_TOKENS) if rng.random() < SHORT_SHARE else ANSWER_TOKENS
        start = rng.integers(len(words))
        return " ".join(np.roll(words, -start)[: max(1, int(tokens / 1.3))].tolist() + [str(rng.integers(10**6))])

    clean = [text() for _ in prompts]
    asked = [prompts[cell % len(prompts)] for cell in range(count)]
    return asked, [clean[cell % len(prompts)] if rng.random() < repeats else text() for cell in range(count)]


def one_width(params, rows, *, cfg, tokenizer, max_new_tokens, batch: int = 8) -> list[str]:
    """What stood here before: `batch` rows at a time, all as wide as the longest of the call."""
    width = -(-max(map(len, rows)) // 128) * 128
    texts = []
    for start in range(0, len(rows), batch):
        block = rows[start : start + batch]
        tokens, mask = np.zeros((batch, width), np.int32), np.zeros((batch, width), bool)
        mask[:, -1] = True
        for place, row in enumerate(block):
            tokens[place, width - len(row) :], mask[place, width - len(row) :] = row, True
        options = {"cfg": cfg, "max_new_tokens": max_new_tokens, "eos_ids": cfg.eos_ids, "pad_id": 0}
        new = np.asarray(generate(params, tokens, mask, **options).tokens)
        texts += tokenizer.batch_decode(new[: len(block)], skip_special_tokens=True)
    return texts


def timed_in_units(call, *columns, unit: int) -> tuple[dict, list]:
    """(seconds of the first unit and of all units once more, what they gave); a run calls once per unit.

    cpu_seconds are those of all threads: on a CPU they are what other work beside it does not lengthen.
    """
    units = [[column[start : start + unit] for column in columns] for start in range(0, len(columns[0]), unit)]
    began = time.perf_counter()
    call(*units[0])
    first = time.perf_counter() - began
    for part in units[1:]:  # every shape compiled
        call(*part)
    began, worked = time.perf_counter(), time.process_time()
    found = [one for part in units for one in call(*part)]
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "cpu_seconds": worked, "first_unit_seconds": first}, found


def judge_lines(cfg, params, tokenizer, pairs, *, form: str, unit: int, with_before: bool) -> list[dict]:
    """Seconds of the judge on all pairs: as it was, in blocks, behind the opening, equal pairs once."""
    kind = classifier.FORMS[form]
    question = classifier.make_question(kind, tokenizer)
    opening = classifier.opening_of(kind, tokenizer, question)
    options = {"cfg": cfg, "tokenizer": tokenizer, "max_new_tokens": kind.new_tokens}

    def put(ask, prompts, responses):
        rows = classifier.rows_of(kind, tokenizer, question, list(zip(prompts, responses, strict=True)))
        return np.array(ask(params, rows, **options) if rows else [], object)

    def behind(params, rows, **options):
        return asking.continue_rows(params, rows, opening=opening, **options)

    ways = {"8 rows, one width": one_width, "blocks of tokens": asking.continue_rows, "behind the opening": behind}
    if not with_before:
        ways = {"behind the opening": behind}
    lines, expected = [], None
    tokens = sum(len(tokenizer.encode(question(*pair), add_special_tokens=False)) for pair in zip(*pairs, strict=True))
    for name, ask in ways.items():
        took, said = timed_in_units(lambda *part, ask=ask: put(ask, *part), *pairs, unit=unit)
        expected = said if expected is None else expected
        same = float(np.mean([one == other for one, other in zip(said, expected, strict=True)]))
        line = {"judge": form, "way": name, "answers": len(said)} | took
        lines.append(line | {"tokens": tokens, "tokens_per_second": tokens / took["seconds"], "equal_replies": same})
        print(json.dumps(lines[-1]), flush=True)
    asked = once(lambda *part: put(behind, *part))
    began, worked = time.perf_counter(), time.process_time()
    for start in range(0, len(pairs[0]), unit):
        asked(*(column[start : start + unit] for column in pairs))
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    line = {"way": "equal pairs once", "seconds": seconds, "cpu_seconds": worked, "tokens_per_second": tokens / seconds}
    lines.append(lines[-1] | line)
    print(json.dumps(lines[-1]), flush=True)
    return lines


def reward_params(cfg: gpt2.GPT2Config) -> dict:
    """Random float32 weights of the shapes that gpt2.classify takes."""
    D, F = cfg.embed_dim, cfg.mlp_dim
    top = {"embed": (cfg.vocab_size, D), "positions": (cfg.max_positions, D), "score": (1, D)}
    block = {"qkv": (D, 3 * D), "qkv_bias": (3 * D,), "output": (D, D), "up": (D, F), "up_bias": (F,), "down": (F, D)}
    vectors = ("attention_norm", "attention_norm_bias", "output_bias", "mlp_norm", "mlp_norm_bias", "down_bias")
    block |= dict.fromkeys(vectors, (D,))
    top |= dict.fromkeys(("final_norm", "final_norm_bias"), (D,))

    def drawn(shapes, *front):
        keys = jax.random.split(jax.random.key(len(front)), len(shapes))
        return {
            name: 0.02 * jax.random.normal(key, front + shape)
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    return drawn(top) | {"blocks": drawn(block, cfg.num_layers)}


def reward_line(cfg, tokenizer, pairs, *, unit: int, batch: int | None) -> dict:
    """Seconds of the reward on all pairs; batch: rows at a time, None by tokens."""
    params = reward_params(cfg)
    encode = tokenizer.encode
    rows = [(encode(p) + encode(r, add_special_tokens=False))[:1024] for p, r in zip(*pairs, strict=True)]
    rows = [[token % cfg.vocab_size for token in row] for row in rows]
    call = lambda part: reward_model.score_rows(params, part, cfg=cfg, batch_size=batch)  # noqa: E731
    took, _ = timed_in_units(call, rows, unit=unit)
    tokens = sum(map(len, rows))
    line = {"reward": batch or "by tokens", "answers": len(rows)} | took
    print(json.dumps(line := line | {"tokens": tokens, "tokens_per_second": tokens / took["seconds"]}), flush=True)
    return line


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models: that everything runs")
    parser.add_argument("--cpu", action="store_true", help="a judge of 6 layers on a CPU, against what was before")
    parser.add_argument("--answers", type=int, default=0, help="so many instead of the table's, counted for all")
    parser.add_argument("--sweep", default="", help="benchmark_gpu.json of this machine, instead of a sweep of its own")
    parser.add_argument("--repeats", type=float, default=0.0, help="share of the answers that equal the clean one")
    parser.add_argument("--form", default="harmbench-llama", help="of the judge")
    parser.add_argument("--tokenizer", default="", help="directory of a tokenizer for judge and reward")
    parser.add_argument("--out", default="", help="directory for benchmark_judge.json; empty: printed alone")
    options = parser.parse_args(argv)
    xla_flags.use()
    is_small = options.quick or options.cpu
    dtype = jnp.float32 if is_small else jnp.bfloat16
    name, shape = next(iter(gpu.TINY.items())) if is_small else (MODEL, gpu.SHAPES[MODEL])
    states = 2 if options.quick else shape["num_hidden_layers"] + 1
    whole = POLES * PROMPTS * states * BUDGETS * KINDS
    count = options.answers or (200 if options.cpu else whole)
    tokenizer = tokenizer_of(options.tokenizer, 32000)
    vocab = len(tokenizer) if options.tokenizer else 32000
    if options.quick:
        judge, reward = llama(2, 32, 64, 4, vocab), reward_config(2, 32, 4, 50257)
    elif options.cpu:
        judge, reward = llama(6, 256, 704, 4, vocab), reward_config(6, 256, 4, 50257)
    else:
        judge, reward = llama(40, 5120, 13824, 40, vocab), reward_config(36, 1280, 20, 50257)
    print(f"{jax.devices()[0].device_kind}: {count} answers", flush=True)
    record = {"machine": run.machine(), "answers": count, "repeats": options.repeats}
    if options.sweep:
        sweeps = json.loads(pathlib.Path(options.sweep).read_text(encoding="utf-8"))["sweeps"]
        record["sweep"] = next(one for one in sweeps if one["model"] == name)
    elif not options.cpu:
        problem = gpu.problem_of(name, shape, prompts=2 if options.quick else PROMPTS, tokens=40)
        peak = work.matmul_peak(0.2, 256) if options.quick else work.matmul_peak(3.0, 8192, jnp.bfloat16)
        record["sweep"] = gpu.sweep(problem, new=8 if options.quick else ANSWER_TOKENS, peak=peak)
        del problem
        jax.clear_caches()
    prompts = list(builtin_prompts.HARMFUL)[:PROMPTS]
    pairs = answers(prompts, count, repeats=options.repeats)
    unit = PROMPTS * BUDGETS * KINDS
    cfg = config_from_hf(judge)
    params = jax.jit(models.init_params, static_argnums=(1, 2))(jax.random.key(0), cfg, dtype)
    record["judge"] = judge_lines(cfg, params, tokenizer, pairs, form=options.form, unit=unit, with_before=is_small)
    del params
    sizes = (8, None) if is_small else (None,)
    record["reward"] = [reward_line(reward, tokenizer, pairs, unit=unit, batch=batch) for batch in sizes]
    if not options.cpu:
        read = [record[what][-1]["seconds"] * whole / count for what in ("judge", "reward")]
        parts = [POLES * record["sweep"]["seconds"], *read]
        record |= {"table_answers": whole, "parts": parts, "seconds": sum(parts), "aim_seconds": AIM_SECONDS}
        said = ", ".join(
            f"{part:.1f} s {what}" for what, part in zip(("sweeps", "judge", "reward"), parts, strict=True)
        )
        print(f"{said}: {sum(parts):.1f} s in all without compiling, aim {AIM_SECONDS} s", flush=True)
    if options.out:
        text = json.dumps(record, indent=2) + "\n"
        (pathlib.Path(options.out) / "benchmark_judge.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
