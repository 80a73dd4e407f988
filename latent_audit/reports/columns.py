"""A table as a page and a terminal show it: titles instead of column names, a value and its interval in one cell.

The CSV keeps every column under its own name; the legend says which titles stand for which.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from latent_audit import column_table, text
from latent_audit.text import counted, interval, percent

# A title may begin with a capital only where the name is one. Other names lose their underscores.
TITLES = {
    "arch": "model",
    "exp": "measured",
    "layer": "state",
    "layer_idx": "number of the block",
    "n": "prompts",
    "lvs": "LVS",
    "lvs_mean": "mean LVS",
    "lvs_median": "median LVS",
    "asr": "attack success",
    "n_benign": "harmless prompts",
    "n_facts": "questions of fact",
    "compliance": "complies",
    "refusal": "refuses",
    "degenerate": "degenerate answers",
    "answered": "answers harmless ones",
    "facts": "facts right",
    "empty": "empty answers",
    "successes": "counted",
    "control_successes": "counted under the control",
    "reward_clean": "reward when asked",
    "reward_attacked": "reward under the attack",
    "eps": "bound of a coordinate",
    "eps_over_rms": "bound over the state's root mean square",
    "incoherent": "incoherent answers",
    "control_incoherent": "incoherent answers under the control",
    "beyond_language": "beyond the model's language",
    "reward_fell": "reward fell",
    "reward_drop": "drop of reward where it fell",
    "l2": "length of the push (L2)",
    "linf": "largest coordinate of the push",
    "nll_first": "loss before",
    "nll_last": "loss after",
    "fell": "share of prompts whose loss fell",
    "at_bound": "share of coordinates at the bound",
    "aggregated": "in the aggregates",
    "template_sha256": "hash of the chat template",
    "loss": "training loss",
    "gradient_norm": "norm of the gradient",
    "kl": "KL from base",
    "log_odds": "log-odds of a refusing first token",
    "bypass": "bypass of the refusing first token",
    "of_base": "of base's",
    "unsafe": "Unsafe",
    "jailbreak": "Jailbreak",
    "ras": "RAS",
    "ras_in_sample": "RAS in sample",
    "ras_loo": "RAS, left out",
    "ras_prompts": "RAS, prompts alone resampled",
    "auroc": "AUROC",
    "probe_auroc": "probe AUROC",
    "probe_gap": "probe gap",
    "asr_wrapped": "attack success in a wrapper",
    "latent_asr": "success of the latent attack",
    "random_latent_asr": "success of noise, latent attack",
    "l2_asr": "success of the L2 attack",
    "l2_random": "success of a random direction",
    "gcg_asr": "success of the discrete attack",
    "jailbreak_asr": "complies in a wrapper",
    "clean_compliance": "complies when asked",
    "clean_refusal": "refuses when asked",
    "clean_degenerate": "degenerate answers when asked",
    "nudged_compliance": "complies under the nudge",
    "nudged_refusal": "refuses under the nudge",
    "steer_compliance": "complies when steered",
    "cone_compliance": "complies within the cone",
    "patch_compliance": "complies when patched",
    "patch_coherence": "coherent when patched",
    "benign_answer_rate": "answers harmless prompts",
    "over_refusal": "refuses harmless prompts that look harmful",
    "proxy": "judge-free proxy",
    "s": "score s",
}
# Column -> what its numbers are counted in, behind its title; shares are told in percent or by their counts.
UNITS = {
    **dict.fromkeys(("nll_first", "nll_last", "loss"), "nats per token"),
    **dict.fromkeys(("kl", "log_odds", "proxy", "proxy_clean", "proxy_nudged"), "nats"),
    **dict.fromkeys(("clean_log_odds", "nudged_log_odds"), "nats"),
    **dict.fromkeys(("eps", "l2", "linf"), "in the state's units"),
    **dict.fromkeys(("reward_clean", "reward_attacked"), "higher is safer"),
    **dict.fromkeys(("ras", "ras_in_sample", "ras_loo", "ras_prompts"), "0 to 100"),
    "budget": "relative",
    "separation": "standard deviations",
}
# Columns whose cells are names of this project too: their own titles come before those above.
NAMED_CELLS = {
    "measure": {},
    "attack": {"pgd": "PGD", "random": "uniform noise", "random_l2": "noise of the same L2 length"},
    "exp": {"clean": "harmful requests, asked", "clean-benign": "harmless requests, asked", "lvs": "latent attack"},
}
# The first of these that is there owns columns called lo and hi.
WITH_BARE_ENDS = ("value", "difference", "share", "mean", "median")
# A share of prompts -> the column of its count, a whole number as it was counted, and the column of their number.
COUNTS = {
    "value": ("successes", "n"),
    "control": ("control_successes", "n"),
    "asr": ("asr_count", "n"),
    "reward_fell": ("reward_fell_count", "lvs_n"),
    "compliance": ("compliance_count", "n"),
    "refusal": ("refusal_count", "n"),
    "empty": ("empty_count", "n"),
    "answered": ("answered_count", "n_benign"),
    "facts": ("facts_count", "n_facts"),
}


# Shares that are told in percent where no count stands beside them.
SHARES = frozenset(
    "asr asr_wrapped l2_asr l2_random latent_asr random_latent_asr compliance refusal empty degenerate answered facts "
    "fell at_bound nudged_compliance clean_compliance nudged_refusal clean_refusal incoherent control_incoherent "
    "reward_fell".split()
)
# Columns that are told as n/a where they are empty and another one is False.
APPLIES = dict.fromkeys(
    ("lvs", "lvs_mean", "lvs_median", "reward_fell", "reward_drop", "difference", "ratio"), "lvs_applicable"
)


class Readable(NamedTuple):
    """columns: (title, is numeric); rows: text of every cell; legend: title -> names of the CSV's columns.

    notes: what each column holds, in one line; exact: of every cell the number as it is, '' where the text has it all.
    """

    columns: list[tuple[str, bool]]
    rows: list[list[str]]
    legend: dict[str, str]
    notes: list[str]
    exact: list[list[str]]


def readable(table: pd.DataFrame) -> Readable:
    """A table for people: see the module. Columns `NAME_count` are taken for the counts of COUNTS and not shown."""
    names = [str(name) for name in table.columns]
    table = table.set_axis(names, axis="columns")
    ends = {name: pair for name in names if set(pair := (f"{name}_lo", f"{name}_hi")) <= set(names)}
    bare = next((name for name in WITH_BARE_ENDS if name in names and name not in ends), None)
    if bare and {"lo", "hi"} <= set(names):
        ends[bare] = ("lo", "hi")
    counts = {name: pair for name, pair in COUNTS.items() if name in names and set(pair) <= set(names)}
    hidden = {end for pair in ends.values() for end in pair} | {count for count, _ in counts.values()}
    # Where every share is told by its count, the number of prompts is told with it.
    hidden |= {n for name, (count, n) in counts.items() if not (table[name].notna() & table[count].isna()).any()}
    hidden |= {flag for name, flag in APPLIES.items() if name in names}
    shown = [name for name in names if name not in hidden]
    legend = {}
    for name in shown:
        listed = [name, *ends.get(name, ())]
        if _head(name, ends) != name:
            legend[_head(name, ends)] = ", ".join(listed)
    cells = [_column(table, name, ends.get(name), counts.get(name), legend) for name in shown]
    columns = [(_head(name, ends), _is_numeric(table[name])) for name in shown]
    notes = [column_table.COLUMNS[name].what if name in column_table.COLUMNS else "" for name in shown]
    exact = [list(map(_exact, table[name], texts)) for name, texts in zip(shown, cells, strict=True)]
    rows, precise = ([list(row) for row in zip(*kept, strict=True)] for kept in (cells, exact))
    return Readable(columns, rows, legend, notes, precise)


def in_text(table: pd.DataFrame) -> str:
    """A table for a terminal: the same titles and cells as on the page, without a legend."""
    found = readable(table)
    heads = [head for head, _ in found.columns]
    widths = [max(map(len, column)) for column in zip(heads, *found.rows, strict=True)]
    kinds = [numeric for _, numeric in found.columns]
    lines = (
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, kinds, strict=True)
        )
        for row in (heads, *found.rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def title(name: str) -> str:
    """What a column, or a measure, is called where people read it; foreign text comes out printable."""
    return TITLES.get(name) or text.printable(name).replace("_", " ").strip()


def cell(value: Any) -> str:
    """A value as text: missing as a dash, floats to three digits, booleans as yes and no, foreign text printable."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isinf(value):
            return "\u221e" if value > 0 else "\u2212\u221e"
        return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value)
    return text.printable(str(value))


