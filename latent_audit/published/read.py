"""Published per-layer CSVs of arXiv 2606.08044, and the tables of a finished run, as rows of one long table.

Three shapes are known, by their columns: the metrics table (latent attack and steering), the random control of
steering, and curves of harmful fine-tuning. docs/method.md section 11.
"""

import io
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from latent_audit import user_files
from latent_audit.errors import InputError
from latent_audit.metrics import stats

# The first columns of a published metrics table, and of metrics.csv here, which has no `frac`: that is of steering.
METRICS = tuple("arch variant exp layer layer_idx budget attack lvs lvs_lo lvs_hi asr compliance".split())
FRACTION = "frac"
STEER_RANDOM = tuple("arch variant layer layer_idx frac compliance attack".split())
TRAJECTORY = tuple("step compliance refusal empty".split())
AUTHORS = "numbers published by the authors of arXiv 2606.08044 under MIT"
# arXiv 2606.08044: prompts 0 to 23 of HarmBench standard in every cell and under steering, a panel of 60 in a curve.
PAPER_PROMPTS, PAPER_PANEL = 24, 60
# Its corpora as curves.csv calls them: the construction's prompts are LLM-LAT's, so PKU's are out of distribution.
CORPORA = {"llm-lat": "in", "pku": "out"}
VARIANTS = ("base", "dissociated", "harmful")
KEY = ("arch", "variant", "measure", "layer", "state", "budget", "corpus", "step")
NUMBERS = ("value", "lo", "hi", "n", "successes", "control", "control_lo", "control_hi", "control_successes")
# Shares of prompts; lvs is the fourth measure.
SHARES = ("latent_asr", "steer_compliance", "tuned_compliance")
# A published share has four digits, a computed one sixteen.
_ROUNDING = 1.5e-4
_MOST_BYTES = 2**26
_CURVE = re.compile(r"trajectory(?:_s(\d+))?\.csv")


class Source(NamedTuple):
    """name: whose numbers they are, in words; rows: KEY and NUMBERS, one line per cell, noise as its control; curves:
    one line each, with steps and compliance as lists; files: what was read; left: what a directory held beside it."""

    name: str
    rows: pd.DataFrame
    curves: pd.DataFrame
    files: tuple[str, ...]
    left: tuple[str, ...]


def published(path: str | pathlib.Path) -> Source:
    """A published CSV, or all those of a directory and below; InputError for none that is there or known."""
    place = user_files.path_of("CSV_OR_DIR", path)
    if not place.exists():
        raise InputError(
            f"CSV_OR_DIR = {str(path)!r}: no such file or directory; give the published CSV, or its folder"
        )
    found = sorted(place.rglob("*.csv")) if place.is_dir() else [place]
    if not found:
        raise InputError(f"CSV_OR_DIR = {str(path)!r} holds no CSV; give the published CSV, or its folder")
    tables = {file: _table("CSV_OR_DIR", file) for file in found}
    kinds = {file: _kind(table) for file, table in tables.items()}
    if not any(kinds.values()):
        raise InputError(
            f"CSV_OR_DIR = {str(path)!r}: columns are {', '.join(next(iter(tables.values())).columns)[:200]}, "
            f"expected those of metrics.csv ({', '.join(METRICS)}), or {', '.join(TRAJECTORY)} of a curve"
        )
    of_kind = {kind: [file for file in found if kinds[file] == kind] for kind in ("metrics", "random", "curve")}
    noise = [_steered(tables[file], file) for file in of_kind["random"]]
    parts = [_cells(tables[file], file, noise) for file in of_kind["metrics"]]
    curves = pd.DataFrame([_curve(tables[file], file) for file in of_kind["curve"]])
    rows = pd.concat([*parts, _tuned(curves)], ignore_index=True) if parts or len(curves) else _tuned(curves)
    if rows.empty:
        raise InputError(f"CSV_OR_DIR = {str(path)!r} holds no row of the latent attack, steering or a curve")
    left = tuple(_below(file, place) for file in found if not kinds[file])
    # Only a table of this program says how many prompts it is of.
    ours = any("n" in tables[file].columns for file in of_kind["metrics"])
    used = tuple(_below(file, place) for file in found if kinds[file])
    return Source(f"numbers of {place.name}" if ours else AUTHORS, _ordered(rows), curves, used, left)


