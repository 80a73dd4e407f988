"""What a run is going to take, before it: counts, bytes, a range of minutes from a short measurement of the machine.

A task's `outlook(config, plan, workdir)` gives what it computes; here that becomes the lines of --dry-run and the parts
that the time left is told from. docs/overview.md; nothing of it is a result.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.experiments.forecast import amounts, rates
from latent_audit.experiments.forecast.amounts import Rates, Work
from latent_audit.models import batching, sizes
from latent_audit.models.config import ModelConfig
from latent_audit.runtime.telling import forecast
from latent_audit.runtime.telling.forecast import Part

# Operations per second where nothing is measured: only to tell a run of seconds from one of minutes, by which a run
# decides whether measuring is worth its own time.
ASSUMED = {"cpu": 2e10, "gpu": 5e13, "tpu": 5e13}
WORTH_MEASURING = 60.0
# Bytes per second at which weights come from a disk; programs that a run compiles, each about as long as a measured
# one; ours.
READ_BYTES, PROGRAMS = 3e8, 12
# Seconds of a unit beside what it computes: handing arrays over, judging by rules, writing it down. Of units of an
# abliteration on two cores, which compute little; ours.
UNIT_SECONDS = 0.05
_MEGA, _GIGA = 1e6, 1e9


class Outlook(NamedTuple):
    """What one task computes on models of one shape.

    rows: prompts searched together, each under `budgets` budgets; columns: of a prompt; answered: rows decoded
    together; new_tokens: the longest answer; models: how many are read, one at a time; programs: how many are compiled,
    about; notes: counts of a task's own, in words.
    """

    cfg: ModelConfig
    dtype: str
    rows: int
    budgets: int
    columns: int
    answered: int
    new_tokens: int
    works: tuple[Work, ...]
    models: int = 1
    programs: int = PROGRAMS
    notes: tuple[str, ...] = ()


# Meters that count units which a stopped run keeps.
UNITS = ("units", "evaluations", "models", "members")


# Of a task that runs others: label of each in its own meter -> what it computes.
Series = dict[str, Outlook]


def parts_of(outlook: Outlook | Series | None, *, always: bool = False) -> list[Part]:
    """What the time left is told from, at rates that are measured where the run takes a while, or `always`."""
    if not outlook:
        return []
    if isinstance(outlook, dict):
        return [_together(label, parts_of(one, always=always)) for label, one in outlook.items()]
    own = assumed(outlook.cfg, outlook.columns)
    likely = sum(part.likely for part in _parts(outlook, own))
    return _parts(outlook, measured(outlook) if always or likely > WORTH_MEASURING else own)


def without_training(outlook: Outlook) -> Outlook:
    """The same where what has to be trained first is there already."""
    return outlook._replace(works=tuple(work for work in outlook.works if work.key.split(" ")[0] in UNITS))


def measured(outlook: Outlook) -> Rates:
    """Rates of this machine at the outlook's shapes; once for each in a process."""
    shape = (getattr(outlook, name) for name in ("cfg", "dtype", "rows", "budgets", "columns", "answered"))
    return _measured(*shape, any(work.amount.weights for work in outlook.works))


@functools.lru_cache(maxsize=8)
def _measured(
    cfg: ModelConfig, dtype: str, rows: int, budgets: int, columns: int, answered: int, trains: bool
) -> Rates:
    return rates.measure(cfg, dtype, rows=rows, budgets=budgets, columns=columns, answered=answered, trains=trains)


def assumed(cfg: ModelConfig, columns: int) -> Rates:
    """Rates of a machine that nothing is known of, from operations alone."""
    per_operation = 1 / ASSUMED.get(jax.default_backend(), ASSUMED["cpu"])
    block = sizes.block_operations(cfg, columns) * per_operation
    decoded = cfg.num_layers * block + sizes.head_operations(cfg) * per_operation
    return Rates(block, block, block, 3 * decoded, 2e9 * per_operation)


