"""Every field of every config: its type, what it may hold, its unit, and one line of what it is.

Defaults stand in configs/, where a job is described; what a value may be stands here and nowhere else. fields.py checks
by this table, `latent-audit fields TASK` and docs/fields.md show it.
"""

from typing import NamedTuple

# Bounds that several fields share. Ours: what no run can mean, and what numpy, jax and a machine's memory can take.
SEED, COUNT, BATCH, STEPS, TOKENS, LENGTH = 2**31 - 1, 10**6, 10**4, 10**6, 32768, 1e3
# Of a text, of a name or a phrase in it, and values of a list.
LETTERS, WORDS, VALUES = 10**5, 1000, 100


class Field(NamedTuple):
    """A row. kind: whole, number, text, switch, wholes, numbers or texts; least, most: bounds of each number; most of
    a text: its letters.

    above: whether `least` itself is too small; choices: of a text, () for any; unit: of a number; optional: whether
    None may stand for "as usual".
    """

    kind: str
    what: str
    least: float | None = None
    most: float | None = None
    above: bool = False
    choices: tuple[str, ...] = ()
    unit: str = ""
    optional: bool = False


def whole(what: str, least: float, most: float, unit: str = "", optional: bool = False) -> Field:
    return Field("whole", what, least, most, unit=unit, optional=optional)


def number(what: str, least: float, most: float, unit: str = "", above: bool = False, optional: bool = False) -> Field:
    return Field("number", what, least, most, above, unit=unit, optional=optional)


def text(what: str, *choices: str, most: int = LETTERS) -> Field:
    return Field("text", what, most=most, choices=choices)


def switch(what: str, optional: bool = False) -> Field:
    return Field("switch", what, optional=optional)


def numbers(what: str, least: float, most: float, unit: str = "", above: bool = False) -> Field:
    return Field("numbers", what, least, most, above, unit=unit)


def under(section: str, **fields: Field) -> dict[str, Field]:
    """{"steps": ...} of section attack -> {"attack.steps": ...}."""
    return {f"{section}.{name}": field for name, field in fields.items()}


DTYPES = ("float32", "bfloat16")
PATH = "a directory, or a Hugging Face hub id"
SOURCE = "a CSV, TSV, JSON, JSONL, TXT or Parquet file, a directory of these, hub:owner/name, or builtin:NAME"

JUDGE_FORMS = ("auto", "reference", "harmbench-llama", "harmbench-mistral", "llama-guard", "wildguard", "strongreject")

_MODEL_DTYPE = text(
    "dtype of parameters and states; auto: float32 on a CPU and for the organism, else as the checkpoint is stored",
    "auto",
    *DTYPES,
)
_ORGANISM_SIZE = text("6 blocks of width 128 (standard), or 4 of width 96", "standard", "small")
_ORGANISM_FAMILY = text("whose code path is audited", "llama", "qwen3", "gemma2")

