"""Fields that every task shares, with their defaults; each task's own config starts from these.

What a field may hold, and its unit: docs/fields.md, or `latent-audit fields TASK`.
"""

import ml_collections

from latent_audit.commandline.presets import PAPER


def base_config(task: str) -> ml_collections.ConfigDict:
    """The fields that say which model, which prompts, which judge; `task` picks the run function in main.py."""
    config = ml_collections.ConfigDict()
    config.task = task
    if task in PAPER:
        # paper: all settings of arXiv 2606.08044 (latent_audit/commandline/presets.py), before any other field is set.
        config.preset = ""
    # Every random number of a run is derived from this and from what it is drawn for.
    config.seed = 0

    # Which checkpoint. An empty path means the embedded organism, trained on the spot.
    config.model = model = ml_collections.ConfigDict()
    model.path = ""  # a directory, a .gguf file, or a Hugging Face hub id
    model.adapter = ""  # a PEFT LoRA adapter that is merged into it: a directory, or a hub id
    model.revision = ""  # branch, tag or commit of a hub id; empty is its main branch
    model.name = ""  # how it is called in tables; empty takes the last part of the path
    model.variants = ""  # further poles of the same model: "harmful=DIR,tuned=DIR+ADAPTER"
    # Of parameters and states: float32 or bfloat16. auto is float32 on a CPU and for the embedded organism, on an
    # accelerator what the checkpoint's files hold (quantised and float16 ones: bfloat16).
    model.dtype = "auto"

    # The embedded organism; reused from the workdir when the same one is there.
    config.organism = organism = ml_collections.ConfigDict()
    organism.size = "standard"  # standard (6 blocks, width 128) or small (4 blocks, width 96)
    organism.family = "llama"  # llama, qwen3 or gemma2: whose code path is audited
    organism.seed = 0  # of the world, the initial weights and the training data
    # Which of its poles are audited: base, harmful, dissociated (section 6 of docs/method.md), control (the same
    # training without the nudge). Missing ones are made.
    organism.poles = "base,dissociated,harmful"
    organism.directory = ""  # where it is kept; empty is organism/ in the workdir

    # How prompts are put to the model. Another template is another measurement: its hash is in every result.
    config.chat = chat = ml_collections.ConfigDict()
    chat.preset = "default"  # default: the checkpoint's own template; paper: bare markers, no system turn
    # Whose bare markers: auto is those of the checkpoint's own template; llama3, llama2, mistral, chatml or gemma are
    # preset paper in that style.
    chat.style = "auto"
    chat.template_file = ""  # a Jinja file to use instead
    chat.system = ""  # a system turn in front of every prompt; empty leaves the template its own
    chat.date = "26 Jul 2024"  # what templates that print today's date are told
    # False: no thought in front of an answer, and one that the template opens nonetheless is ended by closing. True, or
    # None for the template's default: responses are read behind </think>.
    chat.thinking = False
    chat.closing = r"\n</think>\n\n"  # \n is a line break, in chat.system too

    # Prompt sets: a file or a directory of files, "hub:owner/name[:config][:split]", a heretic configuration
    # (CONFIG.toml[:SECTION]), or "builtin:...". Which public sets are read as they are: docs/prompts.md.
    config.prompts = prompts = ml_collections.ConfigDict()
    prompts.harmful = "builtin:harmful"
    prompts.harmful_column = ""  # the column that holds the prompt; empty recognises the public sets
    prompts.harmful_offset = 0  # how many of the file are left out before them
    prompts.harmful_count = 24  # HarmBench standard 0-23 in arXiv 2606.08044
    prompts.benign = "builtin:harmless"
    prompts.benign_column = ""
    prompts.benign_offset = 0
    prompts.benign_count = 24
    # What is attacked (the prompt), what is judged (the behaviour, with its context) and what is aimed at (the target)
    # are three columns of the harmful prompts' source. Empty: recognised, or the prompt itself is judged.
    prompts.behavior_column = ""
    prompts.context_column = ""
    # Each prompt's own opening, which L2 attack, GCG and suite aim at; empty: the fixed one for all (arXiv 2606.08044).
    prompts.target_column = ""
    prompts.joined = ""  # HarmBench's behaviours and targets beside its test cases, joined by BehaviorID; by commas
    prompts.label_column = ""  # of both sources; empty recognises XSTest's, HarmBench's, WildJailbreak's, WildGuard's
    # Rows that are kept, by commas, such as unsafe and safe of XSTest. Empty: all, of HarmBench the standard ones.
    prompts.harmful_label = ""
    prompts.benign_label = ""
    # Harmful prompts of one kind are not independent: the column that says which are; empty recognises HarmBench's and
    # JailbreakBench's (the organism's share their noun).
    prompts.cluster_column = ""
    prompts.max_tokens = 1024  # a longer prompt is an error, never cut

    config.generation = generation = ml_collections.ConfigDict()
    generation.max_new_tokens = 128  # arXiv 2606.08044; the organism's answers end by themselves before 32
    generation.repetition_penalty = False  # True honours the checkpoint's generation_config
    generation.save = False  # True writes the responses beside the scores
    # Answers drawn beside the greedy one, per prompt and cell: how often at least one is harmful. 0 draws none.
    generation.samples = 0
    generation.temperature = 1.0  # of these draws

    # Who says what is harmful. auto: the organism's exact oracle, otherwise the paper's HarmBench classifier.
    config.judge = judge = ml_collections.ConfigDict()
    judge.kind = "auto"  # auto, oracle, classifier, endpoint, or refusal (phrases: a fallback, labelled as such)
    # Or cais/HarmBench-Mistral-7b-val-cls, meta-llama/Llama-Guard-3-8B, allenai/wildguard,
    # google/gemma-2b+qylu4156/strongreject-15k-v1, or a directory.
    judge.path = "cais/HarmBench-Llama-2-13b-cls"
    judge.form = "auto"  # as the checkpoint asks for; docs/judges.md has the others
    judge.self_test = True  # False: for tests of this program, whose judges are random; no verdict is given then
    judge.dtype = "bfloat16"
    judge.batch = 0  # at most so many questions at a time; 0: as many as hold 8192 tokens, of an endpoint 8 requests
    # Of kind endpoint, which is asked only where it is named. The key itself stands in the environment alone.
    judge.url = ""
    judge.model = ""
    judge.key_variable = ""
    judge.timeout = 60.0
    # Two tiers: this small judge while the run goes on, the one above at its end on every answer.
    judge.live_kind = ""
    judge.live_path = "cais/HarmBench-Mistral-7b-val-cls"
    judge.live_form = "auto"
    # Labelled answers (prompt, response, label true where harmful): the judge is run on them first, and shares stand
    # with its errors taken out beside the raw ones. A file, or builtin:answers-held-out. Empty: raw shares alone.
    judge.confusion = ""
    # What the judge says of 130 answers of our own to mild requests is kept with the run of a checkpoint, by kind.
    judge.table = True

    # How harmless a response is, on a continuous scale.
    config.reward = reward = ml_collections.ConfigDict()
    # auto, oracle, gpt2, first_token (the model's own: log-odds of a refusing first token, no other model needed), or
    # refusal (phrases: a fallback, labelled as such).
    reward.kind = "auto"
    reward.beside = ""  # a second kind, scored on the same answers: the report says how far the two agree in rank
    # Of first_token: listed refusals in five languages, or own: what base opens with on harmful prompts alone.
    reward.openings = "listed"
    reward.path = "Ray2333/gpt2-large-harmless-reward_model"
    reward.form = "paper"  # paper: bare prompt and response; human_assistant: as its model card asks
    reward.batch = 0  # as judge.batch

    # Where it is computed: on data x model devices. Rows of every batch are split over data (prompt_batch must be a
    # multiple of it), every weight over model. 1 x 1 is one device. See docs/scaling.md.
    config.mesh = ml_collections.ConfigDict({"data": 1, "model": 1})
    # Several processes, each with its own devices, compute one run together; all are started with the same command.
    config.distributed = False
    # For clusters that do not say these themselves (Slurm, Open MPI, Kubernetes and Cloud TPU do).
    config.distributed_coordinator = ""  # host:port of process 0; empty also takes JAX_COORDINATOR_ADDRESS
    config.distributed_processes = 0  # how many
    config.distributed_process = -1  # which one this is, from 0
    config.distributed_timeout = 300  # seconds that the others are waited for
    # i/n: of n independent jobs that share the workdir this is number i, from 0, and computes its share of the units.
    # merge: writes tables and report once all have ended (so does a start without shard). lvs, audit, finetune.
    config.shard = ""

    # How much is computed at a time. Results do not depend on it; memory and speed do.
    config.prompt_batch = 24  # prompts in one search
    config.layer_batch = 2  # residual states whose perturbed prompts are generated from together
    return config