def run(workdir: str | pathlib.Path) -> Source:
    """The tables of a finished run: metrics.csv, steering of audit.csv, curves.csv; InputError where none is there."""
    place = user_files.path_of("WORKDIR", workdir)
    if not place.is_dir():
        raise InputError(f"WORKDIR = {str(workdir)!r} is no directory; give that of a finished run")
    files = [name for name in ("metrics.csv", "audit.csv", "curves.csv") if (place / name).is_file()]
    if not files:
        raise InputError(f"WORKDIR = {str(workdir)!r} holds no metrics.csv, audit.csv or curves.csv of a finished run")
    parts, curves = [], pd.DataFrame()
    for name in files:
        table = _table("WORKDIR", place / name)
        if name == "metrics.csv":
            _need(table, METRICS, place / name)
            parts.append(_cells(table, place / name, []))
        elif name == "audit.csv":
            _need(table, ("arch", "variant", "measure", "layer", "budget", "value", "control", "n"), place / name)
            parts.append(_audited(table, place / name))
        else:
            _need(table, ("arch", "variant", "corpus", "seed", "step", "compliance", "n"), place / name)
            curves = pd.DataFrame(
                [
                    _one_curve(one, place / name, *key, n=int(one["n"].iloc[0]))
                    for key, one in table.groupby(["arch", "variant", "corpus", "seed"], sort=False)
                ]
            )
    rows = pd.concat([part for part in (*parts, _tuned(curves)) if len(part)] or [_tuned(curves)], ignore_index=True)
    if rows.empty:
        raise InputError(f"WORKDIR = {str(workdir)!r} holds no cell of the latent attack, of steering or of a curve")
    return Source(str(rows["arch"].iloc[0]), _ordered(rows), curves, tuple(files), ())


def _table(field: str, path: pathlib.Path) -> pd.DataFrame:
    text = user_files.read_text(field, path, most=_MOST_BYTES)
    try:
        return pd.read_csv(io.StringIO(text), dtype={"layer_idx": str, "layer": str})
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(
            f"{field} = {str(path)!r} is no CSV that can be read: {' '.join(str(error).split())[:200]}"
        ) from error


def _kind(table: pd.DataFrame) -> str:
    columns = tuple(table.columns)
    if tuple(name for name in columns if name != FRACTION)[: len(METRICS)] == METRICS:
        return "metrics"
    return {STEER_RANDOM: "random", TRAJECTORY: "curve"}.get(columns, "")


def _need(table: pd.DataFrame, columns: Sequence[str], path: pathlib.Path) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(
            f"WORKDIR: {str(path)!r} lacks the columns {', '.join(missing)}; was it written by another program?"
        )


def _numbers(table: pd.DataFrame, columns: Sequence[str], path: pathlib.Path, least: float = 0.0) -> pd.DataFrame:
    """The columns as float64; InputError for what is no finite number of at least `least`."""
    found = table.copy()
    for name in columns:
        values = pd.to_numeric(table[name], errors="coerce").astype(float)
        bad = ~np.isfinite(values) | (values < least)
        if bad.any():
            line = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{str(path)!r}: {name} = {table[name].iloc[line]!r} in row {int(table.index[line]) + 2}, expected a "
                f"number of at least {least:g}"
            )
        found[name] = values
    return found


def _counts(shares: pd.Series, n: pd.Series, name: str, path: pathlib.Path) -> pd.Series:
    """Shares of n prompts as the counts that they were; InputError for one that is no count of n."""
    counts = (shares * n).round()
    bad = (shares > 1) | ((counts / n - shares).abs() > _ROUNDING)
    if bad.any():
        line = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{str(path)!r}: {name} = {shares.iloc[line]:g} in row {int(shares.index[line]) + 2} is no share of "
            f"{n.iloc[line]:g} prompts; a table of another number of prompts needs a column n"
        )
    return counts.astype(int)