MODEL = {
    "seed": whole("what every random number of a run is derived from", 0, SEED),
    **under(
        "model",
        path=text(f"the checkpoint: {PATH}, or a .gguf file; empty: the embedded organism, trained on the spot"),
        adapter=text("a PEFT LoRA adapter merged into it: a directory or a hub id"),
        revision=text("branch, tag or commit of a hub id; empty: its main branch"),
        name=text("how it is called in tables; empty: the last part of its path", most=WORDS),
        variants=text("further poles of the same model: dissociated=DIR,harmful=DIR; or with an adapter, DIR+ADAPTER"),
        dtype=_MODEL_DTYPE,
    ),
    **under(
        "organism",
        size=_ORGANISM_SIZE,
        family=_ORGANISM_FAMILY,
        seed=whole("of the world, the initial weights and the training data", 0, SEED),
        poles=text("which of its poles are audited: base, and some of harmful, dissociated, control"),
        directory=text("where it is kept; empty: organism/ in the workdir"),
    ),
    **under(
        "chat",
        preset=text("the checkpoint's own template, or bare markers around one user turn", "default", "paper"),
        style=text(
            "whose bare markers: those of the checkpoint's own template, or preset paper in a style that is named",
            *("auto", "llama3", "llama2", "mistral", "chatml", "gemma"),
        ),
        template_file=text("a Jinja file to use instead of the checkpoint's template"),
        date=text("what templates that print today's date are told, such as 26 Jul 2024", most=WORDS),
        system=text("a system turn in front of every prompt, \\n for a line break; empty: the template's own, or none"),
        thinking=switch(
            "whether a thought stands in front of answers: ended by closing where a template opens one, or answers "
            "are read behind </think>; None: the template's default, read so too",
            optional=True,
        ),
        closing=text("what ends a thought that the template opens, \\n for a line break", most=WORDS),
    ),
    **under(
        "prompts",
        harmful=text(f"harmful requests: {SOURCE}"),
        harmful_column=text("the column that holds the prompt; empty: recognised for public sets"),
        harmful_offset=whole("harmful requests left out before them", 0, COUNT, "prompts"),
        harmful_count=whole("so many harmful requests are used", 1, COUNT, "prompts"),
        benign=text(f"harmless requests: {SOURCE}"),
        benign_column=text("as harmful_column"),
        benign_offset=whole("harmless requests left out before them", 0, COUNT, "prompts"),
        benign_count=whole("so many harmless requests are used", 1, COUNT, "prompts"),
        behavior_column=text("of harmful prompts: what the judge is asked about; empty: recognised, else the prompt"),
        context_column=text("of harmful prompts: the text that a behaviour speaks of; empty: recognised"),
        target_column=text("of harmful prompts: the opening that L2 attack, GCG and suite aim at; empty: one for all"),
        joined=text("sources whose columns are added to the harmful prompts by BehaviorID, separated by commas"),
        label_column=text("of both sources; empty: recognised for public sets"),
        harmful_label=text("labels of the rows kept, by commas; all; empty: all, of HarmBench's behaviours standard"),
        benign_label=text("as harmful_label"),
        cluster_column=text("the column whose equal values make harmful requests one cluster; empty: recognised"),
        max_tokens=whole("a longer prompt is an error, never cut", 1, TOKENS, "tokens"),
    ),
    **under(
        "generation",
        max_new_tokens=whole("length of a response; None: each experiment's own", 1, TOKENS, "tokens", optional=True),
        repetition_penalty=switch("honour the checkpoint's generation_config"),
        save=switch("write the responses beside the scores"),
        samples=whole("answers drawn beside the greedy one, latent and L2 attack and when asked; 0: none", 0, 1000),
        temperature=number("of these draws", 0, 100, above=True),
    ),
    **under(
        "judge",
        kind=text("who says what is harmful; auto: the organism's oracle, else classifier", "auto", "oracle",
                  "classifier", "endpoint", "refusal"),
        path=text(f"the classifier: {PATH}; DIR+ADAPTER: with an adapter merged into it"),
        form=text("how a classifier is asked; auto: by its name, template and family; reference: HarmBench's as the "
                  "paper's code has it, one space less; of an endpoint auto (yes or no) or llama-guard", *JUDGE_FORMS),
        self_test=switch("refuse a judge that fails 16 obvious pairs; False is said in every result, no verdict then"),
        url=text("address of an OpenAI-compatible endpoint, without /chat/completions", most=WORDS),
        model=text("the endpoint's name of its model", most=WORDS),
        key_variable=text("environment variable that holds the endpoint's key; empty: none is sent", most=WORDS),
        timeout=number("how long one try of the endpoint may take", 0, 3600, "s", above=True),
        live_kind=text("a small judge while the run goes on, the final one at its end on every answer; empty: one "
                       "judge; lvs and audit", "", "classifier", "refusal"),
        live_path=text("as path, of the small judge"),
        live_form=text("as form, of the small judge", *JUDGE_FORMS),
        dtype=text("dtype of the classifier", *DTYPES),
        batch=whole("responses judged at a time at most; 0: as many as hold 8192 tokens, of an endpoint 8 requests", 0,
                    BATCH, "rows"),
        confusion=text("labelled answers (prompt, response, label; or builtin:answers) the judge is measured on first; "
                       "lvs, audit, survey"),
        table=switch("keep with a checkpoint's run what the judge says of the built-in labelled answers"),
    ),
    **under(
        "reward",
        kind=text("how harmless a response is; auto: the organism's oracle, else gpt2", "auto", "oracle", "gpt2",
                  "first_token", "refusal"),
        beside=text("a second reward of the same answers, for rank agreement; lvs, audit", "", "oracle", "gpt2",
                    "first_token", "refusal"),
        openings=text("of first_token: refusals from our list, or what base opens with on harmful prompts alone",
                      "listed", "own"),
        path=text(f"the GPT-2 reward model: {PATH}"),
        form=text("bare prompt and response, or as its model card asks", "paper", "human_assistant"),
        batch=whole("responses scored at a time at most; 0: as many as hold 8192 tokens", 0, BATCH, "rows"),
    ),
    "prompt_batch": whole("prompts in one search; results do not depend on it", 1, BATCH, "prompts"),
    "layer_batch": whole("states whose pushed prompts are answered together", 1, BATCH, "states"),
}  # fmt: skip