def _parts(outlook: Outlook, own: Rates) -> list[Part]:
    """One Part of every key, in the order in which keys first come."""
    found: dict[str, Part] = {}
    for work in outlook.works:
        seconds = amounts.seconds(work.amount, own)
        before = found.get(work.key, Part(work.key, _kind_of(work.key), work.units, 0.0, 0.0, 0.0))
        found[work.key] = before._replace(
            least=before.least + work.least * seconds,
            likely=before.likely + work.likely * seconds,
            most=before.most + seconds,
        )
    return [_with_units(part) for part in found.values()]


def _with_units(part: Part) -> Part:
    """With what its units take beside what they compute."""
    more = UNIT_SECONDS * part.units if part.key.split(" ")[0] in UNITS else 0.0
    return part._replace(least=part.least + more, likely=part.likely + more, most=part.most + more)


def _kind_of(key: str) -> str:
    """Parts that err alike: of all variants and layers the same experiment; "units base/lvs/L3/" -> "lvs"."""
    if not key.startswith("units ") or "/" not in key:
        return key
    pieces = key.split("/")[1:]
    # What the suite's gates read is counted well, how many rounds it takes is not.
    return "/".join(pieces[: 2 if pieces[0] == "suite" else 1])


def _together(label: str, parts: Sequence[Part]) -> Part:
    spans = [sum(getattr(part, name) for part in parts) for name in ("least", "likely", "most")]
    return Part(label, "run", 1, *spans)


def in_words(outlook: Outlook | Series) -> list[str]:
    """Lines of --dry-run: what is computed, in which memory, and how long it takes here. Measures the machine."""
    if isinstance(outlook, dict):
        every = list(outlook.values())
        first = f"{len(every)} runs, one after the other; the first of them:" if len(every) > 1 else "in one run:"
        lines = [first, *_counted(every[0])]
        return [*lines, "all of them: " + _minutes(parts_of(outlook, always=True), every)]
    return [*_counted(outlook), _minutes(parts_of(outlook, always=True), [outlook])]


def _counted(outlook: Outlook) -> list[str]:
    cfg, whole = outlook.cfg, amounts.total([work.amount for work in outlook.works])
    weights, columns = sizes.weight_bytes(cfg, outlook.dtype), outlook.columns + outlook.new_tokens
    cache = outlook.answered * batching.cache_bytes(cfg, columns, jnp.dtype(outlook.dtype))
    search = sizes.search_bytes(cfg, outlook.rows * outlook.budgets, outlook.columns, outlook.dtype)
    return [
        f"{outlook.models} of {sizes.parameters(cfg):,} parameters, one at a time: {weights / _GIGA:.2f} GB of weights "
        f"in {outlook.dtype}",
        f"memory, beside the weights and at most: {cache / _GIGA:.2f} GB of keys and values ({outlook.answered:,} "
        f"answers at once), or about {search / _GIGA:.2f} GB of a search ({outlook.rows} prompts x {outlook.budgets} "
        "budgets)",
        f"{_units(outlook.works):,} units of work; at most {_count(whole.passes)} tokens through a block forward, "
        f"{_count(whole.backward)} backward, {_count(whole.decoded)} tokens answered; "
        f"{amounts.operations(whole, cfg, outlook.columns):.2g} FLOPs",
        *outlook.notes,
    ]


def _units(works: Sequence[Work]) -> int:
    """Without the steps of trainings, which are no units."""
    return sum({work.key: work.units for work in works if work.key.split(" ")[0] in UNITS}.values())


def _count(number: float) -> str:
    return f"{number / _MEGA:.3g} million" if number >= _MEGA else f"{number:.0f}"


def _minutes(parts: list[Part], outlooks: Sequence[Outlook]) -> str:
    """The range, compiling and reading weights included; both are said."""
    least, most = forecast.span(parts)
    compiling = sum(one.programs * measured(one).compiling for one in outlooks)
    reading = sum(one.models * sizes.weight_bytes(one.cfg, one.dtype) for one in outlooks) / READ_BYTES
    low, high = least + 0.3 * reading, most + 1.5 * compiling + reading
    return (
        f"on this machine about {forecast.in_words(low)} to {forecast.in_words(high)} (at most "
        f"{forecast.in_words(1.5 * compiling)} of it compiling, which a filled cache saves)"
    )
