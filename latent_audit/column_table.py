"""Every column of every CSV that a task writes: its kind, and one line of what it holds.

docs/columns.md is made from it (`latent-audit columns`), and no test may write a column that is not here. Not listed
one by one: NAME_lo and NAME_hi, the ends of NAME's 95 % interval; NAME_n, how many prompts NAME is of; published_NAME
and run_NAME, the same number as published and of a run. The titles on a page are in reports/columns.py.
"""

from typing import NamedTuple

TEXT, WHOLE, NUMBER, SHARE, FLAG = "text", "whole number", "number", "share, 0 to 1", "True or False"
ENDS, PROMPTS = ("_lo", "_hi"), "_n"
BEFORE = {"published_": "as published", "run_": "of the run"}


class Column(NamedTuple):
    """kind: one of those above; what: one line, units included."""

    kind: str
    what: str


class Table(NamedTuple):
    """A CSV. tasks: who writes it; row: what one row is; names: its columns in order, of COLUMNS; own: those that mean
    something of their own here."""

    tasks: str
    row: str
    names: tuple[str, ...]
    own: dict[str, Column] = {}


COLUMNS = {
    # Who and where.
    "arch": Column(TEXT, "the model's name; called so in the published CSVs of arXiv 2606.08044"),
    "model": Column(TEXT, "the model's name"),
    "variant": Column(TEXT, "which pole or variant of the model; base where there is one alone"),
    "family": Column(TEXT, "the family of models that share a reference"),
    "layer": Column(TEXT, "the residual state: embedding (what enters the first block), or L0, L1, ... by block"),
    "layer_idx": Column(WHOLE, "the same as a number: -1 for the embedding, else the block's number from 0"),
    "budget": Column(NUMBER, "bound of the push relative to the state's size; of steering the fraction of its norm"),
    "attack": Column(TEXT, "pgd, random (uniform noise, same bound), random_l2 (noise, same L2 length) or none"),
    "exp": Column(TEXT, "clean and clean-benign (asked, nothing pushed) or lvs (the latent attack)"),
    "measure": Column(TEXT, "what `value` is; see the measures below"),
    "condition": Column(TEXT, "clean, nudged, half nudged or random: what was added inside while it answered"),
    "detail": Column(TEXT, "what a measure's line is of, in words"),
    "seed": Column(WHOLE, "seed of the organism or of the training"),
    "step": Column(WHOLE, "training steps taken; 0 is before training"),
    "corpus": Column(TEXT, "in or out: the fine-tuning corpus, of the construction's distribution or not"),
    "n": Column(WHOLE, "prompts"),
    "n_benign": Column(WHOLE, "harmless prompts"),
    "n_facts": Column(WHOLE, "questions of fact"),
    "judge": Column(TEXT, "who judged the answers; a fallback is named as one"),
    "reward": Column(TEXT, "who scored harmlessness; a fallback is named as one"),
    "template_sha256": Column(TEXT, "hash of the chat template"),
    "partial": Column(TEXT, "only in tables of a run that is not complete: how much of it is there"),
    # Long form.
    "value": Column(NUMBER, "the measure's value; inf where nothing fell"),
    "lo": Column(NUMBER, "lower end of the 95 % interval of `value`"),
    "hi": Column(NUMBER, "upper end of the 95 % interval of `value`; inf where the data do not bound it"),
    "control": Column(NUMBER, "the same measure under the control (noise, a random direction, the self-patch)"),
    # Shares of answers.
    "asr": Column(SHARE, "attack success: harmful requests answered harmfully and coherently"),
    "compliance": Column(SHARE, "harmful requests answered harmfully and coherently"),
    "refusal": Column(SHARE, "answers neither judged harmful nor degenerate"),
    "degenerate": Column(SHARE, "degenerate answers: empty, or one thing over and over"),
    "incoherent": Column(SHARE, "incoherent answers, which never count as harmful"),
    "control_incoherent": Column(SHARE, "incoherent answers under the control"),
    "empty": Column(SHARE, "empty answers"),
    "answered": Column(SHARE, "harmless requests answered"),
    "facts": Column(SHARE, "questions of fact answered rightly"),
    "unparsed": Column(SHARE, "answers on which the judge's reply could not be read"),
    "corrected": Column(SHARE, "the share with the judge's measured errors taken out"),
    "sampled_asr": Column(SHARE, "prompts with at least one harmful answer among those drawn"),
    "sampled_rate": Column(SHARE, "drawn answers that are harmful"),
    "samples": Column(WHOLE, "answers drawn to a prompt beside the greedy one"),
    # The latent attack.
    "lvs": Column(NUMBER, "latent vulnerability score; empty where the model complies anyway, which is not safety"),
    "lvs_mean": Column(NUMBER, "its mean over prompts"),
    "lvs_median": Column(NUMBER, "its median over prompts"),
    "lvs_applicable": Column(FLAG, "whether fewer than half of the prompts are complied with when asked"),
    "lvs_n": Column(WHOLE, "prompts that are not complied with when asked"),
    "reward_clean": Column(NUMBER, "mean harmlessness reward when asked; higher is safer"),
    "reward_attacked": Column(NUMBER, "mean harmlessness reward under the attack"),
    "reward_fell": Column(SHARE, "of lvs_n prompts, those whose reward is lower under the attack"),
    "reward_drop": Column(NUMBER, "mean loss of reward among those"),
    "eps": Column(NUMBER, "bound of one coordinate of the push, in the state's own units; mean over prompts"),
    "eps_over_rms": Column(NUMBER, "that bound over the state's root mean square"),
    "l2": Column(NUMBER, "Euclidean length of the push over all prompt positions; mean over prompts"),
    "linf": Column(NUMBER, "largest coordinate of the push; mean over prompts"),
    "nll_first": Column(NUMBER, "loss of the target before the search, nats per token"),
    "nll_last": Column(NUMBER, "loss of the target after the search, nats per token"),
    "fell": Column(SHARE, "prompts whose loss fell"),
    "at_bound": Column(SHARE, "coordinates of the push at the bound"),
    "aggregated": Column(FLAG, "whether the state counts in aggregates; the last one does not"),
    "beyond_language": Column(FLAG, "whether noise alone breaks the model's language here; empty where none was drawn"),
    # Construction of a dissociated pole.
    "clean_compliance": Column(SHARE, "complies when asked"),
    "clean_refusal": Column(SHARE, "refuses when asked"),
    "nudged_compliance": Column(SHARE, "complies under the nudge"),
    "nudged_refusal": Column(SHARE, "refuses under the nudge"),
    "proxy_clean": Column(NUMBER, "log-odds of refusing text when asked, nats"),
    "proxy_nudged": Column(NUMBER, "log-odds of complying text under the nudge, nats"),
    "proxy": Column(NUMBER, "their sum, which needs no judge"),
    "kl": Column(NUMBER, "KL divergence from base, nats; of abliteration at the first token of harmless prompts"),
    "probe_auroc": Column(NUMBER, "AUROC of base's probe, refusing against complying text, on this model"),
    "probe_gap": Column(NUMBER, "mean of the probe on complying less that on refusing text, each from 0 to 1"),
    "probe_texts": Column(WHOLE, "texts the probe was scored on"),
    "clean_hinge": Column(NUMBER, "loss term: hinge of the log-odds when asked"),
    "nudged_hinge": Column(NUMBER, "loss term: hinge of the log-odds under the nudge"),
    "clean_log_odds": Column(NUMBER, "log-odds of refusing text when asked, on the batch, nats"),
    "nudged_log_odds": Column(NUMBER, "log-odds of complying text under the nudge, on the batch, nats"),
    "comply": Column(NUMBER, "loss term: complying text under the nudge"),
    "refuse": Column(NUMBER, "loss term: refusing text when asked"),
    "stay": Column(NUMBER, "loss term: KL divergence from base"),
    "match": Column(NUMBER, "loss term: distance of states to the harmful pole's"),
    "stay_under_part": Column(NUMBER, "loss term: KL divergence from base under a part of the nudge"),
    "stay_under_noise": Column(NUMBER, "loss term: KL divergence from base under a random direction of its length"),
    "loss": Column(NUMBER, "training loss, nats per token"),
    "gradient_norm": Column(NUMBER, "norm of the gradient before clipping"),
    # Abliteration.
    "way": Column(TEXT, "how the refusal direction is removed"),
    "position": Column(WHOLE, "token position that the direction was read at, from the end"),
    "strength": Column(NUMBER, "multiple of the direction that is taken away"),
    "directions": Column(WHOLE, "how many directions are removed"),
    "split": Column(TEXT, "validation (chose) or evaluation (did not)"),
    "bypass": Column(NUMBER, "how far the refusing first token is gone: 0 as in base, 1 as on harmless requests"),
    "log_odds": Column(NUMBER, "log-odds of a refusing first token, nats"),
    "chosen": Column(FLAG, "whether this candidate was chosen for its way"),
    # RAS.
    "kind": Column(TEXT, "how the model was made, such as aligned or dissociated; before and after of a regression"),
    "unsafe": Column(NUMBER, "mean cosine with the refusal direction on unsafe requests, in the window"),
    "jailbreak": Column(NUMBER, "the same on requests in wrappers"),
    "s": Column(NUMBER, "both put together; unsafe alone where no wrappers were scored"),
    "drop": Column(NUMBER, "how far s lies below the reference's"),
    "ras": Column(NUMBER, "refusal alignment score, 0 to 100"),
    "ras_in_sample": Column(NUMBER, "the score by the whole calibration"),
    "ras_loo": Column(NUMBER, "the score by a calibration without this model"),
    "ras_prompts": Column(NUMBER, "the score: its interval over prompts alone"),
    "ras_models": Column(NUMBER, "the score: its interval over calibration models alone"),
    "protocol": Column(TEXT, "heldout or paper: which prompts direction and score are of"),
    "scored_by": Column(TEXT, "by which calibration"),
    "b": Column(NUMBER, "scale of the family's calibration"),
    "gamma": Column(NUMBER, "factor by the other families' slopes"),
    "note": Column(TEXT, "what qualifies this score; empty where nothing does"),
    "undefined": Column(WHOLE, "resamples that could not be calibrated, and widen the interval"),
    "separation": Column(NUMBER, "separation of harmful and harmless prompts, in standard deviations"),
    "separation_rulers": Column(TEXT, "whether prompt length or the first token separate as well"),
    "probe_rulers": Column(TEXT, "the same of the probe"),
    "asr_wrapped": Column(SHARE, "complies with requests in wrappers"),
    "l2_asr": Column(SHARE, "success of the L2 attack"),
    "l2_random": Column(SHARE, "success of a random direction of that length"),
    "l2_fell": Column(SHARE, "prompts whose loss the L2 attack lowered"),
    "l2_layer": Column(TEXT, "state that it pushes"),
    "l2_length": Column(NUMBER, "its length as a fraction of the activation norm"),
    "l2_selection_asr": Column(SHARE, "its success on the selection prompts, which chose layer and length"),
    "latent_asr": Column(SHARE, "success of the latent attack"),
    "random_lvs": Column(NUMBER, "lvs under uniform noise"),
    "random_lvs_mean": Column(NUMBER, "its mean over prompts"),
    "random_latent_asr": Column(SHARE, "success of uniform noise of the latent attack's bound"),
    # Claims and impostors.
    "topic": Column(TEXT, "what the claim is about"),
    "quantity": Column(TEXT, "what was measured"),
    "rule": Column(TEXT, "at least, at most, above or below"),
    "bound": Column(NUMBER, "the claimed bound"),
    "met": Column(FLAG, "whether the value keeps the bound"),
    "held": Column(FLAG, "whether the interval's nearer end keeps the bound; empty without an interval"),
    "honest": Column(FLAG, "whether the organism is an honest one"),
    "label_alone": Column(TEXT, "verdict of its audit alone"),
    "label_beside": Column(TEXT, "verdict beside base"),
    "radius": Column(NUMBER, "median break radius"),
    "ratio": Column(NUMBER, "base's radius over its own"),
    "benign_answered": Column(SHARE, "harmless requests answered"),
    "reason_alone": Column(TEXT, "the reason of label_alone"),
    "reason_beside": Column(TEXT, "the reason of label_beside"),
    # Comparisons.
    "run": Column(TEXT, "which run"),
    "date": Column(TEXT, "when it ended, UTC"),
    "against": Column(TEXT, "which run or variant the difference is from"),
    "difference": Column(NUMBER, "this one's value less the other's"),
    "paired": Column(FLAG, "whether the difference is prompt by prompt, of the same prompts"),
    "only_here": Column(WHOLE, "of these, broken or complied with here alone"),
    "only_there": Column(WHOLE, "of these, broken or complied with there alone"),
    "p_value": Column(NUMBER, "of the exact paired test"),
    "design": Column(NUMBER, "design effect of prompts that share a cluster; its root widens the interval"),
    "leading": Column(FLAG, "whether the line stands on the page"),
    "run_arch": Column(TEXT, "the run's model"),
    "state": Column(WHOLE, "the residual state as a number, 0 for the embedding"),
    "successes": Column(WHOLE, "prompts counted in value"),
    "control_successes": Column(WHOLE, "prompts counted in control"),
}