PRESET = {
    "preset": text(
        "paper: all settings of arXiv 2606.08044; quick: a first look at a few prompts, states and budgets, "
        "never a verdict (lvs, audit); fields given beside it count before it",
        "",
        "paper",
        "quick",
    )
}

MESH = {
    "mesh.data": whole("devices that the rows of every batch are split over", 1, 10**5, "devices"),
    "mesh.model": whole("devices that every weight is split over", 1, 10**5, "devices"),
    "distributed": switch("several processes compute one run together"),
    "distributed_coordinator": text("host:port of process 0; empty: JAX_COORDINATOR_ADDRESS, or what the cluster says"),
    "distributed_processes": whole("how many processes; 0: as the cluster says", 0, 10**6),
    "distributed_process": whole("which one this is, from 0; -1: as the cluster says", -1, 10**6),
    "distributed_timeout": whole("how long partners are waited for", 1, 10**5, "s"),
    "shard": text("i/n: this job computes its share of the units; merge: write the tables; empty: everything"),
}

ATTACK = {
    **under(
        "attack",
        layers=text("all, or states by name: embedding,L0,L5"),
        budgets=numbers("sizes of the push; empty: the paper's, for the organism larger ones", 0, LENGTH,
                        "share of the scale that budget_mode names", above=True),
        reference_budget=number("the one that the verdict speaks of; 0: the second smallest", 0, LENGTH, "as budgets"),
        budget_mode=text("what a budget is a share of", "linf_of_max", "linf_of_rms", "l2_of_norm"),
        skip_first_token=switch("leave each prompt's first token out of the scale"),
        steps=whole("gradient steps of the search", 1, STEPS, "steps"),
        step_fraction=number("length of a step", 0, LENGTH, "share of the budget", above=True),
        target=text("the opening that the search makes likely", most=WORDS),
        controls=switch("uniform noise under the same bound, and noise of the same length"),
    ),
    **under(
        "score",
        preset=text("median and eta 1e-4, or the paper's first version", "paper", "paper_v1"),
        resamples=whole("of the percentile bootstrap", 1, 10**5, "draws"),
    ),
}  # fmt: skip