def _head(name: str, ends: Mapping) -> str:
    said = [*([UNITS[name]] if name in UNITS else []), *(["95 % interval"] if name in ends else [])]
    return title(name) + (f" ({', '.join(said)})" if said else "")


def _column(
    table: pd.DataFrame, name: str, ends: tuple | None, count: tuple | None, legend: dict[str, str]
) -> list[str]:
    if name in NAMED_CELLS:
        return [_named(value, NAMED_CELLS[name], legend) for value in table[name]]
    others = [*(ends or ()), *(count or ())]
    rows = zip(table[name], *(table[other] for other in others), strict=True)
    split = len(ends or ())
    cells = [_valued(value, rest[:split], rest[split:], name in SHARES) for value, *rest in rows]
    if APPLIES.get(name) not in table:
        return cells
    unknown = table[name].isna() & (table[APPLIES[name]] == 0)
    return ["n/a" if is_unknown else text for is_unknown, text in zip(unknown, cells, strict=True)]


def _named(value: Any, own: Mapping[str, str], legend: dict) -> str:
    if not isinstance(value, str):
        return cell(value)
    shown = own.get(value) or title(value)
    if shown != value:
        legend[shown] = value
    return shown


def _valued(value: Any, ends: list, count: list, is_share: bool) -> str:
    """One value with its interval; by its count where there is one."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return cell(None)
    known = len(ends) == 2 and not any(pd.isna(end) for end in ends)
    if count and not any(pd.isna(number) for number in count):
        return counted(int(count[0]), int(count[1]), *(map(float, ends) if known else ()))
    if is_share and isinstance(value, int | float | np.number) and not isinstance(value, bool):
        share = percent(float(value))
        return f"{share} ({interval(*map(float, ends))})" if known else share
    return f"{cell(value)} ({cell(ends[0])} to {cell(ends[1])})" if known else cell(value)


def _exact(value: Any, shown: str) -> str:
    """The number that a cell's text is of, to six digits; '' for no number and where the text is that number."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number) or pd.isna(value):
        return ""
    exact = f"{value:.6g}"
    return "" if exact == shown else exact


def _is_numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