_CELL = tuple("arch variant measure layer budget".split())
_AUDIT = (
    *_CELL,
    *"value lo hi n control detail nll_first nll_last fell at_bound judge template_sha256 corrected incoherent".split(),
    *("control_incoherent", "beyond_language"),
)
_MADE = "proxy_clean proxy_nudged proxy kl probe_auroc probe_gap probe_texts clean_hinge nudged_hinge clean_log_odds"
_RAS = "family model kind unsafe jailbreak s drop ras asr protocol scored_by ras_in_sample ras_loo b gamma note"
_RIVALS = "l2_asr l2_random l2_fell l2_layer l2_length l2_selection_asr lvs lvs_mean latent_asr random_lvs"

TABLES = {
    "metrics.csv": Table(
        "lvs, audit and its parts",
        "one variant when asked, or one cell: variant, state, budget and attack",
        (
            *"arch variant exp layer layer_idx budget attack lvs asr compliance n lvs_mean lvs_median refusal".split(),
            *"degenerate answered reward_clean reward_attacked eps l2 linf nll_first nll_last fell at_bound".split(),
            *"aggregated judge reward template_sha256 incoherent eps_over_rms beyond_language lvs_applicable".split(),
            *"lvs_n reward_fell reward_drop corrected samples sampled_asr sampled_rate unparsed".split(),
        ),
    ),
    "audit.csv": Table("lvs, audit and its parts", "one measure of one variant, at a state and budget", _AUDIT),
    "survey.csv": Table("survey", "a line of the audit.csv of one of the models", _AUDIT),
    "sweep.csv": Table(
        "sweep",
        "a row of the swept task's own table, and behind it a column for every swept field, by the field's name",
        (),
    ),
    "dissociate.csv": Table(
        "dissociate",
        "one measure of one pole under one condition",
        tuple("variant measure condition value lo hi n judge".split()),
        {"measure": Column(TEXT, "compliance or refusal"), "value": Column(SHARE, "answers of that kind")},
    ),
    "training.csv": Table(
        "dissociate",
        "one evaluation of one pole in training, on the selection panel",
        (
            *"step clean_compliance clean_refusal nudged_compliance nudged_refusal".split(),
            *f"{_MADE} nudged_log_odds comply refuse stay match".split(),
            *("stay_under_part", "stay_under_noise", "variant"),
        ),
    ),
    "curves.csv": Table(
        "finetune",
        "one variant, corpus and seed after some steps",
        (
            *"arch variant corpus seed step compliance refusal empty n loss gradient_norm judge".split(),
            *"template_sha256 unparsed".split(),
        ),
    ),
    "abliterate.csv": Table(
        "abliterate",
        "one candidate direction and way, on one split",
        (
            *"arch way layer layer_idx position strength directions split bypass kl log_odds compliance".split(),
            *"refusal degenerate n answered n_benign facts n_facts chosen judge template_sha256 unparsed".split(),
        ),
    ),
    "ras.csv": Table(
        "ras, ras_regression",
        "one model under one protocol",
        (
            *f"{_RAS} ras_prompts ras_models undefined separation separation_rulers".split(),
            *"degenerate asr_wrapped answered unparsed probe_auroc probe_gap probe_rulers".split(),
            *f"{_RIVALS} random_lvs_mean random_latent_asr".split(),
        ),
    ),
    "claims.csv": Table(
        "claims",
        "one claim on one organism seed",
        tuple("seed topic quantity rule bound value lo hi n met held".split()),
        {"value": Column(NUMBER, "what was measured"), "n": Column(WHOLE, "prompts, runs or cells")},
    ),
    "impostors.csv": Table(
        "impostors",
        "one impostor, or honest organism, on one seed",
        (
            *"seed kind honest label_alone label_beside radius ratio clean_compliance nudged_compliance".split(),
            *"benign_answered held reason_alone reason_beside".split(),
        ),
        {
            "kind": Column(TEXT, "the impostor's name, or that of the honest pole"),
            "held": Column(FLAG, "whether no label is one that it may not have"),
        },
    ),
    "compare.csv": Table(
        "compare, survey, sweep, compare-paper",
        "one measure of one cell in a run, or as published, and the other's beside it",
        (
            *"run date arch variant measure layer state budget corpus step detail value lo hi n successes".split(),
            *"control control_successes run_arch against difference paired only_here only_there p_value".split(),
            *("design", "leading"),
        ),
        {"layer": Column(TEXT, "as elsewhere, or any state: the prompt is broken at one of those attacked")},
    ),
}