def _prompts(table: pd.DataFrame, number: int) -> pd.Series:
    return table["n"] if "n" in table.columns else pd.Series(float(number), index=table.index)


def _with_shares(table: pd.DataFrame, column: str, path: pathlib.Path, number: int, prefix: str = "") -> pd.DataFrame:
    """value, lo, hi, successes and n of a share, by the exact interval."""
    table = _numbers(table, [column, *(["n"] if "n" in table.columns else [])], path)
    n = _prompts(table, number)
    successes = _counts(table[column], n, column, path)
    ends = [stats.clopper_pearson(int(k), int(of)) for k, of in zip(successes, n, strict=True)]
    lo, hi = zip(*ends, strict=True) if ends else ((), ())
    names = (
        ("value", "lo", "hi", "successes")
        if not prefix
        else (prefix, f"{prefix}_lo", f"{prefix}_hi", f"{prefix}_successes")
    )
    found = table.assign(**dict(zip(names, (successes / n, lo, hi, successes), strict=True)))
    return found if prefix else found.assign(n=n)


def _states(table: pd.DataFrame, path: pathlib.Path) -> pd.DataFrame:
    """With `layer` and `state`, 0 for the embedding; InputError for a layer_idx that is neither.

    Published tables call the embedding `embedding` here, metrics.csv -1.
    """
    indices = table["layer_idx"].astype(str).str.removesuffix(".0").replace("embedding", "-1")
    bad = ~indices.str.fullmatch(r"-1|\d{1,4}")
    if bad.any():
        raise InputError(
            f"{str(path)!r}: layer_idx = {indices[bad].iloc[0]!r}, expected a block's number, -1 or embedding"
        )
    state = indices.astype(int) + 1
    return table.assign(state=state, layer=state.map(layer_of))


def layer_of(state: int) -> str:
    """Name of a residual state: embedding, L0, L1, ...

    >>> layer_of(0), layer_of(3)
    ('embedding', 'L2')
    """
    return "embedding" if state == 0 else f"L{state - 1}"


