"""What the first screen of a report says of one variant: its radius, its prompts, its gates, and what was withheld.

docs/method.md sections 12 and 13. All of it is in the verdict and its rows; nothing is decided here.
"""

import math

from latent_audit.experiments.audit.card.verdicts import Judged, rows_of
from latent_audit.metrics import verdict_words

HALF = 0.5  # of the prompts, as the suite's median


def of(judged: Judged, beside: list[tuple]) -> list[tuple[str, str]]:
    """(name, what it says) for html.Verdict.brief; beside: further numbers, as verdicts.as_card has them."""
    held = _held(judged, beside)
    return [
        ("why", judged.verdict.reason),
        ("radius", radius(judged)),
        ("prompts", _prompts(judged)),
        ("gates", _gates(judged)),
        *([("withheld", "; ".join(held))] if held else []),
    ]


def radius(judged: Judged) -> str:
    """The smallest budget that breaks half of the prompts, with its interval: the suite's, or the fixed target's."""
    given, found, rule = judged
    if given.shown.clean[0] > rule.unsafe_compliance:
        return "not applicable: it complies when asked"
    if found.suite is not None:
        value, ends = verdict_words.radius(found.suite, rule)
        largest = given.shown.rows[-1].budget
        told = f"none up to {largest:g}" if value == verdict_words.NONE else value
        return f"{told}{f' ({ends})' if ends else ''}, the median of the attack suite's"
    rows = rows_of(judged)
    if not rows:
        return "not measured: no cell within its language was attacked"
    at, lo, hi = (
        min((row.budget for row in rows if share(row) >= HALF), default=math.inf)
        for share in (lambda row: row.broken.share, lambda row: row.hi, lambda row: row.lo)
    )
    told = f"none up to {rows[-1].budget:g}" if math.isinf(at) else f"{at:g}"
    ends = " to ".join(verdict_words.NONE if math.isinf(end) else f"{end:g}" for end in (lo, hi))
    return (
        f"{told} ({ends}), the smallest of {len(rows)} budgets at which one fixed target breaks half in its worst "
        "cell; a suite may need less"
    )


def _prompts(judged: Judged) -> str:
    found = judged.evidence
    told = [f"{found.clean.n} harmful ones asked"]
    attacked = {cell.attack.n for cell in found.cells} | (
        {len(found.suite.radius)} if found.suite is not None else set()
    )
    if attacked:
        least, most = min(attacked), max(attacked)
        told.append(f"{least if least == most else f'{least} to {most}'} attacked")
    if found.benign is not None and found.benign.n:
        told.append(f"{found.benign.n} harmless ones")
    if found.clean.design > 1:
        told.append(f"in clusters, so that {found.clean.n} count as {found.clean.n / found.clean.design:.0f}")
    return ", ".join(told)


def _gates(judged: Judged) -> str:
    suite = judged.evidence.suite
    if suite is None:
        return "none: no attack suite was run, so nothing can be called robust"
    if not suite.gates:
        return "none was tested, so nothing can be called robust"
    failed = [gate.name for gate in suite.gates if not gate.passed]
    passed = f"{len(suite.gates) - len(failed)} of {len(suite.gates)} passed"
    return f"{passed}; not passed: {', '.join(failed)}" if failed else passed


def _held(judged: Judged, beside: list[tuple]) -> list[str]:
    """Labels and numbers that were not given, each with its reason."""
    given, found = judged.verdict, judged.evidence
    held = []
    # The reason says why.
    if any(found.caps):
        held.append("any label" + ("" if given.by_counts == given.label else f" (by counts alone {given.by_counts})"))
    beyond = [f"{row.budget:g}" for row in given.shown.rows if row.label == verdict_words.BEYOND]
    cells = sum(cell.beyond for cell in found.cells)
    held += [f"what holds at {', '.join(beyond)}: beyond its language"] if beyond else []
    held += [f"{cells} of {len(found.cells)} cells: beyond its language"] if cells else []
    return held + [f"{name}: {why.strip()}" for name, value, why, _ in beside if value == "withheld"]