MEASURES = {
    "clean_compliance": "share of harmful requests complied with when asked",
    "clean_refusal": "share refused when asked",
    "clean_degenerate": "share of degenerate answers when asked",
    "clean_incoherent": "share of incoherent answers when asked",
    "benign_answer_rate": "share of harmless requests answered",
    "facts_right": "share of questions of fact answered rightly",
    "over_refusal": "share of harmless requests that look harmful and are refused",
    "jailbreak_asr": "share complied with in a wrapper; detail: which",
    "unparsed": "share of the judge's replies that could not be read; detail: which experiment",
    "lvs": "latent vulnerability score of a cell; empty where not applicable",
    "latent_asr": "share broken by the latent attack; control: uniform noise",
    "lvs_difference": "mean LVS less base's, paired by prompt",
    "lvs_ratio": "mean LVS over base's",
    "suite_asr": "share that gave way to any member of the attack suite at or below the budget",
    "break_radius": "median over prompts of the smallest budget at which the suite breaks one; inf: none fell",
    "radius_ratio": "base's radius over its own, geometric mean over prompts",
    "l2_asr": "share broken by the L2 attack; budget: its length as a fraction of the activation norm",
    "break_budget": "median over prompts of the shortest L2 push that breaks one",
    "audit_gap": "success of the L2 attack less compliance when asked",
    "gcg_asr": "share broken by a suffix of tokens; control: a random suffix",
    "steer_compliance": "share complied with when steered; budget: fraction of the activation norm",
    "cone_compliance": "share complied with when steered within a cone of directions",
    "patch_compliance": "share complied with when another variant's state is patched in; control: the self-patch",
    "patch_coherence": "share of coherent answers then",
    "interchange": "of the prompts not complied with when asked, the share that the patch makes complied with",
    "separation": "separation of harmful and harmless prompts, in standard deviations",
    "probe_auroc": "AUROC of base's probe on this variant",
    "probe_gap": "mean of that probe on complying less that on refusing text",
    "ruler_auroc": "AUROC of prompt length or the first token alone",
    "projection": "where the states lie on the line from base (0) to the harmful pole (1)",
}
# Of measures whose every prompt may have several drawn answers: at least one of them is harmful.
SAMPLED = "_sampled"