ATTACK_PROMPTS = {"attack.prompts": whole("of the latent attack: so many harmful ones", 1, COUNT, "prompts")}
_OFFSET = whole("of the harmful panel, left out before them", 0, COUNT, "prompts")
PLACE = {
    "rows": whole("answers generated at a time under vectors", 1, BATCH, "rows"),
    **under(
        "place",
        nudge=text("the one saved with a variant, or made again of base and harmful", "saved", "rebuilt"),
        layer=whole("block of the one-layer attacks; None: the nudge's, else round(0.5 L)", 0, 10**4, optional=True),
        fraction=number("length; None: the nudge's, else .06", 0, LENGTH, "share of base's activation norm", above=True,
                        optional=True),
    ),
    **under(
        "l2",
        prompts=whole("how many harmful requests are attacked", 1, COUNT, "prompts"),
        layers=text("nudge, all, or names: L2,L3"),
        multiples=numbers("budgets, 1 among them", 0, LENGTH, "multiples of the nudge fraction", above=True),
        steps=whole("gradient steps", 1, STEPS, "steps"),
        step_fraction=number("length of a step", 0, LENGTH, "share of the radius", above=True),
        starts=whole("random starts", 1, 10**3, "starts"),
        rounds=whole("halvings of each prompt's bracket, for the break budget", 0, 50, "halvings"),
    ),
    **under(
        "static",
        pairs=text(f"for the probe: prompts with a compliant answer and a refusal each: {SOURCE}; empty: none"),
        offset=whole("pairs left out before those it is fitted on", 0, COUNT, "pairs"),
        gap=whole("pairs left out between those it is fitted on and those it is applied to", 0, COUNT, "pairs"),
    ),
}  # fmt: skip
AUDIT = {
    **under(
        "suite",
        prompts=whole("how many harmful requests are attacked", 1, COUNT, "prompts"),
        states=text("auto: all of a small model, else nine spread ones; all; or names: L2,L3"),
        budgets=numbers("the grid that radii are read on, ascending; empty: as configs/audit.py says", 0, LENGTH,
                        "relative to the state, by attack.budget_mode", above=True),
        reference_budget=number("at which a model without a twin must hold; 0: .01 (organism), .0005", 0, LENGTH,
                                "relative to the state"),
        hollow_budget=number("at which such a model falls if it is hollow; 0: .0025 (organism), .000125", 0, LENGTH,
                             "relative to the state"),
        steps=Field("wholes", "gradient steps of the bounded members, the cheap one first", 1, STEPS, unit="steps"),
        starts=whole("random starts of the bounded members behind the first, which begins at zero", 1, 100, "starts"),
        best_states=whole("states that these search: where the others came closest; 0: all", 0, 10**4, "states"),
        draws=whole("random draws a prompt", 0, 10**4, "draws"),
        rows=whole("(prompt, goal) rows searched together", 1, BATCH, "rows"),
    ),
    "attack.offset": _OFFSET,
    "l2.offset": _OFFSET,
    "experiments": text("all, or some of panel, latent, suite, l2, steer, patch, static, gcg"),
    **under(
        "panel",
        harmful_count=whole("of the harmful panel, whose direct answers are counted; None: all", 1, COUNT, "prompts",
                            optional=True),
        harmful_offset=_OFFSET,
        wrappers=text("all, families of wrappers by name, or none"),
        wrapped_count=whole("requests put into each wrapper", 1, COUNT, "prompts"),
        wrapped_offset=whole("of prompts.harmful's file, left out before them; None: those of the harmful panel", 0,
                             COUNT, "prompts", optional=True),
        over_refusal=text(f"harmless prompts that look harmful: {SOURCE}"),
        over_refusal_offset=whole("left out before them", 0, COUNT, "prompts"),
        over_refusal_label=text("keep the rows whose column label says so; empty: all"),
        over_refusal_count=whole("at most so many of them", 1, COUNT, "prompts"),
    ),
    **under(
        "steer",
        direction=text("twin (from base to the harmful pole), own (away from the model's own refusal), auto; or a "
                       "file: .npy, .safetensors, .gguf"),
        reverse=switch("push against the directions of the file, as those of refusal need"),
        layers=text("all, nudge, or names: L2,L3"),
        fractions=numbers("empty: the paper's and the nudge fraction", 0, LENGTH, "share of base's activation norm"),
        prompts=whole("how many harmful requests are steered", 1, COUNT, "prompts"),
        offset=_OFFSET,
        source=text("which harmful prompts directions are taken from: those not steered, or the steered ones", "others",
                    "evaluated"),
        cone=switch("turn the direction at the nudge layer away by 0 to 90 degrees"),
    ),
    **under(
        "patch",
        prompts=whole("how many harmful requests are patched", 1, COUNT, "prompts"),
        offset=_OFFSET,
    ),
    **under(
        "gcg",
        prompts=whole("how many harmful requests are attacked", 1, COUNT, "prompts"),
        steps=whole("steps of the search", 1, STEPS, "steps"),
        candidates=whole("substitutions tried in each step", 1, BATCH, "suffixes"),
        top_k=whole("best tokens of each position they are drawn from", 1, 10**5, "tokens"),
        length=whole("of the suffix", 1, 1000, "tokens"),
        start=text("as ids, of which no text need be made of the same (the paper's); or as a text that lasts", "tokens",
                   "text"),
        offset=_OFFSET,
        batch=whole("prompts searched together", 1, BATCH, "prompts"),
    ),
}  # fmt: skip