def _cells(table: pd.DataFrame, path: pathlib.Path, noise: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows lvs, latent_asr and steer_compliance of one metrics table; noise: random controls of steering."""
    attacked = _states(_numbers(table[table["exp"] == "lvs"], ["budget"], path), path)
    shared = _with_shares(attacked, "asr", path, PAPER_PROMPTS)
    # Ours leaves a score empty where the model complies anyway.
    scored = _numbers(shared[shared["lvs"].notna()], ["lvs", "lvs_lo", "lvs_hi"], path)
    bare = scored.assign(value=scored["lvs"], lo=scored["lvs_lo"], hi=scored["lvs_hi"], successes=np.nan)
    steered = table[table["exp"] == "steering"]
    if len(steered) and FRACTION not in table.columns:
        raise InputError(f"{str(path)!r} has rows of steering and no column {FRACTION}: how far was it steered?")
    parts = [
        _with_control(bare, "lvs"),
        _with_control(shared, "latent_asr"),
        *([_beside_noise(_steered(steered, path), noise)] if len(steered) else []),
    ]
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _with_control(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    keys = ["arch", "variant", "layer", "state", "budget"]
    pushed, noise = rows[rows["attack"] == "pgd"], rows[rows["attack"] == "random"]
    for one in (pushed, noise):
        _check_single(one.assign(measure=measure), keys)
    beside = noise[[*keys, "value", "lo", "hi", "successes"]].rename(
        columns={"value": "control", "lo": "control_lo", "hi": "control_hi", "successes": "control_successes"}
    )
    return pushed.merge(beside, on=keys, how="left", validate="many_to_one").assign(measure=measure)


def _steered(table: pd.DataFrame, path: pathlib.Path) -> pd.DataFrame:
    found = _with_shares(_states(_numbers(table, [FRACTION], path), path), "compliance", path, PAPER_PROMPTS)
    return found.assign(budget=found[FRACTION], measure="steer_compliance")


def _beside_noise(steered: pd.DataFrame, noise: Sequence[pd.DataFrame]) -> pd.DataFrame:
    rows = pd.concat([steered.assign(attack="pgd"), *(one.assign(attack="random") for one in noise)], ignore_index=True)
    return _with_control(rows, "steer_compliance")


def _audited(table: pd.DataFrame, path: pathlib.Path) -> pd.DataFrame:
    """Steering rows of audit.csv, along the direction that the paper steers along: from base to the harmful pole."""
    rows = table[(table["measure"] == "steer_compliance") & (table.get("detail") == "twin direction")]
    if rows.empty:
        return pd.DataFrame(columns=[*KEY, *NUMBERS])
    rows = rows.assign(layer_idx=rows["layer"].str.removeprefix("L"))
    rows = _states(_numbers(rows, ["budget", "value", "control", "n"], path), path)
    return _with_shares(_with_shares(rows, "control", path, 0, "control"), "value", path, 0)


def _curve(table: pd.DataFrame, path: pathlib.Path) -> dict:
    """One published curve: ARCH-VARIANT-CORPUS is its folder, the seed is in its name."""
    folder, named = path.resolve().parent.name, _CURVE.fullmatch(path.name)
    parts = next((folder.partition(f"-{variant}-") for variant in VARIANTS if f"-{variant}-" in folder), None)
    if parts is None or named is None:
        raise InputError(f"{str(path)!r}: expected ARCH-VARIANT-CORPUS/trajectory.csv or trajectory_sN.csv of a curve")
    corpus = CORPORA.get(parts[2], parts[2])
    return _one_curve(table, path, parts[0], parts[1].strip("-"), corpus, int(named[1] or 0), n=PAPER_PANEL)


def _one_curve(table, path, arch: str, variant: str, corpus: str, seed: int, *, n: int) -> dict:  # type: ignore[no-untyped-def]
    table = _numbers(table, ["step", "compliance"], path).sort_values("step")
    if table["step"].duplicated().any() or table.empty:
        raise InputError(f"{str(path)!r}: expected a curve of one row a step, got {len(table)} rows")
    shares = _with_shares(table.drop(columns="n", errors="ignore"), "compliance", path, n)
    kept = {name: shares[name].tolist() for name in ("step", "value", "lo", "hi")}
    return {"arch": arch, "variant": variant, "corpus": corpus, "seed": seed, "n": n, **kept}


def _tuned(curves: pd.DataFrame) -> pd.DataFrame:
    """Curves over seeds, one row a step: the mean, from the lowest end of a seed's interval to the highest."""
    if curves.empty:
        return pd.DataFrame(columns=[*KEY, *NUMBERS])
    steps = curves.explode(["step", "value", "lo", "hi"]).astype(
        {"step": float, "value": float, "lo": float, "hi": float}
    )
    grouped = steps.groupby(["arch", "variant", "corpus", "step"], sort=False)
    return (
        grouped.agg(value=("value", "mean"), lo=("lo", "min"), hi=("hi", "max"), n=("n", "sum"))
        .reset_index()
        .assign(measure="tuned_compliance")
    )


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.reindex(columns=[*KEY, *NUMBERS])
    # A curve has no layer, a cell no corpus; numbers that are not there stay NaN.
    rows = rows.assign(
        **{name: rows[name].astype(object).where(rows[name].notna(), "") for name in ("layer", "corpus")}
    )
    rows = rows.astype({name: float for name in ("state", "budget", "step", *NUMBERS)})
    _check_single(rows, list(KEY))
    return rows


def _check_single(rows: pd.DataFrame, keys: list[str]) -> None:
    doubled = rows[rows.duplicated(keys)]
    if len(doubled):
        one = doubled.iloc[0]
        raise InputError(
            f"two rows of {one['arch']} {one['variant']}, {one['measure']} at {one['layer']}, budget {one['budget']}: "
            "the files overlap, give one of them"
        )


def _below(file: pathlib.Path, place: pathlib.Path) -> str:
    return file.relative_to(place).as_posix() if place.is_dir() else file.name