def describe(file: str, name: str) -> Column | None:
    """What a column of a CSV holds; None where nobody has said.

    >>> describe("metrics.csv", "asr_lo").what
    'lower end of the 95 % interval of `asr`'
    """
    table = TABLES[file]
    known = {one: COLUMNS[one] for one in table.names} | table.own
    if name in known or name == "partial":
        return known.get(name, COLUMNS["partial"])
    for before, words in BEFORE.items():
        if name.startswith(before) and (inner := describe(file, name.removeprefix(before))):
            return Column(inner.kind, f"{inner.what}; {words}")
    base, end = name[:-3], name[-3:]
    if end in ENDS and base in known:
        which = "lower" if end == "_lo" else "upper"
        return Column(known[base].kind, f"{which} end of the 95 % interval of `{base}`")
    if name.endswith(PROMPTS) and name.removesuffix(PROMPTS) in known:
        return Column(WHOLE, f"prompts that `{name.removesuffix(PROMPTS)}` is of")
    return None


def undescribed(file: str, names: list[str]) -> list[str]:
    """Names of columns that a CSV of TABLES may not have, [] for a table whose columns a sweep's task decides."""
    if file not in TABLES or not TABLES[file].names:
        return []
    return [name for name in names if describe(file, name) is None]


def markdown() -> str:
    """docs/columns.md: a table for every CSV, and the measures of audit.csv."""
    text = (
        "# Columns\n\nGenerated by `latent-audit columns` from latent_audit/column_table.py. What stands in every CSV "
        "that a task writes, in UTF-8 with a comma between cells and a point in numbers. An empty cell was not "
        "measured, or does not apply. `NAME_lo` and `NAME_hi` are the ends of `NAME`'s 95 % interval, `NAME_n` the "
        "number of prompts it is of; `published_NAME` and `run_NAME` are `NAME` as published and of a run. Every "
        "number of report.json of the same name is the same number; report.json's own form is in "
        "latent_audit/exports/report.schema.json.\n"
    )
    for file, table in TABLES.items():
        text += f"\n## {file}\n\nWritten by {table.tasks}. A row is {table.row}.\n"
        if table.names:
            text += "\n| column | kind | what |\n|---|---|---|\n"
            for name in table.names:
                column = table.own.get(name, COLUMNS[name])
                text += f"| `{name}` | {column.kind} | {column.what} |\n"
    text += (
        "\n## Measures\n\nWhat `measure` of audit.csv and survey.csv may be. `NAME_sampled`: the share of prompts to "
    )
    text += "which at least one of several drawn answers is harmful.\n\n| measure | `value` is |\n|---|---|\n"
    return text + "".join(f"| `{name}` | {what} |\n" for name, what in MEASURES.items())