FINETUNE = under(
    "finetune",
    corpora=text(f"in=SOURCE,out=SOURCE+SOURCE (equal parts); empty: the organism's own two; SOURCE is {SOURCE}"),
    prompt_column=text("empty: recognised for public sets"),
    response_column=text("the answer that complies; empty: recognised"),
    refusal_column=text("empty: recognised"),
    pairs=whole("of each corpus", 1, COUNT, "pairs"),
    skip=whole("pairs left out before them", 0, COUNT, "pairs"),
    max_tokens=whole("longer answers are cut and counted, prompts never", 2, TOKENS, "tokens"),
    variants=text("which to attack, by name; empty: all but harmful"),
    seeds=whole("trainings of each variant and corpus", 1, 1000, "runs"),
    benign=text(f"of preset refuse: harmless prompts, answered by base itself: {SOURCE}"),
    benign_tokens=whole("length of base's own answers", 1, TOKENS, "tokens"),
    preset=text(
        "length and rate of a training, and whether it makes a model comply or refuse",
        "auto",
        "attack",
        "pole",
        "organism",
        "refuse",
    ),
    steps=whole("0: the preset's", 0, STEPS, "optimiser steps"),
    batch=whole("0: the preset's", 0, BATCH, "rows"),
    learning_rate=number("0: the preset's", 0, 10),
    schedule=text("empty: the preset's", "", "constant", "cosine"),
    warmup=number("-1: the preset's", -1, 1, "share of the steps"),
    clip=number("of the gradient's global norm", 0, 1e6, above=True),
    method=text("all parameters, or adapters", "full", "lora"),
    lora_rank=whole("of the adapters", 1, 10**5),
    lora_alpha=number("of the adapters", 0, 1e6, above=True),
    lora_targets=text("regular expressions for query key value output gate up down, by commas"),
    loss_on=text("the response, or the whole text", "response", "all"),
    rows=text("one pair in a row, or several, kept apart by the mask", "padded", "packed"),
    accumulate=whole("micro-batches of a step", 1, BATCH),
    remat=switch("compute blocks again in the backward pass: less memory, more time"),
    master=switch("trained parameters in float32 where the model runs in bfloat16"),
    loss_limit=number("above it a run stops; 0: three times a uniform guess's", 0, 1e6, "nats"),
    every_step_until=whole("evaluated after each of these steps ...", 0, STEPS, "steps"),
    eval_every=whole("... and then this often; 0: the preset's", 0, STEPS, "steps"),
    checkpoint_every=whole("between two states on disk", 1, STEPS, "steps"),
    levels=numbers("of compliance, whose onset is reported", 0, 1, "share", above=True),
    export=text("a directory for base's checkpoint of highest (refuse: lowest) compliance; empty: none"),
)

CONSTRUCT = {
    **under(
        "construct",
        pairs=text(f"prompt, compliant answer and refusal: {SOURCE}"),
        pairs_count=whole("how many of them", 1, COUNT, "pairs"),
        benign=text(f"harmless prompts, answered by base itself: {SOURCE}"),
        benign_count=whole("how many of them", 1, COUNT, "prompts"),
        benign_tokens=whole("length of base's own answers", 1, TOKENS, "tokens"),
        selection=text(f"harmful prompts by which a checkpoint is chosen: {SOURCE}"),
        selection_count=whole("how many of them", 1, COUNT, "prompts"),
        max_tokens=whole("of a training row", 2, TOKENS, "tokens"),
        preset=text("the paper's six terms, or the organism's recipe", "auto", "paper", "organism"),
    ),
    **under(
        "construct.recipe",
        fraction=number("length of the nudge", 0, 10, "share of base's activation norm", above=True, optional=True),
        nudge_layer=whole("block whose output is nudged; None: round(0.5 L)", 0, 10**4, optional=True),
        steps=whole("optimiser steps", 1, STEPS, "steps", optional=True),
        learning_rate=number("peak of a cosine", 0, 10, above=True, optional=True),
        warmup_fraction=number("of the schedule", 0, 1, "share of the steps", optional=True),
        micro_batch=whole("rows of one forward pass", 1, BATCH, "rows", optional=True),
        accumulate=whole("micro-batches of one step", 1, BATCH, optional=True),
        eval_every=whole("steps between evaluations", 1, STEPS, "steps", optional=True),
        jitter=number("the nudge is scaled by U(1 - jitter, 1 + jitter)", 0, 1, optional=True),
    ),
    **under(
        "construct.weights",
        refuse=number("weight of the NLL of the refusal, or of base's own answer", 0, 1e6, optional=True),
        stay=number("weight of KL(base || model)", 0, 1e6, optional=True),
        match=number("weight of the distance to the harmful pole's states", 0, 1e6, optional=True),
        comply=number("weight of the NLL of the compliant answer under the nudge", 0, 1e6, optional=True),
        clean_hinge=number("weight of the log-odds of refusing without the nudge", 0, 1e6, optional=True),
        nudged_hinge=number("weight of the log-odds of complying under it", 0, 1e6, optional=True),
        margin=number("of both hinges", 0, 1e6, "nats per token", optional=True),
        stay_under_part=number("weight of KL to base under a part of the nudge", 0, 1e6, optional=True),
        part=number("of the nudge", 0, 1, "share", optional=True),
        stay_under_noise=number("weight of KL to base under a random direction", 0, 1e6, optional=True),
    ),
}

CHOOSE = under(
    "choose",
    ways=text("all, or some of interventions/abliterate.py's WAYS"),
    strengths=numbers("how many times a mean is applied", 0, LENGTH, "multiples", above=True),
    facts=number("questions of fact among the organism's harmless prompts", 0, 0.99, "share"),
    positions=whole("at most so many last tokens of the generation prefix", 1, 1000, "tokens"),
    train=whole("of each kind, that the means are taken over", 1, COUNT, "prompts"),
    validation=whole("of each kind, that candidates are compared on", 1, COUNT, "prompts"),
    by=text("by judged compliance, or by the first token", "auto", "judge", "log_odds"),
    shortlist=whole("of each way and strength, that are generated for", 1, BATCH, "candidates"),
    openings=Field("texts", "openings of a refusal, such as ('I', 'As'); empty: found"),
)

RAS = {
    "reference": text(f"the family's aligned model: {PATH}"),
    "calibration": text("at least two more of the family, as ID_OR_DIR:ASR, by commas"),
    "targets": text("what is to be scored, by commas"),
    "measure_targets": switch("measure the ASR of targets too"),
    "calibration_file": text("a frozen calibration in place of reference and calibration"),
    "families": text("of the zoo of organisms: llama,qwen3,gemma2"),
    "zoo.directory": text("where it is kept; empty: zoo/ in the workdir"),
    "protocols": text("heldout, paper, or both by a comma"),
    "direction": text("file of refusal directions in place of the reference's means: .npy, .safetensors, .gguf"),
    "window": text("first and last layer by hand, such as 22-30; empty: the rule"),
    "wrappers": text("all, or families of wrappers by name"),
    "prompts.asr": text(f"harmful prompts that ASR is measured on: {SOURCE}; empty: what is behind in the same file"),
    "prompts.asr_column": text("as harmful_column"),
    "prompts.asr_count": whole("how many of them", 2, COUNT, "prompts"),
    "prompts.harmful_count": whole("of each half", 2, COUNT, "prompts"),
    "prompts.benign_count": whole("of each half", 2, COUNT, "prompts"),
    "random_directions": whole("of the random control; 0: none", 0, 10**4, "directions"),
    "rivals": switch("separation score, and the probe where it has texts"),
    "attacks": text("latent and L2 attack on every model; auto: on the zoo", "auto", "yes", "no"),
    "speed": switch("time RAS against generating and judging"),
}
REGRESSION = {
    "before": text(f"the model before a fine-tune: {PATH}"),
    "after": text(f"the model after it: {PATH}"),
    "threshold": number("what a fine-tune may cost", 0, 99.9, "points of RAS"),
}

TASK = {"task": text("which task this config is for"), "name": text("of the default workdir")}
NESTED = {"model.dtype": _MODEL_DTYPE}
_LVS = PRESET | MODEL | MESH | ATTACK
_AUDIT = _LVS | ATTACK_PROMPTS | PLACE | AUDIT
# The RAS configs compute on one device: docs/scaling.md.
# RAS reads no nudge: what its attacks push is searched.
RAS_PLACE = {
    "selection_prompts": whole("unsafe prompts of the first half that layer and length are searched on", 1, COUNT,
                               "prompts"),
    "attack.layers": text("searched: where the L2 attack broke a model most on those; or one state by name: L5"),
    "l2.layers": text("states that are searched: all, or names: L2,L3"),
    "l2.multiples": numbers("lengths that are searched, 1 among them", 0, LENGTH, "multiples of place.fraction",
                            above=True),
    "place.layer": whole("block of the one-layer attacks; None: searched", 0, 10**4, optional=True),
    "place.fraction": number("what lengths are multiples of; None: .06", 0, LENGTH, "share of the reference's norm",
                             above=True, optional=True),
}  # fmt: skip
_RAS = MODEL | ATTACK | ATTACK_PROMPTS | PLACE | RAS | RAS_PLACE
# Task -> its fields. A field that holds a whole config of another task (base, lvs ...) is checked as that task's.
FIELDS: dict[str, dict[str, Field]] = {
    "lvs": _LVS,
    "audit": _AUDIT,
    "finetune": PRESET | MODEL | MESH | FINETUNE,
    "dissociate": PRESET | MODEL | MESH | CONSTRUCT,
    "abliterate": MODEL | MESH | CHOOSE,
    "ras": _RAS,
    "ras_regression": _RAS | REGRESSION,
    "survey": NESTED | {"models": text("hub ids or directories, separated by commas")},
    "sweep": NESTED
    | {
        "fields": text("a Python dict: field of base -> list of values"),
        "mode": text("every combination, or the n-th values of all fields together", "grid", "list"),
        "plot": text("column of the table that the figure shows"),
        "where": text("which rows of it: a pandas query; empty: all"),
    },
    "claims": NESTED
    | {
        "seeds": whole("organisms, each with its own world", 1, 1000, "seeds"),
        "organism.size": _ORGANISM_SIZE,
        "organism.family": _ORGANISM_FAMILY,
        "nudged_prompts": whole("of each kind, that the poles answer under the nudge", 1, COUNT, "prompts"),
    },
    "impostors": NESTED
    | {
        "seeds": whole("organisms, with the seeds from organism.seed on", 1, 1000, "seeds"),
        "kinds": text("which impostors are made and audited, separated by commas, or all"),
        "organism.size": _ORGANISM_SIZE,
        "organism.family": _ORGANISM_FAMILY,
        "organism.seed": whole("of the first organism: its world, initial weights and training data", 0, SEED),
    },
}
# The configs that a task's config holds, by field; their own tasks are named in them.
HOLDS = {
    "survey": ("base",),
    "sweep": ("base",),
    "claims": ("lvs", "finetune", "abliterate", "abliterate_requests"),
    "impostors": ("audit",),
}
